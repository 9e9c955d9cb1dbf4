"""Cross-entropy on images under attack: adversarial training."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float32
from torch import Tensor, nn

from faultlight.threat import parse_threat
from faultlight.train.objectives import Batch, Context
from faultlight.train.objectives._terms import attacked, check_share, cross_entropy, grown, logits, pgd
from faultlight.train.objectives.n_fgsm import NFgsm


@dataclass(frozen=True)
class Adversarial:
    """Mean cross-entropy at the points that projected gradient descent finds: min_θ E max_{‖δ‖≤ε} CE(z(x + δ), y).

    Source: Madry et al. 2018, "Towards deep learning models resistant to adversarial attacks", section 2, eq. 2.1.
    Departure: the attack sees batch norm with its running statistics.

    Args:
        threat: the ball, such as "linf:8/255".
        steps: of the attack; 1 with random_start = false and step_size = 1 is FGSM.
        step_size: in units of ε; 0 stands for 2.5 / steps.
        random_start: begin at a random point of the ball.
        ramp: share of the run over which ε rises from 0, in [0, 1].
        straight_through: a layer that learns nothing, such as "threshold", which gradients pass as if it were the
            identity, during the run and in the figure of its robust target; "" for none.
    """

    threat: str = "linf:8/255"
    steps: int = 7
    step_size: float = 0.25
    random_start: bool = True
    ramp: float = 0.0
    straight_through: str = ""

    def __post_init__(self) -> None:
        pgd(self.threat, self.steps, self.step_size)
        check_share("ramp", self.ramp)

    def __call__(
        self, model: nn.Module, batch: Batch, context: Context
    ) -> tuple[Float32[Tensor, ""], dict[str, Tensor]]:
        """Return the loss, and the accuracy at the points found."""
        threat, attack = pgd(self.threat, self.steps, self.step_size, self.random_start)
        points = attacked(model, batch, context, grown(threat, context, self.ramp), attack)
        out = logits(model, points)
        accuracy = (out.argmax(1) == batch.y).float().mean()
        return cross_entropy(out, batch.y, context), {"attacked_accuracy": accuracy}

    def remedy(self) -> NFgsm | None:
        """Return N-FGSM for a single step in L∞: it costs the same, and its noise keeps the loss from bending."""
        return NFgsm(self.threat) if self.steps == 1 and parse_threat(self.threat).norm == "linf" else None
