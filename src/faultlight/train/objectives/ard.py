"""Learning a robust network from a robust teacher's clean output."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float32
from torch import Tensor, nn

from faultlight.train.objectives import Batch, Context
from faultlight.train.objectives._terms import (
    attacked,
    check_positive,
    check_share,
    cross_entropy,
    divergence,
    logits,
    pgd,
    teach,
)


@dataclass(frozen=True)
class ARD:
    """α·T²·KL(softmax(t(x)/T) ‖ softmax(z(x')/T)) + (1 − α)·CE(z(x), y): adversarially robust distillation.

    t is a robust teacher, x' what PGD on the student's cross-entropy finds.

    Source: Goldblum et al. 2020, "Adversarially robust distillation".

    Args:
        teacher: the robust teacher's folder.
        temperature: T, above 0; 30 in the paper.
        weight: α, in [0, 1].
        threat: the ball, such as "linf:8/255".
        steps: of the attack.
        step_size: in units of ε.
    """

    teacher: str = ""
    temperature: float = 30.0
    weight: float = 1.0
    threat: str = "linf:8/255"
    steps: int = 10
    step_size: float = 0.25

    def __post_init__(self) -> None:
        pgd(self.threat, self.steps, self.step_size)
        check_positive("temperature", self.temperature, zero=False)
        check_share("weight", self.weight)

    def __call__(
        self, model: nn.Module, batch: Batch, context: Context
    ) -> tuple[Float32[Tensor, ""], dict[str, Tensor]]:
        """Return the loss and its terms."""
        points = attacked(model, batch, context, *pgd(self.threat, self.steps, self.step_size))
        hard = logits(model, points)
        soft = self.temperature**2 * divergence(teach(context, batch.x), hard, self.temperature).mean()
        if self.weight == 1:  # the clean pass is spared where it has no say
            return soft, {"soft_loss": soft.detach()}
        natural = cross_entropy(logits(model, batch.x), batch.y, context)
        loss = self.weight * soft + (1 - self.weight) * natural
        return loss, {"soft_loss": soft.detach(), "clean_loss": natural.detach()}
