"""σ-zero: the fewest pixels, by gradient descent on a smooth count of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float32
from torch import Tensor

from faultlight import geometry
from faultlight.attacks._contract import Pixels, Problem
from faultlight.errors import InputError
from faultlight.threat import Norm


@dataclass(frozen=True)
class Sparse:
    """The point asked about next and the size below which a pixel's change is undone."""

    x: Pixels
    threshold: Float32[Tensor, " n"]


@dataclass(frozen=True)
class SigmaZero:
    """Gradient descent on −min(margin, 0) + (1/hw)·Σ_p ‖δ_p‖² / (‖δ_p‖² + σ), small changes undone at every step.

    δ ← Π_τ(clip(δ − η·∇/‖∇‖_∞)), where Π_τ undoes the pixels with ‖δ_p‖_∞ < τ. While the goal is reached τ grows by
    t·η, else it shrinks by as much; η falls along half a cosine. The nearest twin asked about is kept.

    Source: Cinà et al. 2025, "σ-zero: gradient-based optimization of ℓ0-norm adversarial examples", algorithm 1. There
    the entries of δ are counted; here pixels, channels together: ‖δ_p‖ is the L2 norm over the channels of a pixel. A
    goal is sought by z_t − z_y, as the loss has it.

    Args:
        steps: gradient steps.
        step_size: η at the start, in units of the gradient's largest entry.
        sigma: σ, below which a pixel's squared change counts as little.
        threshold: τ at the start.
        change: t, how fast τ moves, in units of η.
    """

    minimal: ClassVar[bool] = True
    norms: ClassVar[tuple[Norm, ...]] = ("l0",)

    steps: int = 300
    step_size: float = 1.0
    sigma: float = 1e-3
    threshold: float = 0.3
    change: float = 0.01

    def __post_init__(self) -> None:
        if self.steps < 1 or min(self.step_size, self.sigma, self.threshold, self.change) <= 0:
            raise InputError(f"σ-zero needs steps ≥ 1 and step_size, sigma, threshold and change > 0, not {self}.")

    def start(self, problem: Problem) -> Sparse:
        """Start at the image."""
        return Sparse(problem.x, torch.full_like(problem.x[:, 0, 0, 0], self.threshold))

    def step(self, problem: Problem, state: Sparse) -> Sparse:
        """Descend, undo small changes and move the threshold."""
        logits, _, slope = problem.differentiate(state.x, "margin")
        reached = problem.margin(logits) > 0
        delta = state.x - problem.x
        # The margin counts only up to 0: where the goal is reached, what is left to do is to change fewer pixels.
        descent = torch.where(geometry.rows(reached), 0, -slope) + self._count_slope(delta)
        largest = geometry.rows(descent.abs().amax((1, 2, 3))).clamp(min=torch.finfo(torch.float32).tiny)
        size = self._step_size(problem.step)
        move = torch.where(reached, self.change, -self.change) * size * (problem.step > 1)
        threshold = (state.threshold + move).clamp(min=0)
        moved = (state.x - geometry.rows(size) * descent / largest).clamp(0, 1)
        small = (moved - problem.x).abs().amax(1, keepdim=True) < geometry.rows(threshold)
        return Sparse(torch.where(small, problem.x, moved), threshold)

    def _count_slope(self, delta: Tensor) -> Tensor:
        """Return the slope of the smooth count, divided by the number of pixels."""
        square = delta.square().sum(1, keepdim=True)
        return 2 * self.sigma * delta / (square + self.sigma).square() / square[0].numel()

    def _step_size(self, step: Tensor) -> Tensor:
        return self.step_size * 0.5 * (1 + torch.cos(math.pi * (step - 1) / self.steps))
