"""VGG16 for small images."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from faultlight.models.zoo._parts import after_pooling

_GROUPS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


@dataclass(frozen=True)
class VGG16:
    """VGG16 with batch norm and one linear layer: 14,728,266 parameters for ten classes of 32×32 colour images.

    Thirteen 3×3 convolutions, each with batch norm and ReLU, in groups of 2, 2, 3, 3 and 3 with 64, 128, 256, 512 and
    512 channels, each group ending in max-pool 2; linear.

    Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition", 2015, table 1, column
    D. Departures, usual for 32×32: batch norm, and one linear layer for the three of 4,096, 4,096 and 1,000 units.

    Args:
        classes: the number of logits.
        shape: channels, height and width of the pixels, at least 32×32.
    """

    classes: int = 10
    shape: tuple[int, int, int] = (3, 32, 32)
    recipe: ClassVar[str] = "vgg16-cifar10"

    def module(self) -> nn.Module:
        """Build the network."""
        features = 512 * after_pooling("vgg16", self.shape, times=5)
        body = OrderedDict(_body(self.shape[0]))
        return nn.Sequential(body | {"flatten": nn.Flatten(), "fc": nn.Linear(features, self.classes)})


def _body(channels: int) -> Iterator[tuple[str, nn.Module]]:
    for group, (width, count) in enumerate(_GROUPS, start=1):
        for place in range(1, count + 1):
            yield f"conv{group}_{place}", nn.Conv2d(channels, width, 3, padding=1)
            yield f"bn{group}_{place}", nn.BatchNorm2d(width)
            yield f"relu{group}_{place}", nn.ReLU()
            channels = width
        yield f"pool{group}", nn.MaxPool2d(2)
