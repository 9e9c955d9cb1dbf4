"""Auto-PGD: projected gradient descent that sets its own step size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from faultlight import geometry
from faultlight.attacks._contract import Pixels, Problem
from faultlight.attacks._starts import begin, surface
from faultlight.errors import InputError
from faultlight.losses import LossName
from faultlight.threat import Norm


@dataclass(frozen=True)
class Climb:
    """Where each row stands, the best it has seen, and what the next checkpoint goes by.

    Args:
        x: where the row stands.
        previous: where it stood a step before.
        gradient: of the loss at x.
        value: the loss of the last point asked about.
        best, best_gradient, best_value: the point of the largest loss, and what was seen there.
        length: the step size η in units of ε.
        rises: steps since the last checkpoint on which the loss grew.
        checked: the largest loss at the last checkpoint.
        halved: whether η was halved there.
    """

    x: Pixels
    previous: Pixels
    gradient: Pixels
    value: Float32[Tensor, " n"]
    best: Pixels
    best_gradient: Pixels
    best_value: Float32[Tensor, " n"]
    length: Float32[Tensor, " n"]
    rises: Int64[Tensor, " n"]
    checked: Float32[Tensor, " n"]
    halved: Bool[Tensor, " n"]


@dataclass(frozen=True)
class APGD:
    """Steps with momentum whose size, at first 2ε, is halved at checkpoints where they no longer help.

    z = Π(x + η·s(∇ₓ L)), x ← Π(x + α(z − x) + (1 − α)(x − x₋₁)), with s the sign for L∞ and the unit vector for L2.
    At checkpoint wⱼ the step is halved, and the run goes on from its best point, where (1) the loss grew on at most
    ρ(wⱼ − wⱼ₋₁) of the steps since wⱼ₋₁, or (2) η was not halved at wⱼ₋₁ and the largest loss has not grown since.

    Source: Croce & Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
    attacks", §3, algorithm 1.

    With the defaults it is AutoAttack's APGD-CE; with loss = "dlr" and targets = 9 its APGD-T. As in AutoAttack's
    program, condition 1 counts a tie as too few, checkpoints are whole numbers (22, 19, 16, … steps apart of 100),
    and a step in L2 is moved into the ball first and into the box then. That program compares the loss after the
    first step with 0; here, as in the paper, with the loss at the start.

    Args:
        steps: gradient steps a run; the start costs one forward and one backward pass more.
        loss: what is increased: "cross-entropy", "margin" or "dlr".
        restarts: runs an image.
        targets: runs at each of the k most likely wrong classes; 0 is untargeted.
        random_start: begin at a random point of the ball's surface (always so from the second restart on).
        diversify: output-diversified steps before the first (Tashiro et al. 2020), each a forward and a backward pass.
        momentum: α in (0, 1]: the share of the new step; the rest is that of the step before.
        rho: ρ in [0, 1].
    """

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")

    steps: int = 100
    loss: LossName = "cross-entropy"
    restarts: int = 1
    targets: int = 0
    random_start: bool = True
    diversify: int = 0
    momentum: float = 0.75
    rho: float = 0.75

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1 or self.targets < 0 or self.diversify < 0:
            raise InputError(f"APGD needs steps ≥ 1, restarts ≥ 1, targets ≥ 0 and diversify ≥ 0, not {self}.")
        if not 0 < self.momentum <= 1 or not 0 <= self.rho <= 1:
            raise InputError(f"APGD needs momentum in (0, 1] and rho in [0, 1], not {self}.")

    def start(self, problem: Problem) -> Climb:
        """Begin at a random point of the surface, or at the image, and look at the loss there."""
        x = begin(problem, surface(problem), random_start=self.random_start, diversify=self.diversify)
        value, gradient = problem.gradient(x, self.loss)
        return Climb(
            x=x,
            previous=x,
            gradient=gradient,
            value=value,
            best=x,
            best_gradient=gradient,
            best_value=value,
            length=torch.full_like(value, 2.0),
            rises=torch.zeros_like(problem.y),
            checked=value,
            halved=torch.ones_like(value, dtype=torch.bool),
        )

    def step(self, problem: Problem, state: Climb) -> Climb:
        """Take a step, look at the loss there, and at a checkpoint at the step size."""
        x = self._move(problem, state)
        value, gradient = problem.gradient(x, self.loss)
        return self._check(problem.step, _arrive(state, x, value, gradient))

    def _move(self, problem: Problem, state: Climb) -> Pixels:
        length = geometry.rows(state.length) * problem.threat.epsilon
        ahead = _project(problem, state.x + length * geometry.ascent(state.gradient, problem.threat.norm))
        share = geometry.rows(torch.where(problem.step == 1, 1.0, self.momentum))
        return _project(problem, state.x + share * (ahead - state.x) + (1 - share) * (state.x - state.previous))

    def _check(self, step: Int64[Tensor, " n"], state: Climb) -> Climb:
        periods = {w: w - before for before, w in pairwise(checkpoints(self.steps))}
        table = [periods.get(at, 0) for at in range(self.steps + 1)]
        period = torch.tensor(table, device=step.device)[step.clamp(max=self.steps)]
        due = period > 0
        too_few = state.rises <= self.rho * period
        stuck = ~state.halved & (state.best_value <= state.checked)
        halve = due & (too_few | stuck)
        return replace(
            state,
            x=torch.where(geometry.rows(halve), state.best, state.x),
            gradient=torch.where(geometry.rows(halve), state.best_gradient, state.gradient),
            length=torch.where(halve, state.length / 2, state.length),
            rises=torch.where(due, 0, state.rises),
            checked=torch.where(due, state.best_value, state.checked),
            halved=torch.where(due, halve, state.halved),
        )


def checkpoints(steps: int) -> tuple[int, ...]:
    """Return w₀ = 0, w₁, …: of N steps the first after 0.22·N, each distance 0.03·N shorter, none below 0.06·N."""
    period, shrinking, least = (max(1, percent * steps // 100) for percent in (22, 3, 6))
    found = [0]
    while found[-1] + period <= steps:
        found.append(found[-1] + period)
        period = max(period - shrinking, least)
    return tuple(found)


def _arrive(state: Climb, x: Tensor, value: Tensor, gradient: Tensor) -> Climb:
    """Note what was seen at the next point."""
    better = value > state.best_value
    return replace(
        state,
        x=x,
        previous=state.x,
        gradient=gradient,
        value=value,
        best=torch.where(geometry.rows(better), x, state.best),
        best_gradient=torch.where(geometry.rows(better), gradient, state.best_gradient),
        best_value=torch.where(better, value, state.best_value),
        rises=state.rises + (value > state.value),
    )


def _project(problem: Problem, candidate: Tensor) -> Tensor:
    """Move into the ball first and into the box then, which keeps it in the ball."""
    if problem.threat.norm == "l2":
        delta = candidate - problem.x
        size = geometry.norm(delta, "l2").float().clamp(min=1e-12)
        candidate = problem.x + delta * geometry.rows((problem.threat.epsilon / size).clamp(max=1))
    return problem.project(candidate)
