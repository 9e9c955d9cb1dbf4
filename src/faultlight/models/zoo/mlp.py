"""Three linear layers."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

from torch import nn


@dataclass(frozen=True)
class Mlp:
    """Three linear layers, 784–128–64–10 on MNIST: 109,386 parameters.

    Args:
        classes: the number of logits.
        shape: channels, height and width of the pixels.
    """

    classes: int = 10
    shape: tuple[int, int, int] = (1, 28, 28)
    recipe: ClassVar[str] = "mlp-mnist"

    def module(self) -> nn.Module:
        """Build the network."""
        return nn.Sequential(
            OrderedDict(
                flatten=nn.Flatten(),
                fc1=nn.Linear(math.prod(self.shape), 128),
                relu1=nn.ReLU(),
                fc2=nn.Linear(128, 64),
                relu2=nn.ReLU(),
                fc3=nn.Linear(64, self.classes),
            )
        )
