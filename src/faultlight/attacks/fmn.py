"""Fast minimum-norm attack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from faultlight import geometry
from faultlight.attacks._contract import Pixels, Problem
from faultlight.attacks._nearest import annealed, boundary_distance, climb, first_crossing, project, rooms, softness
from faultlight.errors import InputError
from faultlight.threat import Norm


@dataclass(frozen=True)
class InBall:
    """Where each row stands, the radius of its ball, the distance of its nearest twin so far, its image's margin."""

    x: Pixels
    radius: Float64[Tensor, " n"]
    nearest: Float64[Tensor, " n"]
    scale: Float32[Tensor, " n"]


@dataclass(frozen=True)
class FMN:
    """Gradient steps in a ball whose radius follows the boundary.

    ε ← ‖δ‖ + |margin|/‖g‖_q before a twin is found, then ε·(1 + γ) outside and min(ε·(1 − γ), ‖δ*‖) at a twin, δ* the
    nearest so far; δ ← Π_ε(δ + α·g/‖g‖₂), clipped to the box.

    Source: Pintor et al. 2021, "Fast minimum-norm adversarial attacks through adaptive norm constraints", algorithm 1.

    Departs from the paper: g has the direction of the cross-entropy's gradient, but does not vanish where the model is
    sure; pixels that the box holds back are left out of it; Π_ε is the projection on ball and box together, for a
    point clipped after its projection lies inside the ball, and the guessed radius would never be reached; a guess is
    exceeded by γ, so that it is crossed; α starts at 2 (15 for L∞); for L0 whole pixels count and a guess takes the
    pixels that gain most.

    Args:
        steps: gradient steps.
        gamma: γ in (0, 1) at the first step: how much the radius changes.
        last_gamma: γ at the last step.
        step_size: α at the first step, in pixel units (L2); 0 stands for one that suits the norm.
        last_step_size: α at the last step.
        candidates: the likeliest wrong classes whose linearised boundaries are looked at for a start beyond the
            nearest (one backward pass each); 0 starts at the image.
    """

    steps: int = 100
    gamma: float = 0.05
    last_gamma: float = 0.0001
    step_size: float = 0.0
    last_step_size: float = 0.00001
    candidates: int = 9
    minimal: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.last_gamma <= self.gamma < 1:
            raise InputError(f"FMN needs steps ≥ 1 and 0 < last_gamma ≤ gamma < 1, not {self}.")
        if self.step_size < 0 or self.last_step_size <= 0:
            raise InputError(f"FMN needs step_size ≥ 0 and last_step_size > 0, not {self}.")

    def start(self, problem: Problem) -> InBall:
        """Start beyond the nearest linearised boundary."""
        x, scale = first_crossing(problem, self.candidates, self.gamma)
        radius = geometry.norm(x - problem.x, problem.threat.norm)
        return InBall(x, radius, torch.full_like(radius, torch.inf), scale)

    def step(self, problem: Problem, state: InBall) -> InBall:
        """Set the radius, step uphill, and go back into the ball and the box."""
        margin, gradient = climb(problem, state.x, softness(problem.step, self.steps, state.scale))
        norm = problem.threat.norm
        twin = margin > 0
        gradient = gradient * (rooms(state.x, gradient) > 0)
        size = geometry.norm(state.x - problem.x, norm)
        nearest = torch.where(twin, torch.minimum(size, state.nearest), state.nearest)
        guess = size + _distance(problem, state.x, margin, gradient)
        radius = self._radius(problem, state.radius, nearest, twin, guess)
        length = annealed(problem.step, self.steps, self.step_size or _FIRST[norm], self.last_step_size)
        length = length * (geometry.norm(state.x - problem.x, "l2") + boundary_distance(margin, gradient, "l2")).float()
        moved = state.x - problem.x + geometry.rows(length) * geometry.ascent(gradient, "l2")
        return InBall(project(moved, problem.x, radius, norm), radius, nearest, state.scale)

    def _radius(self, problem: Problem, radius: Tensor, nearest: Tensor, twin: Tensor, guess: Tensor) -> Tensor:
        """Shrink the radius at a twin; elsewhere grow it, or, before the first twin, set it where one is guessed."""
        gamma = annealed(problem.step, self.steps, self.gamma, self.last_gamma).double()
        if problem.threat.norm == "l0":  # by one pixel at least
            gamma = torch.maximum(gamma * radius, torch.ones_like(radius)) / radius.clamp(min=1)
        larger = torch.where(torch.isfinite(nearest), radius, guess) * (1 + gamma)
        smaller = torch.minimum(radius, nearest) * (1 - gamma)
        return torch.where(twin, smaller, larger).clamp(
            min=float(problem.threat.norm == "l0"), max=problem.threat.epsilon
        )


# α at the first step by norm.
_FIRST: dict[Norm, float] = {"linf": 7.0, "l2": 2.0, "l1": 1.5, "l0": 2.0}


def _distance(problem: Problem, x: Tensor, margin: Tensor, gradient: Tensor) -> Tensor:
    if problem.threat.norm != "l0":
        return boundary_distance(margin, gradient, problem.threat.norm)
    gain = (gradient.abs() * rooms(x, gradient)).sum(1).flatten(1).sort(dim=1, descending=True).values
    return ((gain.cumsum(1) < margin.abs()[:, None]).sum(1) + 1).double()
