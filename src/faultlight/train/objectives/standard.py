"""Cross-entropy on the images themselves, or on mixtures of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn

from faultlight.train.objectives import Batch, Context
from faultlight.train.objectives._terms import check_positive, cross_entropy, logits


@dataclass(frozen=True)
class Standard:
    """Mean cross-entropy with the recipe's label smoothing, on mixed images if asked.

    λ·CE(z(x̃), y) + (1 − λ)·CE(z(x̃), y'), with x' another image of the batch and λ from Beta(α, α), one λ a batch.
    Mixup: x̃ = λx + (1 − λ)x'. CutMix: x̃ is x but for a box of x' with the share 1 − λ of the area. With both, either
    is taken with probability ½.

    Source: Zhang et al. 2018, "mixup: beyond empirical risk minimization", section 2; Yun et al. 2019, "CutMix:
    regularization strategy to train strong classifiers with localizable features", section 3.1.

    Args:
        mixup: α of mixup; 0 mixes nothing.
        cutmix: α of CutMix; 0 cuts nothing.
    """

    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        check_positive("mixup", self.mixup)
        check_positive("cutmix", self.cutmix)

    def __call__(
        self, model: nn.Module, batch: Batch, context: Context
    ) -> tuple[Float32[Tensor, ""], dict[str, Tensor]]:
        """Return the loss."""
        if not self.mixup and not self.cutmix:
            return cross_entropy(logits(model, batch.x), batch.y, context), {}
        draw = np.random.default_rng(context.key("mixing"))
        every_x, every_y = context.share.whole(batch.x), context.share.whole(batch.y)
        partner = context.share.own(torch.from_numpy(draw.permutation(len(every_y))).to(every_y.device))
        x, share = self._mix(batch.x, every_x[partner], draw)
        out = logits(model, x)
        first, second = (cross_entropy(out, y, context) for y in (batch.y, every_y[partner]))
        return share * first + (1 - share) * second, {}

    def _mix(self, x: Tensor, other: Tensor, draw: np.random.Generator) -> tuple[Tensor, float]:
        cut = not self.mixup or (self.cutmix > 0 and draw.random() < 0.5)
        alpha = self.cutmix if cut else self.mixup
        share = float(draw.beta(alpha, alpha))
        if not cut:
            return share * x + (1 - share) * other, share
        return paste(x, other, share, float(draw.random()), float(draw.random()))


def paste(x: Tensor, other: Tensor, share: float, down: float, right: float) -> tuple[Tensor, float]:
    """Return x with a box of another batch in it, and the share of the area that is still x.

    Args:
        x: pixels, (n, c, h, w).
        other: pixels of the same shape.
        share: λ; the box has the sides h·√(1 − λ) and w·√(1 − λ), and is cut off at the border.
        down: where its centre lies, as a share of the height.
        right: the same of the width.
    """
    height, width = x.shape[2:]
    top, bottom = _side(height, share, down)
    left, end = _side(width, share, right)
    mixed = x.clone()
    mixed[:, :, top:bottom, left:end] = other[:, :, top:bottom, left:end]
    return mixed, 1 - (bottom - top) * (end - left) / (height * width)


def _side(size: int, share: float, centre: float) -> tuple[int, int]:
    half, middle = int(size * (1 - share) ** 0.5) // 2, int(centre * size)
    return max(middle - half, 0), min(middle + half, size)
