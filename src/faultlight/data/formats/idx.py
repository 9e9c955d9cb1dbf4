"""A folder of IDX files named as MNIST's are, such as Fashion-MNIST or one's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from faultlight.data.arrays import from_bytes, images_of
from faultlight.data.idx import IdxFile, find_idx, read_idx
from faultlight.data.images import Images
from faultlight.data.source import Published, Request
from faultlight.data.splits import positions, tenth
from faultlight.errors import InputError

_PARTS = {"train": "train", "validation": "train", "train+validation": "train", "test": "t10k"}


@dataclass(frozen=True)
class Idx:
    """A folder with train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images…, t10k-labels…, each plain or .gz.

    One in ten of the training images is validation, by seed. Classes are named 0, 1, 2, …
    """

    published: Published | None = field(default=None, init=False)

    def holds(self, path: Path) -> bool:
        """Return whether a folder holds the images of either part."""
        return any(find_idx(path, f"{part}-images-idx3-ubyte") for part in ("train", "t10k"))

    def splits(self, request: Request) -> tuple[str, ...]:
        """Return the splits whose files are there."""
        parts = {part for part in ("train", "t10k") if find_idx(Path(request.name), f"{part}-images-idx3-ubyte")}
        return tuple(split for split in ("train", "validation", "test") if _PARTS[split] in parts)

    def load(self, request: Request) -> Images:
        """Return a split; ids are positions in the training or the test file."""
        return load_idx(Path(request.name), request, held_out=None, known={})


def load_idx(folder: Path, request: Request, *, held_out: int | None, known: Mapping[str, str]) -> Images:
    """Load one split of a folder of IDX files.

    Args:
        folder: where the files are.
        request: which split, and by which seed.
        held_out: how many training images are validation; None for one in ten.
        known: the MD5 that a file's uncompressed content must have, by file name.

    Raises:
        InputError: a file is absent or damaged, counts differ, or the content is not the known one.
    """
    part = _PARTS[request.split]
    pixels = _file(folder, f"{part}-images-idx3-ubyte", 3, known).values
    labels = _file(folder, f"{part}-labels-idx1-ubyte", 1, known).values
    if len(pixels) != len(labels):
        raise InputError(
            f"{str(folder)!r} holds {len(pixels):,} {part} images but {len(labels):,} labels: expected as many labels "
            "as images; the files belong to different sets."
        )
    total = len(pixels)
    if part == "t10k":
        ids = np.arange(total, dtype=np.int64)
    else:
        ids = positions(request.split, total, None, tenth(total) if held_out is None else held_out, request.split_seed)
    classes = tuple(str(label) for label in range(max(10, int(labels.max(initial=0)) + 1)))
    return images_of(from_bytes(pixels[ids, None]), labels[ids], ids, classes, request)


def _file(folder: Path, stem: str, dimensions: int, known: Mapping[str, str]) -> IdxFile:
    path = find_idx(folder, stem)
    if path is None:
        raise InputError(f"{str(folder)!r} has no {stem} (plain or .gz), which this split needs.")
    content = read_idx(path, dimensions)
    expected = known.get(stem, content.md5)
    if content.md5 != expected:
        raise InputError(
            f"{str(path)!r} is not the published {stem}: expected the MD5 {expected} of its uncompressed content, "
            f"found {content.md5}; to use another set of this format, give its folder as the data."
        )
    return content
