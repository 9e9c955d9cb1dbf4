"""Adversarial training that minds what is misclassified already."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn
from torch.nn import functional

from faultlight.train.objectives import Batch, Context
from faultlight.train.objectives._terms import (
    Logits,
    attacked,
    check_positive,
    check_share,
    divergence,
    grown,
    logits,
    pgd,
)

# A probability that rounds to 1 would make log(1 − p) infinite.
_FLOOR = 1e-6


@dataclass(frozen=True)
class MART:
    """Boosted cross-entropy under attack, and agreement with the clean output where that is wrong.

    BCE(z(x'), y) + λ·(1 − p_y(x))·KL(p(x) ‖ p(x')), p = softmax z, BCE(z, y) = −log p_y − log(1 − max_{k≠y} p_k), x'
    from PGD on the cross-entropy; a mean over the batch.

    Source: Wang et al. 2020, "Improving adversarial robustness requires revisiting misclassified examples". Label
    smoothing has no part in it.

    Args:
        weight: λ; 5 in the paper.
        threat: the ball, such as "linf:8/255".
        steps: of the attack.
        step_size: in units of ε.
        ramp: share of the run over which ε rises from 0, in [0, 1].
    """

    weight: float = 5.0
    threat: str = "linf:8/255"
    steps: int = 10
    step_size: float = 0.25
    ramp: float = 0.0

    def __post_init__(self) -> None:
        pgd(self.threat, self.steps, self.step_size)
        check_positive("weight", self.weight)
        check_share("ramp", self.ramp)

    def __call__(
        self, model: nn.Module, batch: Batch, context: Context
    ) -> tuple[Float32[Tensor, ""], dict[str, Tensor]]:
        """Return the loss and its two terms."""
        threat, attack = pgd(self.threat, self.steps, self.step_size)
        points = attacked(model, batch, context, grown(threat, context, self.ramp), attack)
        clean, hard = logits(model, batch.x), logits(model, points)
        boosted = boosted_cross_entropy(hard, batch.y).mean()
        doubt = 1 - clean.softmax(1).gather(1, batch.y[:, None])[:, 0]
        apart = (doubt * divergence(clean, hard)).mean()
        return boosted + self.weight * apart, {"boosted_loss": boosted.detach(), "divergence": apart.detach()}


def boosted_cross_entropy(out: Logits, y: Int64[Tensor, " n"]) -> Float32[Tensor, " n"]:
    """Return −log p_y − log(1 − max_{k≠y} p_k) of each row."""
    others = out.softmax(1).scatter(1, y[:, None], 0.0).amax(1)
    return functional.cross_entropy(out, y, reduction="none") - torch.log((1 - others).clamp(min=_FLOOR))
