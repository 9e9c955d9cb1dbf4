"""Three convolutions with batch norm behind the pooling, for MNIST within minutes on a processor."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from torch import nn

from faultlight.models.zoo._parts import after_windows, head

_WIDTHS = (24, 48, 96)
_HIDDEN = 128


@dataclass(frozen=True)
class MnistQuick:
    """Three times conv 3×3 – max-pool 2 – BN – ReLU (24, 48, 96 maps), then linear (128) – BN – ReLU – linear.

    Pooled first, batch norm and ReLU pass over a quarter of the numbers; the biases are batch norm's. 164,530
    parameters on MNIST.

    Args:
        classes: the number of logits.
        shape: channels, height and width of the pixels, at least 8×8.
    """

    classes: int = 10
    shape: tuple[int, int, int] = (1, 28, 28)
    recipe: ClassVar[str] = "mnist-quick"

    def module(self) -> nn.Module:
        """Build the network."""
        features = _WIDTHS[-1] * after_windows("mnist-quick", self.shape, [(3, 1, 1), (2, 2, 0)] * len(_WIDTHS))
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for place, (before, after) in enumerate(pairwise((self.shape[0], *_WIDTHS)), 1):
            layers[f"conv{place}"] = nn.Conv2d(before, after, 3, padding=1, bias=False)
            layers[f"pool{place}"] = nn.MaxPool2d(2)
            layers[f"bn{place}"] = nn.BatchNorm2d(after)
            layers[f"relu{place}"] = nn.ReLU()
        layers |= head(features, _HIDDEN, self.classes, place=4)
        return nn.Sequential(layers)
