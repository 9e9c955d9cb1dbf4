"""Adversarial training by one step from a random point."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float32
from torch import Tensor, nn

from faultlight.train.objectives import Batch, Context
from faultlight.train.objectives.adversarial import Adversarial
from faultlight.train.objectives.n_fgsm import NFgsm


@dataclass(frozen=True)
class FgsmRs:
    """Cross-entropy after one step of length α from a random point of the ball: FGSM-RS, "fast" adversarial training.

    δ = Π_ε(η + α·sign ∇ₓ CE(z(x + η), y)), η uniform in the ball. It can fail catastrophically at larger ε: the network
    then resists this step and nothing else.

    Source: Wong, Rice & Kolter 2020, "Fast is better than free: revisiting adversarial training", algorithm 3.
    Departure: the attack sees batch norm with its running statistics.

    Args:
        threat: the ball, such as "linf:8/255".
        step_size: α in units of ε.
    """

    threat: str = "linf:8/255"
    step_size: float = 1.25

    def __post_init__(self) -> None:
        self._plain()

    def __call__(
        self, model: nn.Module, batch: Batch, context: Context
    ) -> tuple[Float32[Tensor, ""], dict[str, Tensor]]:
        """Return the loss, and the accuracy at the points found."""
        return self._plain()(model, batch, context)

    def remedy(self) -> NFgsm | None:
        """Return N-FGSM, in L∞."""
        return self._plain().remedy()

    def _plain(self) -> Adversarial:
        return Adversarial(self.threat, steps=1, step_size=self.step_size)
