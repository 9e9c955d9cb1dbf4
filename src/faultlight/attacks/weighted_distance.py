"""From an image to a class, with a price on the distance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from faultlight.attacks._contract import Point, Problem
from faultlight.errors import InputError
from faultlight.threat import Norm


@dataclass(frozen=True)
class WeightedDistance:
    """Gradient descent on the doubt of the target plus the squared distance from the image.

    min over x' in [0, 1] of −log p_t(x') + b·‖x' − x‖₂²; without a target, log p_y(x') takes the first term's place.
    It stops short of the ball of the threat only by what the distance costs: the smaller b, the surer and the farther.

    Source: Szegedy et al. 2014, "Intriguing properties of neural networks", §4.1 (there with the unsquared norm,
    L-BFGS and a search over b); plain gradient descent with a fixed b here.

    Args:
        steps: gradient steps.
        weight: b, what a unit of squared L2 distance costs.
        step_size: what the gradient is multiplied by.
        targets: runs at each of the k most likely wrong classes; 0 is untargeted.
    """

    norms: ClassVar[tuple[Norm, ...]] = ("l2",)
    minimal: ClassVar[bool] = True

    steps: int = 200
    weight: float = 1.0
    step_size: float = 0.05
    targets: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.weight < 0 or self.step_size <= 0 or self.targets < 0:
            raise InputError(
                f"weighted distance needs steps ≥ 1, weight ≥ 0, step_size > 0 and targets ≥ 0, not {self}."
            )

    def start(self, problem: Problem) -> Point:
        """Start at the image itself."""
        return Point(problem.x)

    def step(self, problem: Problem, state: Point) -> Point:
        """Go down the gradient of the sum, and stay in the box."""
        _, gradient = problem.gradient(state.x, "cross-entropy")
        downhill = gradient - 2 * self.weight * (state.x - problem.x)
        return Point((state.x + self.step_size * downhill).clamp(0, 1))
