"""A soft threshold on every pixel, then the small network of the certification papers."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from faultlight.models.zoo._parts import Threshold
from faultlight.models.zoo.strided_cnn import StridedCnn

# Pixels below it become 0, pixels above its mirror image 1.
LOW = 0.3


@dataclass(frozen=True)
class ThresholdCnn:
    """`strided-cnn` behind t(x) = 1 − ReLU(1 − ReLU((x − 0.3)/0.4)), which is not learnt.

    Up to 0.3, a change of a pixel that is 0 or 1 leaves t as it is: what L∞ 0.3 can still move are the grey pixels on
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
    """

    classes: int = 10
    shape: tuple[int, int, int] = (1, 28, 28)
    width: int = 1
    recipe: ClassVar[str] = "threshold-cnn-mnist-ibp"

    def module(self) -> nn.Module:
        """Build the network."""
        rest = StridedCnn(self.classes, self.shape, self.width).module()
        return nn.Sequential(OrderedDict(threshold=Threshold(LOW), **dict(rest.named_children())))
