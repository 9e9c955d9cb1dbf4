"""Laying the numbers of a layer out as one flat picture."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

# A vector longer than this is folded into rows, so that a square cell can show it.
LONGEST_STRIP = 32


def mosaic(maps: NDArray[Any], columns: int) -> NDArray[Any]:
    """Return maps (k, h, w) side by side, `columns` to a row, one empty line (NaN) between them."""
    count, height, width = maps.shape
    rows = -(-count // columns)
    sheet = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1), np.nan, dtype=np.float32)
    for index, part in enumerate(maps):
        top, left = (index // columns) * (height + 1), (index % columns) * (width + 1)
        sheet[top : top + height, left : left + width] = part
    return sheet


def flat(values: NDArray[Any], most_maps: int = 64) -> NDArray[Any]:
    """Return the output of a layer for one image as a picture.

    A vector (f,) becomes a strip, folded row by row when it is long; a matrix stays; maps (c, h, w) become a mosaic,
    near-square, of the first `most_maps` of them.
    """
    if values.ndim <= 1:
        return _fold(values.reshape(-1))
    if values.ndim == 2:
        return values
    maps = values.reshape(-1, *values.shape[-2:])[:most_maps]
    if maps.shape[1:] == (1, 1):
        return _fold(values.reshape(-1))
    return mosaic(maps, math.ceil(math.sqrt(len(maps))))


def banded(matrix: NDArray[Any]) -> NDArray[Any]:
    """Return a matrix (p, q) that is much wider than high as bands, near-square, one below the other, a line between.

    Band after band is read like the lines of a page.
    """
    rows, columns = matrix.shape
    bands = max(1, round(math.sqrt(columns / (rows + 1))))
    if columns <= 2 * rows or bands == 1:
        return matrix
    width = -(-columns // bands)
    bands = -(-columns // width)
    sheet = np.full((bands * (rows + 1) - 1, width), np.nan, dtype=np.float32)
    for band in range(bands):
        part = matrix[:, band * width : (band + 1) * width]
        sheet[band * (rows + 1) : band * (rows + 1) + rows, : part.shape[1]] = part
    return sheet


def _fold(vector: NDArray[Any]) -> NDArray[Any]:
    width = len(vector) if len(vector) <= LONGEST_STRIP else math.ceil(math.sqrt(len(vector)))
    rows = -(-len(vector) // max(width, 1))
    sheet = np.full(rows * width, np.nan, dtype=np.float32)
    sheet[: len(vector)] = vector
    return sheet.reshape(rows, width)
