"""A soft threshold on every pixel, then the small network of the certification papers."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from faultlight.models.zoo.strided_cnn import StridedCnn

# Pixels below it begin as 0, pixels above its mirror image as 1.
LOW = 0.3


@dataclass(frozen=True)
class ThresholdCnn:
    """`strided-cnn` behind t(x) = 1 − ReLU(1 − ReLU((x − 0.3)/0.4)), whose six numbers a channel are learnt as well.

    Up to 0.3, a change of a pixel that is 0 or 1 leaves t as it is: what L∞ 0.3 can still move are the grey pixels on
    the edges of strokes. This is knowledge about images of ink on paper and helps on nothing else; on MNIST,
    adversarially trained networks find it by themselves. Each step is monotone, so interval bounds of t are exact.
    166,412 parameters on MNIST.

    Madry, Makelov, Schmidt, Tsipras and Vladu, "Towards deep learning models resistant to adversarial attacks", 2018,
    appendix C (thresholding filters). Departure: the threshold is laid down at the start.

    Args:
        classes: the number of logits.
        shape: channels, height and width of the pixels, at least 4×4.
        width: times the published 16, 32 and 100 units.
    """

    classes: int = 10
    shape: tuple[int, int, int] = (1, 28, 28)
    width: int = 1
    recipe: ClassVar[str] = "threshold-cnn-mnist-ibp"

    def module(self) -> nn.Module:
        """Build the network."""
        rest = StridedCnn(self.classes, self.shape, self.width).module()
        slope = 1 / (1 - 2 * LOW)
        return nn.Sequential(
            OrderedDict(
                scale=_each(self.shape[0], slope, -LOW * slope),
                low=nn.ReLU(),
                turn=_each(self.shape[0], -1.0, 1.0),
                high=nn.ReLU(),
                back=_each(self.shape[0], -1.0, 1.0),
                **dict(rest.named_children()),
            )
        )


def _each(channels: int, weight: float, bias: float) -> nn.Conv2d:
    """Return weight·x + bias, channel by channel."""
    layer = nn.Conv2d(channels, channels, 1, groups=channels)
    with torch.no_grad():
        layer.weight.fill_(weight)
        layer.bias.fill_(bias)  # type: ignore[union-attr]
    return layer
