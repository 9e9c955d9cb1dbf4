"""Learning from a teacher's softened output."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float32
from torch import Tensor, nn

from faultlight.train.objectives import Batch, Context
from faultlight.train.objectives._terms import (
    check_positive,
    check_share,
    cross_entropy,
    divergence,
    logits,
    teach,
)


@dataclass(frozen=True)
class Distillation:
    """α·T²·KL(softmax(t(x)/T) ‖ softmax(z(x)/T)) + (1 − α)·CE(z(x), y), with t the teacher.

    T² makes up for the soft targets' gradients, which shrink as 1/T². The teacher sees the augmented image too.

    Source: Hinton, Vinyals & Dean 2015, "Distilling the knowledge in a neural network", section 2. Departure: the
    divergence for the cross-entropy with soft targets, which has the same gradient.

    Args:
        teacher: the teacher's folder.
        temperature: T, above 0.
        weight: α of the soft targets, in [0, 1].
    """

    teacher: str = ""
    temperature: float = 4.0
    weight: float = 0.9

    def __post_init__(self) -> None:
        check_positive("temperature", self.temperature, zero=False)
        check_share("weight", self.weight)

    def __call__(
        self, model: nn.Module, batch: Batch, context: Context
    ) -> tuple[Float32[Tensor, ""], dict[str, Tensor]]:
        """Return the loss and its two terms."""
        out = logits(model, batch.x)
        soft = self.temperature**2 * divergence(teach(context, batch.x), out, self.temperature).mean()
        hard = cross_entropy(out, batch.y, context)
        loss = self.weight * soft + (1 - self.weight) * hard
        return loss, {"soft_loss": soft.detach(), "hard_loss": hard.detach()}
