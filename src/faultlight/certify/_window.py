"""Windows of a map: a hidden number sees a part of the image only, so its bound need not carry the rest."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

Shape = tuple[int, ...]

# Numbers that are added in their own precision.
SHORT = 512


@dataclass(frozen=True)
class Window:
    """Rows top … bottom − 1 and columns left … right − 1 of a map; all of it where bottom is 0."""

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0

    def cut(self, values: Tensor) -> Tensor:
        """Return the window of maps (…, h, w); values that are one to a map stay as they are."""
        if not self.bottom or values.ndim < 2 or values.shape[-2:] == (1, 1):
            return values
        return values[..., self.top : self.bottom, self.left : self.right]

    def rows(self, values: Tensor, owner: Tensor) -> Tensor:
        """Return the window of some images' maps; copied whole first, for rows are then taken in one stroke each."""
        return self.cut(values).contiguous().index_select(0, owner)

    def laid_out(self, values: Tensor, shape: Shape) -> Tensor:
        """Return whole maps of a shape (c, h, w) that hold the values in the window and 0 elsewhere."""
        if not self.bottom:
            return values
        sides = (self.left, shape[2] - self.right, self.top, shape[1] - self.bottom)
        return functional.pad(values, sides)


WHOLE = Window()


def whole(window: Window | None) -> Window:
    """Return the window, or the one that stands for the whole map."""
    return WHOLE if window is None else window


@dataclass(frozen=True)
class Carried:
    """A linear function of a node's output a row: zero outside a window of the map, and given inside it.

    Args:
        a: coefficients, (r, *shape), or (r, c, h, w) of the window.
        window: where they stand; None for all of a node's output.
    """

    a: Tensor
    window: Window | None = None


@dataclass(frozen=True)
class Sliding:
    """A window that slides along one side of a map, padded at both ends."""

    kernel: int
    stride: int
    padding: int
    dilation: int

    def reach(self, start: int, stop: int, size: int) -> tuple[int, int, int]:
        """Return the inputs start′ … stop′ − 1, of so many, that outputs start … stop − 1 see, and how many of those
        before start′ lie beyond the edge."""
        first = start * self.stride - self.padding
        last = (stop - 1) * self.stride - self.padding + self.dilation * (self.kernel - 1) + 1
        return max(first, 0), min(last, size), max(-first, 0)


def summed(values: Tensor) -> Tensor:
    """Return the sum of each row in float64; of short rows in their own precision, which is several times faster."""
    flat = values.flatten(1)
    return flat.sum(1).double() if short_terms(values) else flat.sum(1, dtype=torch.float64)


def short_terms(values: Tensor) -> int:
    """Return how many numbers of a row are added in their own precision: all of a short one, none of a long one."""
    terms = torch.Size(values.shape[1:]).numel()
    return terms if terms <= SHORT else 0


def pieces(count: int, size: int) -> list[slice]:
    """Return slices of at most a size that make up a whole."""
    return [slice(start, start + size) for start in range(0, count, size)]
