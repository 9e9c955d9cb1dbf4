"""Three strided convolutions and one linear layer, with LeakyReLU."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from faultlight.models.zoo._parts import after_windows

_WINDOWS = [(5, 3, 0), (3, 2, 0), (3, 1, 0)]


@dataclass(frozen=True)
class CnnBasic:
    """DeepDIVA's basic network, 46,306 parameters on CIFAR-10.

    conv 5×5 stride 3 (24) – LeakyReLU – conv 3×3 stride 2 (48) – LeakyReLU – conv 3×3 (72) – LeakyReLU – linear: 1,824
    + 10,416 + 31,176 + 2,890 parameters for ten classes of 32×32 colour images.

    Alberti, Pondenkandath, Würsch, Ingold and Liwicki, "DeepDIVA: a highly-functional Python framework for reproducible
    experiments", 2018. There the images come normalised by the mean and deviation of the training images; here batch
    norm without scale or shift does that first, within the network.

    Args:
        classes: the number of logits.
        shape: channels, height and width of the pixels, at least 23×23.
    """

    classes: int = 10
    shape: tuple[int, int, int] = (3, 32, 32)
    recipe: ClassVar[str] = "cnn-basic-cifar10-adam"

    def module(self) -> nn.Module:
        """Build the network."""
        return basic("cnn-basic", self.classes, self.shape, nn.LeakyReLU)


def basic(name: str, classes: int, shape: tuple[int, int, int], activation: type[nn.Module]) -> nn.Module:
    """Return the network with another activation."""
    return nn.Sequential(
        OrderedDict(
            norm=nn.BatchNorm2d(shape[0], affine=False),
            conv1=nn.Conv2d(shape[0], 24, 5, stride=3),
            act1=activation(),
            conv2=nn.Conv2d(24, 48, 3, stride=2),
            act2=activation(),
            conv3=nn.Conv2d(48, 72, 3),
            act3=activation(),
            flatten=nn.Flatten(),
            fc=nn.Linear(72 * after_windows(name, shape, _WINDOWS), classes),
        )
    )
