"""The two-convolution network for MNIST, with batch norm."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from faultlight.models.zoo._parts import after_pooling


@dataclass(frozen=True)
class MnistCnnBn:
    """The network `mnist-cnn` with batch norm before every ReLU, 800,206 parameters on MNIST.

    conv 3×3 (32, padding 1) – BN – ReLU – max-pool 2 – conv 3×3 (32, padding 1) – BN – ReLU – max-pool 2 – linear (500)
    – BN – ReLU – linear: the 799,078 of `mnist-cnn`, and a scale and a shift for each of 32 + 32 + 500 channels.

    Ioffe and Szegedy, "Batch normalization", 2015, section 3.2 and algorithm 1. Departure: the layers before keep the
    bias that batch norm makes superfluous, so that the two networks differ in nothing else.

    Args:
        classes: the number of logits.
        shape: channels, height and width of the pixels, at least 4×4.
    """

    classes: int = 10
    shape: tuple[int, int, int] = (1, 28, 28)
    recipe: ClassVar[str] = "mnist-cnn-bn"

    def module(self) -> nn.Module:
        """Build the network."""
        features = 32 * after_pooling("mnist-cnn-bn", self.shape, times=2)
        return nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(self.shape[0], 32, 3, padding=1),
                bn1=nn.BatchNorm2d(32),
                relu1=nn.ReLU(),
                pool1=nn.MaxPool2d(2),
                conv2=nn.Conv2d(32, 32, 3, padding=1),
                bn2=nn.BatchNorm2d(32),
                relu2=nn.ReLU(),
                pool2=nn.MaxPool2d(2),
                flatten=nn.Flatten(),
                fc1=nn.Linear(features, 500),
                bn3=nn.BatchNorm1d(500),
                relu3=nn.ReLU(),
                fc2=nn.Linear(500, self.classes),
            )
        )
