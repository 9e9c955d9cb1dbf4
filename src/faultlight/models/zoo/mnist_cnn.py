"""The two-convolution network for MNIST."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from faultlight.models.zoo._parts import after_pooling


@dataclass(frozen=True)
class MnistCnn:
    """Two convolutions and two linear layers, 799,078 parameters on MNIST.

    conv 3×3 (32, padding 1) – ReLU – max-pool 2 – conv 3×3 (32, padding 1) – ReLU – max-pool 2 – linear (500) – ReLU –
    linear: 320 + 9,248 + 784,500 + 5,010 parameters for ten classes of 28×28 grey images.

    Args:
        classes: the number of logits.
        shape: channels, height and width of the pixels, at least 4×4.
    """

    classes: int = 10
    shape: tuple[int, int, int] = (1, 28, 28)
    recipe: ClassVar[str] = "mnist-cnn"

    def module(self) -> nn.Module:
        """Build the network."""
        features = 32 * after_pooling("mnist-cnn", self.shape, times=2)
        return nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(self.shape[0], 32, 3, padding=1),
                relu1=nn.ReLU(),
                pool1=nn.MaxPool2d(2),
                conv2=nn.Conv2d(32, 32, 3, padding=1),
                relu2=nn.ReLU(),
                pool2=nn.MaxPool2d(2),
                flatten=nn.Flatten(),
                fc1=nn.Linear(features, 500),
                relu3=nn.ReLU(),
                fc2=nn.Linear(500, self.classes),
            )
        )
