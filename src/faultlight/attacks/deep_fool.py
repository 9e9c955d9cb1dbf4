"""DeepFool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from faultlight import geometry
from faultlight.attacks._contract import Pixels, Problem
from faultlight.attacks._nearest import climb_each, rivals
from faultlight.attacks._planes import BEYOND, reach, shortest
from faultlight.errors import InputError
from faultlight.threat import Norm


@dataclass(frozen=True)
class Crossing:
    """Where each row stands.

    Args:
        x: the point.
        classes: the classes it may move to.
        crossed: whether it is a twin.
        left: twins that are still to be found before the row is done.
        finished: none is.
    """

    x: Pixels
    classes: Int64[Tensor, "n k"]
    crossed: Bool[Tensor, " n"]
    left: Int64[Tensor, " n"]
    finished: Bool[Tensor, " n"]


@dataclass(frozen=True)
class DeepFool:
    """Again and again to the nearest of the linearised boundaries, until one is crossed; then nearer along it.

    With f_j = z_j − z_y and w_j = ∇f_j the step is the smallest δ with ⟨w_j, δ⟩ = −f_j, of all j the shortest; x is
    moved by (1 + η)·δ. Every point is asked about, so that the last, which crosses, counts; none is handed back unseen.

    Source: Moosavi-Dezfooli et al. 2016, "DeepFool: a simple and accurate method to fool deep neural networks",
    algorithm 2 and §3.3.

    Departs from the paper: steps are the shortest *inside the box*, where the paper's are clipped afterwards; the
    overshoot belongs to each step; and a twin is refined: the boundary is linearised where the twin lies, and the point
    of that plane nearest to the image is tried next. The paper stops at the first twin, whose direction is the sum of
    steps that each started somewhere else.

    Args:
        steps: steps at most.
        overshoot: η ≥ 0: how much farther than the linearised boundary a step goes.
        refinements: twins that are looked for after the first.
        candidates: the likeliest wrong classes that are considered; of ten classes 9 is all.
    """

    steps: int = 50
    overshoot: float = 0.02
    refinements: int = 2
    candidates: int = 9
    minimal: ClassVar[bool] = True
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")

    def __post_init__(self) -> None:
        if min(self.steps, self.candidates) < 1 or min(self.overshoot, self.refinements) < 0:
            raise InputError(f"DeepFool needs steps, candidates ≥ 1 and overshoot, refinements ≥ 0, not {self}.")

    def start(self, problem: Problem) -> Crossing:
        """Start at the image and rank the classes by its logits."""
        no = torch.zeros_like(problem.y, dtype=torch.bool)
        left = torch.full_like(problem.y, self.refinements + 1)
        return Crossing(problem.x, rivals(problem, problem.logits(problem.x), self.candidates), no, left, no)

    def step(self, problem: Problem, state: Crossing) -> Crossing:
        """Go a little beyond a linearised boundary, and see whether that is beyond the true one."""
        value, gradient = climb_each(problem, state.x, state.classes)
        onward = state.x + (1 + self.overshoot) * shortest(state.x, value, gradient, problem.threat.norm)
        anew = problem.x + (1 + self.overshoot) * _from_image(problem, state.x, value, gradient)
        x = torch.where(geometry.rows(state.crossed), anew, onward).clamp(0, 1)
        crossed = problem.margin(problem.logits(x)) > 0
        left = state.left - crossed.long()
        return Crossing(x, state.classes, crossed, left, left <= 0)


def _from_image(problem: Problem, x: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
    """Return the shortest step from the image to the boundary linearised at x, of the class that leads there."""
    chosen = torch.arange(len(x), device=x.device), value.argmax(1)
    normal = gradient[chosen]
    gap = BEYOND - value[chosen] - (normal * (problem.x - x)).flatten(1).sum(1)
    return reach(problem.x, normal, gap, problem.threat.norm)
