"""What a network may be made of, as far as bounds are concerned: each operation knows what a bound asks of it.

An affine operation z = W·x + b offers W·x + b, |W|·r and aᵀW, none of which ever writes W out; ReLU and max-pooling
are bent, and offer a line below and a line above instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional

from faultlight.certify._bent import MaxPool, Pair, Pixels, Rectifier, Sum
from faultlight.certify._window import Shape, Sliding, Window, whole

__all__ = [
    "Affine",
    "Average",
    "Convolution",
    "Linear",
    "MaxPool",
    "Operation",
    "Pixels",
    "Rectifier",
    "Reshape",
    "Scale",
    "Sum",
]

# Numbers in a window from which on a convolution is no longer written out as a matrix.
_SMALL = 512


@runtime_checkable
class Affine(Protocol):
    """z = W·x + b, a row an image."""

    @property
    def terms(self) -> int:
        """How many numbers are added for one output, or in aᵀW for one input; 0 where nothing is computed."""

    @property
    def mixes(self) -> bool:
        """Whether an output depends on more than one input."""

    def apply(self, x: Tensor) -> Tensor:
        """Return W·x + b."""

    def spread(self, radius: Tensor) -> Tensor:
        """Return |W|·r."""

    def transpose(self, a: Tensor, window: Window | None) -> tuple[Tensor, Window | None]:
        """Return aᵀW, a row a linear function of z that is given in a window of it, and the window of x it fills."""

    def bias(self) -> Tensor | None:
        """Return b, in a shape that broadcasts to z without its rows."""

    def weight_of_bias(self) -> Tensor | None:
        """Return the sum of the absolute numbers that b stands for: |b|, or more where b was folded from several."""


@dataclass(frozen=True, eq=False)
class Convolution:
    """A two-dimensional convolution padded with zeros.

    Args:
        kernel: the weights, (out, in / groups, h, w).
        shift: the bias, (out,), or None.
        shape: of the input, (c, h, w).
        matrices: what was found of the transpose on small windows.
    """

    kernel: Tensor
    shift: Tensor | None
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int
    shape: Shape
    matrices: dict[tuple[Shape, Window], Tensor] = field(default_factory=dict)
    mixes: bool = True

    @property
    def terms(self) -> int:
        """Products in an output, or in an input of the transpose."""
        area = self.kernel.shape[2] * self.kernel.shape[3]
        return area * max(self.kernel.shape[1], self.kernel.shape[0] // self.groups)

    def apply(self, x: Tensor) -> Tensor:
        """Convolve."""
        return functional.conv2d(x, self.kernel, self.shift, self.stride, self.padding, self.dilation, self.groups)

    def spread(self, radius: Tensor) -> Tensor:
        """Convolve with the absolute kernel."""
        kernel = self.kernel.abs()
        return functional.conv2d(radius, kernel, None, self.stride, self.padding, self.dilation, self.groups)

    def transpose(self, a: Tensor, window: Window | None) -> tuple[Tensor, Window | None]:
        """Convolve backwards; from a small window as a matrix product, which is faster there than any convolution."""
        inside = window or Window(0, a.shape[2], 0, a.shape[3])
        top, bottom, above = self._reach(0, inside.top, inside.bottom)
        left, right, before = self._reach(1, inside.left, inside.right)
        seen = Window(top, bottom, left, right)
        part = Window(above, above + bottom - top, before, before + right - left)
        shape, size = a.shape[1:], a[0].numel()
        if window is None or size > _SMALL or torch.is_grad_enabled():
            found = part.cut(self._spread_back(a))
            return (seen.laid_out(found, self.shape), None) if window is None else (found, seen)
        if (shape, part) not in self.matrices:
            one = torch.eye(size, dtype=a.dtype, device=a.device).view(size, *shape)
            self.matrices[shape, part] = part.cut(self._spread_back(one)).flatten(1)
        found = a.flatten(1) @ self.matrices[shape, part]
        return found.view(len(a), self.shape[0], bottom - top, right - left), seen

    def _spread_back(self, a: Tensor) -> Tensor:
        return functional.conv_transpose2d(a, self.kernel, None, self.stride, 0, 0, self.groups, self.dilation)

    def bias(self) -> Tensor | None:
        """The bias of each channel."""
        return None if self.shift is None else self.shift.view(-1, 1, 1)

    def weight_of_bias(self) -> Tensor | None:
        """Its size."""
        return None if self.shift is None else self.shift.abs().view(-1, 1, 1)

    def _reach(self, side: int, start: int, stop: int) -> tuple[int, int, int]:
        kernel = int(self.kernel.shape[2 + side])
        sliding = Sliding(kernel, self.stride[side], self.padding[side], self.dilation[side])
        return sliding.reach(start, stop, self.shape[1 + side])


@dataclass(frozen=True, eq=False)
class Linear:
    """A matrix product on the last axis.

    Args:
        matrix: the weights, (out, in).
        shift: the bias, (out,), or None.
        shape: of the output.
    """

    matrix: Tensor
    shift: Tensor | None
    shape: Shape
    mixes: bool = True

    @property
    def terms(self) -> int:
        """Products in an output, or in an input of the transpose."""
        return max(self.matrix.shape)

    def apply(self, x: Tensor) -> Tensor:
        """Multiply."""
        return functional.linear(x, self.matrix, self.shift)

    def spread(self, radius: Tensor) -> Tensor:
        """Multiply with the absolute matrix."""
        return functional.linear(radius, self.matrix.abs())

    def transpose(self, a: Tensor, window: Window | None) -> tuple[Tensor, Window | None]:
        """Multiply from the other side."""
        return whole(window).laid_out(a, self.shape) @ self.matrix, None

    def bias(self) -> Tensor | None:
        """The bias."""
        return self.shift

    def weight_of_bias(self) -> Tensor | None:
        """Its size."""
        return None if self.shift is None else self.shift.abs()


@dataclass(frozen=True, eq=False)
class Scale:
    """Every number times its own factor plus its own shift: batch norm in evaluation mode, normalisation, constants.

    Args:
        factor: broadcasts to the input without its rows.
        shift: the same.
        size: the sum of the absolute numbers that the shift was folded from.
    """

    factor: Tensor
    shift: Tensor
    size: Tensor
    terms: int = 4
    mixes: bool = False

    def apply(self, x: Tensor) -> Tensor:
        """Scale and shift."""
        return x * self.factor + self.shift

    def spread(self, radius: Tensor) -> Tensor:
        """Scale by the absolute factor."""
        return radius * self.factor.abs()

    def transpose(self, a: Tensor, window: Window | None) -> tuple[Tensor, Window | None]:
        """Scale."""
        return a * whole(window).cut(self.factor), window

    def bias(self) -> Tensor | None:
        """The shift."""
        return self.shift

    def weight_of_bias(self) -> Tensor | None:
        """The size of all that was folded into it."""
        return self.size


@dataclass(frozen=True, eq=False)
class Average:
    """Average pooling of any kind, or zeros added or cut off around an image: a linear map with weights ≥ 0.

    Args:
        function: the map, from (n, *shape) to (n, *out).
        shape: of the input.
        terms: the numbers in one window; 0 where none are added.
        mixes: whether an output depends on more than one input.
    """

    function: Callable[[Tensor], Tensor]
    shape: Shape
    terms: int
    mixes: bool = True

    def apply(self, x: Tensor) -> Tensor:
        """Map the numbers."""
        return self.function(x)

    def spread(self, radius: Tensor) -> Tensor:
        """Map the radii: no weight is negative."""
        return self.function(radius)

    def transpose(self, a: Tensor, window: Window | None) -> tuple[Tensor, Window | None]:
        """Give each number its part of what it went into."""
        with torch.enable_grad():
            x = a.new_zeros(len(a), *self.shape, requires_grad=True)
            pooled = self.function(x)
            laid_out = whole(window).laid_out(a, tuple(pooled.shape[1:]))
            (given,) = torch.autograd.grad(pooled, x, laid_out, create_graph=a.requires_grad)
        return given, None

    def bias(self) -> Tensor | None:
        """None."""
        return None

    def weight_of_bias(self) -> Tensor | None:
        """None."""
        return None


@dataclass(frozen=True)
class Reshape:
    """The same numbers in another shape, rows aside."""

    before: Shape
    after: Shape
    terms: int = 0
    mixes: bool = False

    def apply(self, x: Tensor) -> Tensor:
        """Reshape."""
        return x.reshape(len(x), *self.after)

    def spread(self, radius: Tensor) -> Tensor:
        """Reshape."""
        return self.apply(radius)

    def transpose(self, a: Tensor, window: Window | None) -> tuple[Tensor, Window | None]:
        """Reshape back."""
        return whole(window).laid_out(a, self.after).reshape(len(a), *self.before), None

    def bias(self) -> Tensor | None:
        """None."""
        return None

    def weight_of_bias(self) -> Tensor | None:
        """None."""
        return None


Operation = Affine | Pixels | Sum | Rectifier | MaxPool
