"""Random noise: the weakest attacker, and the control that every other must beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from faultlight import geometry
from faultlight.attacks._contract import Point, Problem
from faultlight.errors import InputError


@dataclass(frozen=True)
class UniformNoise:
    """Points drawn uniformly from the ball, one a step; no gradient is used.

    L∞: x' = clip(x + ε·u), u ~ U[−1, 1]; other norms as `geometry.random_in_ball` says.

    Source: Carlini et al. 2019, "On evaluating adversarial robustness", the checklist's attack "with random noise of
    the correct norm".

    Args:
        steps: how many points are tried for each image, after a first one.
    """

    knowledge: ClassVar[str] = "nothing"

    steps: int = 10

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"uniform noise needs steps ≥ 1, not {self.steps}.")

    def start(self, problem: Problem) -> Point:
        """Propose a first random point."""
        return Point(geometry.random_in_ball(problem.uniform(), problem.x, problem.threat))

    def step(self, problem: Problem, state: Point) -> Point:
        """Evaluate the point and propose another."""
        problem.logits(state.x)
        return self.start(problem)
