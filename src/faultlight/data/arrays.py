"""From arrays of bytes to `Images`."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor

from faultlight.data.images import Images
from faultlight.data.source import Request

MOST_BYTES = 2**33  # what one split may take as float32: 8 GiB


def from_bytes(pixels: UInt8[np.ndarray, "n c h w"]) -> Float32[Tensor, "n c h w"]:
    """Return x = bytes / 255, in [0, 1].

    Args:
        pixels: bytes 0 … 255, shape (n, c, h, w).

    Returns:
        Pixels in [0, 1], float32, shape (n, c, h, w).
    """
    # A copy, for arrays that stand on a file's bytes are read-only and torch has no such tensors.
    return torch.from_numpy(pixels.astype(np.float32)).div_(255)


def images_of(
    x: Float32[Tensor, "n c h w"],
    labels: np.ndarray,
    ids: Int64[np.ndarray, " n"],
    classes: tuple[str, ...],
    request: Request,
    notes: tuple[str, ...] = (),
) -> Images:
    """Return `Images` with labels and ids as int64 tensors.

    Args:
        x: pixels, shape (n, c, h, w).
        labels: integers of any type, shape (n,).
        ids: positions in file order, shape (n,).
        classes: the names of the classes.
        request: gives the name and the split.
        notes: what the user should know.
    """
    y = torch.from_numpy(labels.astype(np.int64))
    return Images(x, y, torch.from_numpy(ids), classes, request.name, request.split, notes)
