"""A soft threshold on every pixel, then the small network of the certification papers."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from faultlight.errors import InputError
from faultlight.models.zoo._parts import Threshold
from faultlight.models.zoo.strided_cnn import StridedCnn


@dataclass(frozen=True)
class ThresholdCnn:
    """`strided-cnn` behind t(x) = 1 − ReLU(1 − ReLU((x − 0.4)/0.2)), which is not learnt.

    Up to 0.4, a change of a pixel that is 0 or 1 leaves t as it is: what L∞ 0.3 can still move are the grey pixels on
    the edges of strokes. This is knowledge about images of ink on paper and helps on nothing else; on MNIST,
    adversarially trained networks find it by themselves. Each step is monotone, so interval bounds of t are exact.
    Were t learnt, the least step away would let every pixel move a little, and interval bounds add up all of them.
    166,406 parameters on MNIST.

    Madry, Makelov, Schmidt, Tsipras and Vladu, "Towards deep learning models resistant to adversarial attacks", 2018,
    appendix C (thresholding filters). Departure: the threshold is laid down, not learnt.

    Args:
        classes: the number of logits.
        shape: channels, height and width of the pixels, at least 4×4.
        width: times the published 16, 32 and 100 units.
        border: so many rows and columns are cut off on each side first.
    """

    classes: int = 10
    shape: tuple[int, int, int] = (1, 28, 28)
    width: int = 1
    border: int = 0
    recipe: ClassVar[str] = "threshold-cnn-mnist-ibp"

    def module(self) -> nn.Module:
        """Build the network."""
        channels, *sides = self.shape
        height, width = (side - 2 * self.border for side in sides)
        if self.border and min(height, width) < 4:
            raise InputError(
                f"the network 'threshold-cnn' has {max(height, 0)}×{max(width, 0)} pixels left within a border of "
                f"{self.border}, and needs at least 4×4; choose a smaller border or larger images."
            )
        rest = StridedCnn(self.classes, (channels, height, width), self.width)
        front: dict[str, nn.Module] = {"crop": nn.ZeroPad2d(-self.border)} if self.border else {}
        front["threshold"] = Threshold()
        return nn.Sequential(OrderedDict(**front, **dict(rest.module().named_children())))
