"""Operations that are not affine, and those that are but have no weights: pixels, sums, rectifiers, max-pooling."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from faultlight.certify._window import Shape, Sliding, Window

Pair = tuple[int, int]


@dataclass(frozen=True)
class Pixels:
    """The image itself."""


@dataclass(frozen=True)
class Sum:
    """The first input plus, or minus, the second: what closes a residual block."""

    sign: int = 1


@dataclass(frozen=True)
class Rectifier:
    """max(x, leak·x): ReLU, or leaky ReLU with 0 < leak < 1."""

    leak: float = 0.0

    def apply(self, x: Tensor) -> Tensor:
        """Rectify."""
        return functional.leaky_relu(x, self.leak) if self.leak else functional.relu(x)


@dataclass(frozen=True)
class MaxPool:
    """The largest number of each window."""

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair

    def apply(self, x: Tensor) -> Tensor:
        """Pool."""
        return functional.max_pool2d(x, self.kernel, self.stride, self.padding, self.dilation)

    def reached(self, window: Window | None, shape: Shape) -> Window | None:
        """Return the window of the input, of a shape, that a window of the output looks at."""
        if window is None:
            return None
        down, across = (
            Sliding(self.kernel[side], self.stride[side], self.padding[side], self.dilation[side]) for side in (0, 1)
        )
        top, bottom, _ = down.reach(window.top, window.bottom, shape[1])
        left, right, _ = across.reach(window.left, window.right, shape[2])
        return Window(top, bottom, left, right)

    def windows(self, x: Tensor, outside: float) -> Tensor:
        """Return the numbers of each window, (n, c, window, positions); beyond the edge stands `outside`."""
        n, c = x.shape[:2]
        down, across = self.padding
        padded = functional.pad(x, (across, across, down, down), value=outside)
        flat = padded.reshape(n * c, 1, *padded.shape[2:])
        found = functional.unfold(flat, self.kernel, dilation=self.dilation, stride=self.stride)
        return found.reshape(n, c, found.shape[1], found.shape[2])
