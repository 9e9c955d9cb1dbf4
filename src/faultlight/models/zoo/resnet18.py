"""ResNet-18 for small images."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn


@dataclass(frozen=True)
class ResNet18:
    """ResNet-18 with the stem for small images: 11,173,962 parameters for ten classes of 32×32 colour images.

    A 3×3 convolution of stride 1 without max-pooling, then four groups of two basic blocks with 1, 2, 4 and 8 times
    `width` channels, the last three groups halving the sides; global average pooling; linear.

    He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", 2016, section 4.2. Departures: the paper's
    own nets for 32×32 have 6n + 2 layers and at most 64 channels, where this is its 18-layer net of section 4.1 with
    another stem, as robustness papers use it; shortcuts that change the shape are 1×1 convolutions with batch norm (its
    option B); initial weights are PyTorch's.

    Args:
        classes: the number of logits.
        shape: channels, height and width of the pixels.
        width: channels of the first group; 64 is the published net, 16 suits two cores.
    """

    classes: int = 10
    shape: tuple[int, int, int] = (3, 32, 32)
    width: int = 64
    recipe: ClassVar[str] = "resnet18-cifar10"

    def module(self) -> nn.Module:
        """Build the network."""
        width = self.width
        return nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(self.shape[0], width, 3, padding=1, bias=False),
                bn1=nn.BatchNorm2d(width),
                relu1=nn.ReLU(),
                layer1=_group(width, width, stride=1),
                layer2=_group(width, 2 * width, stride=2),
                layer3=_group(2 * width, 4 * width, stride=2),
                layer4=_group(4 * width, 8 * width, stride=2),
                pool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                fc=nn.Linear(8 * width, self.classes),
            )
        )


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with batch norm, added to a shortcut: relu2(F(x) + shortcut(x))."""

    def __init__(self, width_in: int, width_out: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width_out)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width_out, width_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width_out)
        self.shortcut = _shortcut(width_in, width_out, stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, width_in, h, w) to (n, width_out, h / stride, w / stride), sides rounded up."""
        residual = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        out: Tensor = self.relu2(residual + self.shortcut(x))
        return out


def _group(width_in: int, width_out: int, stride: int) -> nn.Sequential:
    return nn.Sequential(BasicBlock(width_in, width_out, stride), BasicBlock(width_out, width_out, 1))


def _shortcut(width_in: int, width_out: int, stride: int) -> nn.Module:
    if stride == 1 and width_in == width_out:
        return nn.Identity()
    parts = OrderedDict(conv=nn.Conv2d(width_in, width_out, 1, stride, bias=False), bn=nn.BatchNorm2d(width_out))
    return nn.Sequential(parts)
