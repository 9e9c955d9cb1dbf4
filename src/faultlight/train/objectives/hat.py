"""TRADES with examples that keep the margin from growing too large."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float32
from torch import Tensor, nn
from torch.nn import functional

from faultlight.train.objectives import Batch, Context
from faultlight.train.objectives._terms import check_positive, logits, teach
from faultlight.train.objectives.trades import TRADES


@dataclass(frozen=True)
class HAT:
    """Helper-based adversarial training: TRADES, and beyond each attacked point the class that a plain network sees.

    CE(z(x), y) + β·KL(softmax z(x) ‖ softmax z(x')) + γ·CE(z(x + h·(x' − x)), argmax t(x')), t a network trained
    without attacks, x' as in TRADES.

    Source: Rade & Moosavi-Dezfooli 2022, "Reducing excessive margin to achieve a better accuracy vs. robustness
    trade-off". Departure: the helper examples are clipped to [0, 1].

    Args:
        teacher: the folder of the plain network.
        beta: β.
        gamma: γ.
        reach: h, how far beyond the image the helper lies, in units of the attack's perturbation.
        threat: the ball, such as "linf:8/255".
        steps: of the attack.
        step_size: in units of ε.
    """

    teacher: str = ""
    beta: float = 2.5
    gamma: float = 0.5
    reach: float = 2.0
    threat: str = "linf:8/255"
    steps: int = 10
    step_size: float = 0.25

    def __post_init__(self) -> None:
        self._trades()
        check_positive("gamma", self.gamma)
        check_positive("reach", self.reach, zero=False)

    def __call__(
        self, model: nn.Module, batch: Batch, context: Context
    ) -> tuple[Float32[Tensor, ""], dict[str, Tensor]]:
        """Return the loss and its three terms."""
        trades = self._trades()
        points = trades.points(model, batch, context)
        loss, terms = trades.loss(model, batch, points, context)
        beyond = (batch.x + self.reach * (points - batch.x)).clamp(0, 1)
        helped = functional.cross_entropy(logits(model, beyond), teach(context, points).argmax(1))
        return loss + self.gamma * helped, {**terms, "helper_loss": helped.detach()}

    def _trades(self) -> TRADES:
        return TRADES(self.beta, self.threat, self.steps, self.step_size)
