"""The network of the MNIST adversarial examples challenge."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from faultlight.models.zoo._parts import after_pooling


@dataclass(frozen=True)
class MadryMnist:
    """Two convolutions and two linear layers, 3,274,634 parameters on MNIST.

    conv 5×5 (32, padding 2) – ReLU – max-pool 2 – conv 5×5 (64, padding 2) – ReLU – max-pool 2 – linear (1024) – ReLU –
    linear: 832 + 51,264 + 3,212,288 + 10,250 parameters for ten classes of 28×28 grey images.

    Madry, Makelov, Schmidt, Tsipras and Vladu, "Towards deep learning models resistant to adversarial attacks", 2018,
    section 5. Departure: initial weights are PyTorch's.

    Args:
        classes: the number of logits.
        shape: channels, height and width of the pixels, at least 4×4.
    """

    classes: int = 10
    shape: tuple[int, int, int] = (1, 28, 28)
    recipe: ClassVar[str] = "madry-mnist-robust"

    def module(self) -> nn.Module:
        """Build the network."""
        features = 64 * after_pooling("madry-mnist", self.shape, times=2)
        return nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(self.shape[0], 32, 5, padding=2),
                relu1=nn.ReLU(),
                pool1=nn.MaxPool2d(2),
                conv2=nn.Conv2d(32, 64, 5, padding=2),
                relu2=nn.ReLU(),
                pool2=nn.MaxPool2d(2),
                flatten=nn.Flatten(),
                fc1=nn.Linear(features, 1024),
                relu3=nn.ReLU(),
                fc2=nn.Linear(1024, self.classes),
            )
        )
