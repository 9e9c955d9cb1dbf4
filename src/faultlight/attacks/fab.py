"""The fast adaptive boundary attack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from faultlight import geometry
from faultlight.attacks._contract import Pixels, Problem
from faultlight.attacks._nearest import boundary_distance, climb_each, rivals
from faultlight.attacks._planes import reach
from faultlight.errors import InputError
from faultlight.threat import Norm


@dataclass(frozen=True)
class Walking:
    """Where each row stands and the classes it may move to."""

    x: Pixels
    classes: Int64[Tensor, "n k"]


@dataclass(frozen=True)
class FAB:
    """Along the nearest linearised boundary, always drawn back towards the image.

    d and d₀ are the smallest steps from x and from the image x₀ to the hyperplane f(x) + ⟨∇f(x), · − x⟩ = 0 inside the
    box, f = z_j − z_y for the class j whose hyperplane is nearest. With α = min(‖d‖/(‖d‖ + ‖d₀‖), α_max):
    x ← clip((1 − α)·(x + η·d) + α·(x₀ + η·d₀)), and at a twin back by x ← x₀ + β·(x − x₀).

    Source: Croce & Hein 2020, "Minimally distorted adversarial examples with a fast adaptive boundary attack",
    algorithm 1; with `targets` the targeted form that AutoAttack runs: Croce & Hein 2020, "Reliable evaluation of
    adversarial robustness with an ensemble of diverse parameter-free attacks", §4.

    Departs from the paper: no final search, as in AutoAttack; and a restart knows nothing of the twins of the runs
    before it, so that its random start lies within half the threat's radius, or half of 0.3 (L∞), 1 (L2) or 5 (L1)
    where that is less.

    Args:
        steps: steps a run; each costs one backward pass a class and one forward pass more.
        alpha_max: α_max in [0, 1]: how much of the step is taken from the image.
        eta: η ≥ 1: the overshoot.
        beta: β in (0, 1): how much of the way a twin keeps when it is drawn back.
        restarts: runs an image; all but the first begin at random.
        targets: runs at each of the k most likely wrong classes (AutoAttack: 9); 0 is untargeted.
        candidates: untargeted, the likeliest wrong classes that are considered; of ten classes 9 is all.
    """

    steps: int = 100
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9
    restarts: int = 1
    targets: int = 0
    candidates: int = 9
    minimal: ClassVar[bool] = True
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1")

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1 or self.targets < 0 or self.candidates < 1:
            raise InputError(f"FAB needs steps, restarts and candidates ≥ 1 and targets ≥ 0, not {self}.")
        if not 0 <= self.alpha_max <= 1 or self.eta < 1 or not 0 < self.beta < 1:
            raise InputError(f"FAB needs alpha_max in [0, 1], eta ≥ 1 and beta in (0, 1), not {self}.")

    def start(self, problem: Problem) -> Walking:
        """Start at the image, or at a random point near it, and rank the classes by the clean logits."""
        classes = (
            problem.target[:, None] if self.targets else rivals(problem, problem.logits(problem.x), self.candidates)
        )
        begin = torch.where(geometry.rows(problem.restart > 0), _random(problem), problem.x)
        return Walking(begin, classes)

    def step(self, problem: Problem, state: Walking) -> Walking:
        """Step along the hyperplane and towards the image, and draw a twin back."""
        value, normal = _nearest_plane(problem, state)
        norm, clean = problem.threat.norm, problem.x
        ahead = reach(state.x, normal, -value, norm)
        gap = -value - (normal * (clean - state.x)).flatten(1).sum(1)
        home = reach(clean, normal, gap, norm)
        alpha = geometry.rows(self._share(geometry.norm(ahead, norm), geometry.norm(home, norm)))
        x = ((1 - alpha) * (state.x + self.eta * ahead) + alpha * (clean + self.eta * home)).clamp(0, 1)
        twin = geometry.rows(problem.margin(problem.logits(x)) > 0)
        return Walking(torch.where(twin, clean + self.beta * (x - clean), x), state.classes)

    def _share(self, ahead: Float64[Tensor, " n"], home: Float64[Tensor, " n"]) -> Tensor:
        least = ahead.clamp(min=_LEAST)
        return (least / (least + home.clamp(min=_LEAST))).clamp(max=self.alpha_max).float()


# Steps shorter than this count as this long.
_LEAST = 1e-8
_START: dict[Norm, float] = {"linf": 0.3, "l2": 1.0, "l1": 5.0}


def _nearest_plane(problem: Problem, state: Walking) -> tuple[Tensor, Tensor]:
    """Return f and its gradient for the class whose linearised boundary is nearest."""
    value, gradient = climb_each(problem, state.x, state.classes)
    n, k = value.shape
    if k == 1:
        return value[:, 0], gradient[:, 0]
    away = boundary_distance(value.flatten(), gradient.flatten(0, 1), problem.threat.norm).view(n, k)
    chosen = torch.arange(n, device=value.device), away.argmin(1)
    return value[chosen], gradient[chosen]


def _random(problem: Problem) -> Tensor:
    """Return a random point at half the radius, uniform in the cube for L∞ and normal for the other norms."""
    norm = problem.threat.norm
    noise = 2 * problem.uniform() - 1 if norm == "linf" else problem.normal()
    radius = 0.5 * min(problem.threat.epsilon, _START[norm])
    length = geometry.norm(noise, norm).clamp(min=_LEAST).float()
    return (problem.x + noise * geometry.rows(radius / length)).clamp(0, 1)
