"""Three convolutions and two linear layers for small colour images."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from faultlight.models.zoo._parts import after_pooling


@dataclass(frozen=True)
class CifarCnn:
    """Three convolutions and two linear layers, 541,094 parameters on CIFAR-10.

    conv 3×3 (16), (32) and (64), padding 1, each with ReLU and max-pool 2 – dropout ¼ – linear (500) – ReLU – dropout ¼
    – linear: 448 + 4,640 + 18,496 + 512,500 + 5,010 parameters for ten classes of 32×32 colour images.

    Args:
        classes: the number of logits.
        shape: channels, height and width of the pixels, at least 8×8.
    """

    classes: int = 10
    shape: tuple[int, int, int] = (3, 32, 32)
    recipe: ClassVar[str] = "cifar-cnn"

    def module(self) -> nn.Module:
        """Build the network."""
        features = 64 * after_pooling("cifar-cnn", self.shape, times=3)
        return nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(self.shape[0], 16, 3, padding=1),
                relu1=nn.ReLU(),
                pool1=nn.MaxPool2d(2),
                conv2=nn.Conv2d(16, 32, 3, padding=1),
                relu2=nn.ReLU(),
                pool2=nn.MaxPool2d(2),
                conv3=nn.Conv2d(32, 64, 3, padding=1),
                relu3=nn.ReLU(),
                pool3=nn.MaxPool2d(2),
                flatten=nn.Flatten(),
                dropout1=nn.Dropout(0.25),
                fc1=nn.Linear(features, 500),
                relu4=nn.ReLU(),
                dropout2=nn.Dropout(0.25),
                fc2=nn.Linear(500, self.classes),
            )
        )
