"""One convolution and one linear layer."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

from torch import nn


@dataclass(frozen=True)
class OneConv:
    """The smallest network in which training on one-step attacks fails catastrophically.

    conv 3×3 (4) – ReLU – linear: 112 + 40,970 parameters for ten classes of 32×32 colour images.

    Andriushchenko and Flammarion, "Understanding and improving fast adversarial training", 2020, section 4.

    Args:
        classes: the number of logits.
        shape: channels, height and width of the pixels.
        filters: of the convolution.
    """

    classes: int = 10
    shape: tuple[int, int, int] = (3, 32, 32)
    filters: int = 4
    recipe: ClassVar[str] = "one-conv-cifar10-fgsm"

    def module(self) -> nn.Module:
        """Build the network."""
        channels, height, width = self.shape
        return nn.Sequential(
            OrderedDict(
                conv=nn.Conv2d(channels, self.filters, 3, padding=1),
                relu=nn.ReLU(),
                flatten=nn.Flatten(),
                fc=nn.Linear(self.filters * height * width, self.classes),
            )
        )
