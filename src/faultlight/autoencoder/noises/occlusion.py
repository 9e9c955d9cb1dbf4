"""A square that covers a part of the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from faultlight.autoencoder.noises._contract import Given, Pixels


@dataclass(frozen=True)
class Occlusion:
    """A grey square covers a part of the image.

    The side is the strength times the shorter side of the image, rounded; the place is drawn evenly from those where
    the square lies wholly inside. Covered pixels are ½ in every channel.

    Source: the square is that of DeVries & Taylor 2017, "Improved regularization of convolutional neural networks with
    cutout", section 3; there it may stick out of the image, here it never does.
    """

    limits: ClassVar[tuple[float, float]] = (0.0, 1.0)
    unit: ClassVar[str] = "side, as a share of the image's"
    levels: ClassVar[int] = 0
    aimed: ClassVar[bool] = False

    def __call__(self, given: Given) -> Pixels:
        """Return the covered pixels."""
        _, _, height, width = given.x.shape
        side = (given.strength * min(height, width)).round().long()
        top, left = (
            (draw * (room - side + 1)).long() for draw, room in zip(given.uniform((2,)).T, (height, width), strict=True)
        )
        inside = _within(top, side, height)[:, :, None] & _within(left, side, width)[:, None, :]
        return given.x.where(~inside[:, None], 0.5)


def _within(start: Tensor, side: Tensor, length: int) -> Tensor:
    """Return which of the positions 0 … length − 1 (columns) lie in each row's stretch."""
    position = torch.arange(length, device=start.device)
    return (position >= start[:, None]) & (position < (start + side)[:, None])
