"""Wide residual networks for small images."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from faultlight.errors import InputError
from faultlight.models.zoo.preactresnet18 import PreActBlock


@dataclass(frozen=True)
class WideResNet:
    """WRN-28-10, or any depth and width: 36,479,194 parameters for ten classes of 32×32 colour images.

    A 3×3 convolution (16), then three groups of (depth − 4)/6 pre-activation blocks with 16, 32 and 64 times `width`
    channels, the last two halving the sides; batch norm, ReLU, global average pooling, linear.

    Zagoruyko and Komodakis, "Wide residual networks", 2016, table 1. Departures: no dropout; initial weights are
    PyTorch's.

    Args:
        classes: the number of logits.
        shape: channels, height and width of the pixels.
        depth: 6n + 4 for n blocks a group, such as 28 or 34.
        width: the factor k; 10 is the published net.
    """

    classes: int = 10
    shape: tuple[int, int, int] = (3, 32, 32)
    depth: int = 28
    width: int = 10
    recipe: ClassVar[str] = ""

    def module(self) -> nn.Module:
        """Build the network."""
        blocks, rest = divmod(self.depth - 4, 6)
        if rest or blocks < 1:
            raise InputError(f"the depth of a wide-resnet is 6n + 4, such as 16, 28 or 34, not {self.depth}.")
        first, second, third = (channels * self.width for channels in (16, 32, 64))
        return nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(self.shape[0], 16, 3, padding=1, bias=False),
                layer1=_group(16, first, 1, blocks),
                layer2=_group(first, second, 2, blocks),
                layer3=_group(second, third, 2, blocks),
                bn=nn.BatchNorm2d(third),
                relu=nn.ReLU(),
                pool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                fc=nn.Linear(third, self.classes),
            )
        )


def _group(width_in: int, width_out: int, stride: int, blocks: int) -> nn.Sequential:
    first = PreActBlock(width_in, width_out, stride)
    return nn.Sequential(first, *(PreActBlock(width_out, width_out, 1) for _ in range(blocks - 1)))
