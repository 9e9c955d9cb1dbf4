"""Two convolutions and three linear layers."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from faultlight.models.zoo._parts import after_windows


@dataclass(frozen=True)
class CnnA:
    """Two convolutions without padding and three linear layers, 232,650 parameters on MNIST.

    conv 3×3 (32) – ReLU – max-pool 2 – conv 3×3 (64) – ReLU – max-pool 2 – linear (128) – ReLU – linear (64) – ReLU –
    linear: 320 + 18,496 + 204,928 + 8,256 + 650 parameters for ten classes of 28×28 grey images.

    Args:
        classes: the number of logits.
        shape: channels, height and width of the pixels, at least 10×10.
    """

    classes: int = 10
    shape: tuple[int, int, int] = (1, 28, 28)
    recipe: ClassVar[str] = "cnn-a-mnist"

    def module(self) -> nn.Module:
        """Build the network."""
        features = 64 * after_windows("cnn-a", self.shape, [(3, 1, 0), (2, 2, 0)] * 2)
        return nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(self.shape[0], 32, 3),
                relu1=nn.ReLU(),
                pool1=nn.MaxPool2d(2),
                conv2=nn.Conv2d(32, 64, 3),
                relu2=nn.ReLU(),
                pool2=nn.MaxPool2d(2),
                flatten=nn.Flatten(),
                fc1=nn.Linear(features, 128),
                relu3=nn.ReLU(),
                fc2=nn.Linear(128, 64),
                relu4=nn.ReLU(),
                fc3=nn.Linear(64, self.classes),
            )
        )
