"""The fast gradient sign method."""

from __future__ import annotations

from dataclasses import dataclass

from faultlight import geometry
from faultlight.attacks._contract import Point, Problem
from faultlight.losses import LossName


@dataclass(frozen=True)
class FGSM:
    """One step of the full radius along the gradient at the image itself.

    x' = clip(x + ε·sign ∇ₓ L(x, y)) for L∞; for the other norms the steepest step of length ε.

    Source: Goodfellow et al. 2015, "Explaining and harnessing adversarial examples", §4.

    Args:
        loss: what is increased: "cross-entropy", "margin" or "dlr".
    """

    loss: LossName = "cross-entropy"

    @property
    def steps(self) -> int:
        """One step, by definition."""
        return 1

    def start(self, problem: Problem) -> Point:
        """Start at the image itself."""
        return Point(problem.x)

    def step(self, problem: Problem, state: Point) -> Point:
        """Take the one step."""
        _, gradient = problem.gradient(state.x, self.loss)
        direction = geometry.ascent(gradient, problem.threat.norm)
        return Point(problem.project(problem.x + problem.threat.epsilon * direction))
