"""Cross-entropy on clean images, and agreement with them under attack."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float32
from torch import Tensor, nn

from faultlight.train.inner import Pixels
from faultlight.train.objectives import Batch, Context
from faultlight.train.objectives._terms import (
    check_positive,
    check_share,
    clean_logits,
    cross_entropy,
    diverged,
    divergence,
    grown,
    logits,
    pgd,
)


@dataclass(frozen=True)
class TRADES:
    """Clean cross-entropy and β times how far the output moves under attack.

    CE(z(x), y) + β·KL(softmax z(x) ‖ softmax z(x')), x' the point of the ball that PGD finds to increase that
    divergence, begun at x + 0.001·N(0, I). Both are means over the batch.

    Source: Zhang et al. 2019, "Theoretically principled trade-off between robustness and accuracy", algorithm 1
    (there 1/λ is β).

    Args:
        beta: β; 6 in the paper.
        threat: the ball, such as "linf:8/255".
        steps: of the attack.
        step_size: in units of ε.
        ramp: share of the run over which ε rises from 0, in [0, 1].
    """

    beta: float = 6.0
    threat: str = "linf:8/255"
    steps: int = 10
    step_size: float = 0.25
    ramp: float = 0.0

    def __post_init__(self) -> None:
        pgd(self.threat, self.steps, self.step_size)
        check_positive("beta", self.beta)
        check_share("ramp", self.ramp)

    def __call__(
        self, model: nn.Module, batch: Batch, context: Context
    ) -> tuple[Float32[Tensor, ""], dict[str, Tensor]]:
        """Return the loss and its two terms."""
        return self.loss(model, batch, self.points(model, batch, context), context)

    def points(self, model: nn.Module, batch: Batch, context: Context) -> Pixels:
        """Return x'."""
        threat, attack = pgd(self.threat, self.steps, self.step_size)
        around = grown(threat, context, self.ramp)
        return diverged(model, batch, context, around, attack, clean_logits(model, batch.x))

    def loss(
        self, model: nn.Module, batch: Batch, points: Pixels, context: Context
    ) -> tuple[Float32[Tensor, ""], dict[str, Tensor]]:
        """Return the loss and its two terms at given points."""
        clean = logits(model, batch.x)
        natural = cross_entropy(clean, batch.y, context)
        apart = divergence(clean, logits(model, points)).mean()
        return natural + self.beta * apart, {"clean_loss": natural.detach(), "divergence": apart.detach()}
