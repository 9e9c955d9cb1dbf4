"""Two strided convolutions and two linear layers: the small network of the certification papers."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from faultlight.models.zoo._parts import after_windows


@dataclass(frozen=True)
class StridedCnn:
    """Two strided convolutions and two linear layers, 166,406 parameters on MNIST; ReLU alone, so bounds are tight.

    conv 4×4 stride 2 (16, padding 1) – ReLU – conv 4×4 stride 2 (32, padding 1) – ReLU – linear (100) – ReLU – linear:
    272 + 8,224 + 156,900 + 1,010 parameters for ten classes of 28×28 grey images; `width` multiplies all three widths.

    Wong and Kolter, "Provable defenses against adversarial examples via the convex outer adversarial polytope", 2018,
    section 5.

    Args:
        classes: the number of logits.
        shape: channels, height and width of the pixels, at least 4×4.
        width: times the published 16, 32 and 100 units.
    """

    classes: int = 10
    shape: tuple[int, int, int] = (1, 28, 28)
    width: int = 1
    recipe: ClassVar[str] = "strided-cnn-mnist-crown-ibp"

    def module(self) -> nn.Module:
        """Build the network."""
        first, second, hidden = (units * self.width for units in (16, 32, 100))
        features = second * after_windows("strided-cnn", self.shape, [(4, 2, 1)] * 2)
        return nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(self.shape[0], first, 4, stride=2, padding=1),
                relu1=nn.ReLU(),
                conv2=nn.Conv2d(first, second, 4, stride=2, padding=1),
                relu2=nn.ReLU(),
                flatten=nn.Flatten(),
                fc1=nn.Linear(features, hidden),
                relu3=nn.ReLU(),
                fc2=nn.Linear(hidden, self.classes),
            )
        )
