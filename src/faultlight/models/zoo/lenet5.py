"""LeNet-5."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from faultlight.models.zoo._parts import after_windows


@dataclass(frozen=True)
class LeNet5:
    """LeNet-5 as it is built today: 61,706 parameters on MNIST.

    conv 5×5 (6, padding 2) – ReLU – max-pool 2 – conv 5×5 (16) – ReLU – max-pool 2 – linear (120) – ReLU – linear (84)
    – ReLU – linear: 156 + 2,416 + 48,120 + 10,164 + 850 parameters for ten classes of 28×28 grey images.

    LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition", 1998, section II.B.
    Departures: ReLU for the scaled tanh, max-pooling for trained averages, every second-layer map sees all first-layer
    maps, and a linear output for radial basis functions; the images are padded within the network.

    Args:
        classes: the number of logits.
        shape: channels, height and width of the pixels, at least 12×12.
    """

    classes: int = 10
    shape: tuple[int, int, int] = (1, 28, 28)
    recipe: ClassVar[str] = ""

    def module(self) -> nn.Module:
        """Build the network."""
        windows = [(5, 1, 2), (2, 2, 0), (5, 1, 0), (2, 2, 0)]
        features = 16 * after_windows("lenet5", self.shape, windows)
        return nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(self.shape[0], 6, 5, padding=2),
                relu1=nn.ReLU(),
                pool1=nn.MaxPool2d(2),
                conv2=nn.Conv2d(6, 16, 5),
                relu2=nn.ReLU(),
                pool2=nn.MaxPool2d(2),
                flatten=nn.Flatten(),
                fc1=nn.Linear(features, 120),
                relu3=nn.ReLU(),
                fc2=nn.Linear(120, 84),
                relu4=nn.ReLU(),
                fc3=nn.Linear(84, self.classes),
            )
        )
