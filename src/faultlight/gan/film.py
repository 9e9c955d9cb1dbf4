"""How drawings of the same latent points change while a generator learns: kept as bytes, shown as strip and film."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from numpy import ndarray
from PIL import Image
from torch import Tensor

from faultlight import files
from faultlight.gan.nets import Generator
from faultlight.gan.sample import draw_at, latent_points

# Images of a grid, eight by eight; so many of them make a row of the strip.
COUNT, SIDE, STRIP = 64, 8, 10
ARRAYS, STRIP_FILE, FILM_FILE = "arrays/film.safetensors", "film-strip.png", "film.png"
_PREFIX = "film/"
_GAP = 2
_MILLISECONDS, _LAST_MILLISECONDS = 200, 2000

Bytes = UInt8[Tensor, "n c h w"]
Picture = UInt8[ndarray, "height width colours"]


def frame_steps(steps: int, frames: int) -> tuple[int, ...]:
    """Return after which steps a frame is due: 0, the last, and between them at squares, for most happens early."""
    return tuple(sorted({round(steps * (i / (frames - 1)) ** 2) for i in range(frames)}))


def frame_key(step: int) -> str:
    """Return the name under which a frame is kept."""
    return f"{_PREFIX}{step:09d}"


def frame(generator: Generator, seed: int) -> Bytes:
    """Return drawings of the run's 64 fixed latent points."""
    return as_bytes(draw_at(generator, latent_points(COUNT, generator.design.latent, seed)))


def frames_of(extra: Mapping[str, Tensor]) -> dict[int, Bytes]:
    """Return the frames by step, in order."""
    return {int(key.removeprefix(_PREFIX)): extra[key] for key in sorted(extra) if key.startswith(_PREFIX)}


def as_bytes(x: Float32[Tensor, "n c h w"]) -> Bytes:
    """Return pixels in [0, 1] as the nearest of 256 levels."""
    return (x * 255).round().clamp(0, 255).to(torch.uint8)


def grid(images: Bytes, columns: int) -> Picture:
    """Return images row by row in one picture, two pixels apart; two-channel images are shown by their mean.

    The last channel of the picture is its opacity: between images one sees through, to whatever lies behind.
    """
    shown = images.permute(0, 2, 3, 1).numpy()
    if shown.shape[3] not in (1, 3):
        shown = shown.mean(3, keepdims=True).round().astype(np.uint8)
    count, height, width, colours = shown.shape
    rows = -(-count // columns)
    picture = np.full((rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, colours + 1), 255, np.uint8)
    picture[:, :, -1] = 0
    for i, image in enumerate(shown):
        top, left = (i // columns) * (height + _GAP), (i % columns) * (width + _GAP)
        picture[top : top + height, left : left + width, :-1] = image
        picture[top : top + height, left : left + width, -1] = 255
    return picture


def strip(frames: Mapping[int, Bytes], most: int = 12) -> tuple[tuple[int, ...], Picture]:
    """Return the film as one picture, a row a frame with its first ten drawings, and the steps of the rows."""
    steps = tuple(frames)
    chosen = tuple(
        steps[i] for i in np.unique(np.linspace(0, len(steps) - 1, min(most, len(steps))).round().astype(int))
    )
    return chosen, grid(torch.cat([frames[step][:STRIP] for step in chosen]), STRIP)


def png(picture: Picture, enlarge: int = 1) -> bytes:
    """Return a picture as PNG, each pixel enlarged to a square."""
    buffer = io.BytesIO()
    _image(picture, enlarge).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def animated(pictures: Sequence[Picture], enlarge: int = 1) -> bytes:
    """Return pictures as an animated PNG that begins again after two seconds on the last."""
    images = [_image(each, enlarge) for each in pictures]
    durations = [_MILLISECONDS] * (len(images) - 1) + [_LAST_MILLISECONDS]
    buffer = io.BytesIO()
    images[0].save(buffer, "PNG", save_all=True, append_images=images[1:], duration=durations, loop=0)
    return buffer.getvalue()


def write_film(folder: Path, frames: Mapping[int, Bytes]) -> None:
    """Write the strip and the film of a run into its folder."""
    files.write_bytes(folder / STRIP_FILE, png(strip(frames)[1]))
    files.write_bytes(folder / FILM_FILE, animated([grid(each, SIDE) for each in frames.values()]))


def _image(picture: Picture, enlarge: int) -> Image.Image:
    image = Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture)
    size = (image.width * enlarge, image.height * enlarge)
    return image.resize(size, Image.Resampling.NEAREST) if enlarge > 1 else image
