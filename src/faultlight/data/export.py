"""Laying a data set out as class folders of PNG files."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from faultlight.data.images import Images
from faultlight.data.load import find_source, load_data
from faultlight.data.source import Request
from faultlight.errors import InputError
from faultlight.progress import Progress

# What some file system gives a meaning to; "%" too, so that spelling out can be undone. A leading dot hides a folder.
_RESERVED = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*%]|^\.|[. ]$')


@dataclass(frozen=True)
class Exported:
    """What was written: the number of images, and the largest change of a pixel by rounding to 8 bits."""

    images: int
    rounding: float


def export(name: str, destination: Path, *, n: int | None = None, **options: Any) -> Exported:
    """Write DESTINATION/SPLIT/CLASS/ID.png for every split of a set; loading that folder gives the set again.

    All is written beside its place first and renamed into it, so the folder appears when it is complete.

    Args:
        name: a set's name or a path, as for `load_data`.
        destination: the folder to make; must not exist.
        n: write only the first n images of each split.
        options: `folder`, `skip_bad`, `resize` and `split_seed`, as for `load_data`.

    Raises:
        InputError: the folder exists or cannot be written, or the images have neither 1 nor 3 channels.
    """
    if destination.exists():
        raise InputError(f"{str(destination)!r} is there already and is not written over; choose a new folder.")
    splits = find_source(name).splits(Request(name, **options))
    partial = destination.with_name(f".{destination.name}.part")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        done = [_write(load_data(name, split, n, **options), partial / split) for split in splits]
        partial.rename(destination)
    except OSError as error:
        raise InputError(
            f"{str(destination)!r} could not be written: {error.strerror}; choose another folder."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Exported(sum(each.images for each in done), max(each.rounding for each in done))


def folder_name(name: str) -> str:
    """Return a class's name as the name of a folder: characters that a file system reserves become %XX."""
    spelled = _RESERVED.sub(lambda found: f"%{ord(found.group()):02X}", name)
    return spelled or "%"


def _write(images: Images, folder: Path) -> Exported:
    if images.x.shape[1] not in (1, 3):
        raise InputError(f"{images.name!r} has {images.x.shape[1]} channels; PNG files hold 1 or 3.")
    folders = [folder / folder_name(name) for name in images.classes]
    for each in folders:
        each.mkdir(parents=True)
    values = images.x.mul(255).round_()
    rounding = float((images.x - values / 255).abs().max())
    pixels = values.to(torch.uint8).permute(0, 2, 3, 1).numpy()
    width = max(5, len(str(int(images.ids.max()))))
    with Progress(f"writing {images.split}", len(images), quiet=len(images) < 2_000) as progress:
        for row, (label, position) in enumerate(zip(images.y.tolist(), images.ids.tolist(), strict=True)):
            _save(pixels[row], folders[label] / f"{position:0{width}d}.png")
            progress.update(row + 1)
    return Exported(len(images), rounding)


def _save(pixels: np.ndarray, path: Path) -> None:
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(path, "PNG")
