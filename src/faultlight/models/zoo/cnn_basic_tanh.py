"""The same as `cnn_basic`, with the hyperbolic tangent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from faultlight.models.zoo.cnn_basic import basic


@dataclass(frozen=True)
class CnnBasicTanh:
    """The network `cnn-basic` with tanh for LeakyReLU: 46,306 parameters on CIFAR-10.

    Args:
        classes: the number of logits.
        shape: channels, height and width of the pixels, at least 23×23.
    """

    classes: int = 10
    shape: tuple[int, int, int] = (3, 32, 32)
    recipe: ClassVar[str] = "cnn-basic-cifar10-tanh"

    def module(self) -> nn.Module:
        """Build the network."""
        return basic("cnn-basic-tanh", self.classes, self.shape, nn.Tanh)
