"""The training image nearest to a drawn one: whether a generator repeats what it was shown."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

_ROWS = 5000

Pixels = Float32[Tensor, "n c h w"]


@dataclass(frozen=True)
class Nearest:
    """Which training image lies nearest to each sample.

    Args:
        row: its place among the training images.
        distance: L2 over pixels in [0, 1].
    """

    row: Int64[Tensor, " n"]
    distance: Float32[Tensor, " n"]


def nearest(asked: Pixels, known: Float32[Tensor, "m c h w"]) -> Nearest:
    """Return the nearest of the known images to each one asked, by L2 over all pixels; of equals the first."""
    flat = asked.flatten(1)
    distance = torch.full((len(asked),), torch.inf)
    row = torch.zeros(len(asked), dtype=torch.int64)
    for start in range(0, len(known), _ROWS):
        least = torch.cdist(flat, known[start : start + _ROWS].flatten(1)).min(1)
        closer = least.values < distance
        row = torch.where(closer, least.indices + start, row)
        distance = torch.where(closer, least.values, distance)
    # Chosen by products of float32, told by differences.
    return Nearest(row, (flat - known[row].flatten(1)).norm(dim=1))
