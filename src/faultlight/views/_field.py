"""Receptive fields by asking the net: a pixel that is NaN makes every unit NaN that looks at it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from faultlight.models.subject import Subject
from faultlight.views._project import reach
from faultlight.views.listening import rows_at_once


@dataclass(frozen=True)
class Field:
    """Which rows, or columns, of pixels the rows, or columns, of a layer's maps look at.

    Args:
        first: the first one, for each row of the maps, shape (s,).
        last: the last one, for each row of the maps, shape (s,).
    """

    first: Int64[Tensor, " s"]
    last: Int64[Tensor, " s"]

    @property
    def size(self) -> int:
        """The greatest extent of a receptive field, in pixels; at the border they are cut."""
        return int((self.last - self.first).max()) + 1

    @property
    def stride(self) -> int:
        """How many pixels lie between the fields of neighbours, away from the border; 1 where there is one field."""
        return max(1, int(self.first.diff().max())) if len(self.first) > 1 else 1

    def windows(self, position: Int64[Tensor, "*r"], side: int) -> Int64[Tensor, "*r"]:
        """Return where a window of `size` begins that holds the receptive field and lies inside the image."""
        # A layer that looks at the whole image has one field, whatever the shape of its output.
        place = position if len(self.first) > 1 else torch.zeros_like(position)
        return self.first[place].clamp(max=side - self.size)


@torch.no_grad()
def receptive_field(subject: Subject, shape: tuple[int, int, int], layer: str) -> tuple[Field, Field]:
    """Return the receptive fields of a layer's units, by rows and by columns.

    One pass for each row and each column of the pixels, which is made NaN: 0 · NaN is NaN, so every path counts
    whatever its weights, and bends and pools let it through. Where none arrives, the whole image counts as looked at.

    Args:
        subject: the model.
        shape: channels, height and width of the pixels.
        layer: the layer's name; its output is (n, c) or (n, c, h, w), anything else looks at the whole image.
    """
    return _along(subject, shape, layer, 2), _along(subject, shape, layer, 3)


def _along(subject: Subject, shape: tuple[int, int, int], layer: str, axis: int) -> Field:
    side = shape[axis - 1]
    parts = torch.split(torch.arange(side), rows_at_once(torch.empty(1, *shape)))
    seen = torch.cat([_seen(subject, shape, layer, axis, lines) for lines in parts])
    looked_at = torch.where(seen.any(0), seen, True)
    first = looked_at.int().argmax(0)
    return Field(first, side - 1 - looked_at.flip(0).int().argmax(0))


def _seen(subject: Subject, shape: tuple[int, int, int], layer: str, axis: int, lines: Tensor) -> Tensor:
    """Return for each line of pixels which lines of the maps look at it, shape (lines, s)."""
    x = torch.full((len(lines), *shape), 0.5)
    # A view that has the lines on the second axis.
    x.transpose(1, axis)[torch.arange(len(lines)), lines] = torch.nan
    # cuDNN's Winograd and Fourier convolutions would carry a NaN beyond the reach of their kernel.
    with torch.backends.cudnn.flags(enabled=False):
        blind = reach(subject, x.to(subject.device), layer).isnan().cpu()
    if blind.ndim != 4:
        return blind.flatten(1).any(1, keepdim=True)
    return blind.any(dim=(1, 5 - axis))
