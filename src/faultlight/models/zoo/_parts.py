"""What several families need."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from faultlight.errors import InputError

# Side, stride and padding of a convolution or a pool.
Window = tuple[int, int, int]


class Threshold(nn.Module):
    """t(x) = 1 − ReLU(1 − ReLU((x − a)/(1 − 2a))): 0 up to a, 1 from 1 − a, a line between; it learns nothing.

    Args:
        low: a, in [0, 0.5).
    """

    start: Tensor

    def __init__(self, low: float = 0.4) -> None:
        super().__init__()
        # Kept with the weights, so that a network with another threshold is another network.
        self.register_buffer("start", torch.tensor(low))
        self.low, self.high = nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return t of each pixel."""
        risen: Tensor = self.low((x - self.start) / (1 - 2 * self.start))
        clipped: Tensor = 1 - self.high(1 - risen)
        return clipped


def head(features: int, hidden: int, classes: int, place: int) -> OrderedDict[str, nn.Module]:
    """Return flatten – linear – batch norm – ReLU – linear, by name.

    Args:
        features: numbers an image that come in.
        hidden: units between the two linear layers.
        classes: the number of logits.
        place: the number of batch norm and ReLU in their names.
    """
    return OrderedDict(
        [
            ("flatten", nn.Flatten()),
            ("fc1", nn.Linear(features, hidden, bias=False)),
            (f"bn{place}", nn.BatchNorm1d(hidden)),
            (f"relu{place}", nn.ReLU()),
            ("fc2", nn.Linear(hidden, classes)),
        ]
    )


def after_pooling(name: str, shape: tuple[int, int, int], times: int) -> int:
    """Return how many positions are left of an image after halving its sides a number of times, rounding down.

    Raises:
        InputError: nothing is left; the message says how large an image must be.
    """
    return after_windows(name, shape, [(2, 2, 0)] * times)


def after_windows(name: str, shape: tuple[int, int, int], windows: Iterable[Window]) -> int:
    """Return how many positions are left of an image after windows of side k, stride s and padding p.

    Each maps a side a to ⌊(a + 2p − k) / s⌋ + 1.

    Raises:
        InputError: nothing is left; the message says how large an image must be.
    """
    windows = list(windows)
    height, width = (_slide(side, windows) for side in shape[1:])
    if min(height, width) < 1:
        least = _least(windows)
        raise InputError(
            f"the network {name!r} needs images of at least {least}×{least} pixels, not {shape[1]}×{shape[2]}."
        )
    return height * width


def _slide(side: int, windows: list[Window]) -> int:
    for size, stride, padding in windows:
        side = max(side + 2 * padding - size + stride, 0) // stride
    return side


def _least(windows: list[Window]) -> int:
    side = 1
    for size, stride, padding in reversed(windows):
        side = max((side - 1) * stride + size - 2 * padding, 1)
    return side
