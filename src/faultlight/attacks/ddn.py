"""Decoupled direction and norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from faultlight import geometry
from faultlight.attacks._contract import Pixels, Problem
from faultlight.attacks._nearest import annealed, boundary_distance, climb, first_crossing, softness
from faultlight.errors import InputError
from faultlight.threat import Norm

# √T of the loss at the first and the last step, in shares of the image's margin: where many classes keep a share in the
# gradient, the direction still turns when the sphere is small.
_SOFTNESS = (0.5, 0.1)


@dataclass(frozen=True)
class OnSphere:
    """Where each row stands, the radius of its sphere (0 where that is not known yet), and its image's margin."""

    x: Pixels
    radius: Float64[Tensor, " n"]
    scale: Float32[Tensor, " n"]


@dataclass(frozen=True)
class DDN:
    """Gradient steps on a sphere that shrinks where its point is a twin and grows where it is not.

    ε ← ε·(1 ∓ γ), δ ← δ + α·g/‖g‖₂, δ ← ε·δ/‖δ‖₂, x' = clip(x + δ). The direction is free to turn, for its length is
    decided apart.

    Source: Rony et al. 2019, "Decoupling direction and norm for efficient gradient-based L2 adversarial attacks and
    defenses", algorithm 1.

    Departs from the paper: g has the direction of the cross-entropy's gradient, but does not vanish where the model is
    sure; the first radius is the distance |margin| / ‖g‖₂ of a linear model's boundary, not 1; α starts at 2, not at 1;
    γ falls with α, so that the last points close in on the boundary instead of jumping over it; pixels are not rounded
    to 8 bits.

    Args:
        steps: gradient steps.
        gamma: γ in (0, 1) at the first step: how much the radius changes.
        last_gamma: γ at the last step.
        step_size: α at the first step, in pixel units (L2).
        last_step_size: α at the last step.
        candidates: the likeliest wrong classes whose linearised boundaries are looked at for a start beyond the
            nearest (one backward pass each); 0 starts at the image.
    """

    steps: int = 100
    gamma: float = 0.05
    last_gamma: float = 0.001
    step_size: float = 2.0
    last_step_size: float = 0.01
    candidates: int = 0
    minimal: ClassVar[bool] = True
    norms: ClassVar[tuple[Norm, ...]] = ("l2",)

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.last_gamma <= self.gamma < 1:
            raise InputError(f"DDN needs steps ≥ 1 and 0 < last_gamma ≤ gamma < 1, not {self}.")
        if not 0 < self.last_step_size <= self.step_size:
            raise InputError(f"DDN needs 0 < last_step_size ≤ step_size, not {self}.")

    def start(self, problem: Problem) -> OnSphere:
        """Start at the image, or beyond the nearest linearised boundary."""
        x, scale = first_crossing(problem, self.candidates, self.gamma)
        return OnSphere(x, geometry.norm(x - problem.x, "l2"), scale)

    def step(self, problem: Problem, state: OnSphere) -> OnSphere:
        """Turn the direction, then set the radius."""
        margin, gradient = climb(problem, state.x, softness(problem.step, self.steps, state.scale, *_SOFTNESS))
        shift = annealed(problem.step, self.steps, self.gamma, self.last_gamma).double()
        guess = boundary_distance(margin, gradient, "l2")
        radius = torch.where(state.radius > 0, state.radius, guess) * torch.where(margin > 0, 1 - shift, 1 + shift)
        radius = radius.clamp(max=problem.threat.epsilon)
        length = radius.float() * annealed(problem.step, self.steps, self.step_size, self.last_step_size)
        direction = geometry.ascent(state.x - problem.x + geometry.rows(length) * geometry.ascent(gradient, "l2"), "l2")
        return OnSphere((problem.x + geometry.rows(radius).float() * direction).clamp(0, 1), radius, state.scale)
