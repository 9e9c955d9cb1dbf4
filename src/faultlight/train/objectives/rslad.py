"""Learning a robust network from a robust teacher's soft labels alone."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float32
from torch import Tensor, nn

from faultlight.train.objectives import Batch, Context
from faultlight.train.objectives._terms import check_share, diverged, divergence, logits, pgd, teach


@dataclass(frozen=True)
class RSLAD:
    """α·KL(softmax t(x) ‖ softmax z(x')) + (1 − α)·KL(softmax t(x) ‖ softmax z(x)): robust soft label distillation.

    t is a robust teacher, x' what PGD finds to increase KL(softmax t(x) ‖ softmax z(x')), begun at x + 0.001·N(0, I).
    No label is used.

    Source: Zi et al. 2021, "Revisiting adversarial robustness distillation: robust soft labels make student better".

    Args:
        teacher: the robust teacher's folder.
        weight: α, in [0, 1]; 5/6 in the paper.
        threat: the ball, such as "linf:8/255".
        steps: of the attack.
        step_size: in units of ε.
    """

    teacher: str = ""
    weight: float = 5 / 6
    threat: str = "linf:8/255"
    steps: int = 10
    step_size: float = 0.25

    def __post_init__(self) -> None:
        pgd(self.threat, self.steps, self.step_size)
        check_share("weight", self.weight)

    def __call__(
        self, model: nn.Module, batch: Batch, context: Context
    ) -> tuple[Float32[Tensor, ""], dict[str, Tensor]]:
        """Return the loss and its two terms."""
        target = teach(context, batch.x)
        threat, attack = pgd(self.threat, self.steps, self.step_size)
        points = diverged(model, batch, context, threat, attack, target)
        hard = divergence(target, logits(model, points)).mean()
        natural = divergence(target, logits(model, batch.x)).mean()
        loss = self.weight * hard + (1 - self.weight) * natural
        return loss, {"attacked_divergence": hard.detach(), "clean_divergence": natural.detach()}
