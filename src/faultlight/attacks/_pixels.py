"""Painting single pixels: what the attacks that change a few of them share."""

from __future__ import annotations

from itertools import product

import torch
from jaxtyping import Float32, Int64
from torch import Tensor


def paint(
    x: Float32[Tensor, "m c h w"], places: Int64[Tensor, "m k"], colours: Float32[Tensor, "m k c"]
) -> Float32[Tensor, "m c h w"]:
    """Set k pixels of each image, in place, and return the images.

    Args:
        x: images, contiguous and the caller's own.
        places: row · w + column of each pixel; of equal ones the last counts.
        colours: their new values.
    """
    flat = x.view(*x.shape[:2], -1)
    for pixel in range(places.shape[1]):  # one after the other: in one scatter, which of equal places counts is chance
        index = places[:, pixel, None, None].expand(-1, flat.shape[1], 1)
        flat.scatter_(2, index, colours[:, pixel, :, None])
    return x


def palette(channels: int, levels: int = 2) -> Float32[Tensor, "colours c"]:
    """Return all colours whose channels are one of so many values, evenly spaced from 0 to 1."""
    return torch.tensor(list(product(torch.linspace(0, 1, levels).tolist(), repeat=channels)))
