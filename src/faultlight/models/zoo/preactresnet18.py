"""PreActResNet-18 for small images."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn


@dataclass(frozen=True)
class PreActResNet18:
    """Pre-activation ResNet-18 for small images: 11,172,170 parameters for ten classes of 32×32 colour images.

    A 3×3 convolution of stride 1, then four groups of two pre-activation blocks with 1, 2, 4 and 8 times `width`
    channels, the last three groups halving the sides; batch norm, ReLU, global average pooling, linear.

    He, Zhang, Ren and Sun, "Identity mappings in deep residual networks", 2016, section 3 and fig. 4 (e). Departures:
    the 18-layer net with the stem for small images, as robustness papers use it; a shortcut that changes the shape is a
    1×1 convolution of the activated input, without batch norm; initial weights are PyTorch's.

    Args:
        classes: the number of logits.
        shape: channels, height and width of the pixels.
        width: channels of the first group; 64 is the published net, 16 suits two cores.
    """

    classes: int = 10
    shape: tuple[int, int, int] = (3, 32, 32)
    width: int = 64
    recipe: ClassVar[str] = "preactresnet18-cifar10-robust"

    def module(self) -> nn.Module:
        """Build the network."""
        width = self.width
        return nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(self.shape[0], width, 3, padding=1, bias=False),
                layer1=_group(width, width, stride=1),
                layer2=_group(width, 2 * width, stride=2),
                layer3=_group(2 * width, 4 * width, stride=2),
                layer4=_group(4 * width, 8 * width, stride=2),
                bn=nn.BatchNorm2d(8 * width),
                relu=nn.ReLU(),
                pool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                fc=nn.Linear(8 * width, self.classes),
            )
        )


class PreActBlock(nn.Module):
    """Batch norm, ReLU and 3×3 convolution, twice, added to a shortcut."""

    def __init__(self, width_in: int, width_out: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(width_in)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(width_in, width_out, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width_out)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(width_out, width_out, 3, padding=1, bias=False)
        same = stride == 1 and width_in == width_out
        self.shortcut = None if same else nn.Conv2d(width_in, width_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, width_in, h, w) to (n, width_out, h / stride, w / stride), sides rounded up."""
        active = self.relu1(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(active)
        out: Tensor = self.conv2(self.relu2(self.bn2(self.conv1(active)))) + shortcut
        return out


def _group(width_in: int, width_out: int, stride: int) -> nn.Sequential:
    return nn.Sequential(PreActBlock(width_in, width_out, stride), PreActBlock(width_out, width_out, 1))
