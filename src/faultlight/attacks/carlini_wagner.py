"""The attack of Carlini and Wagner."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from faultlight import geometry
from faultlight.attacks._contract import Pixels, Problem
from faultlight.attacks._nearest import annealed, climb, first_crossing, softness
from faultlight.errors import InputError
from faultlight.threat import Norm


@dataclass(frozen=True)
class Weighing:
    """The search of each row.

    Args:
        x: the point asked about next.
        w: artanh(2x − 1), the variable that is free to go anywhere.
        mean, square: Adam's running means of the gradient by w and of its square.
        c: the weight of the margin.
        rate: Adam's first step length in w.
        scale: by how much the image misses the goal.
        low, high: weights known to be too small and large enough; 0 and ∞ before one is.
        found: whether the present weight has found a twin.
    """

    x: Pixels
    w: Pixels
    mean: Pixels
    square: Pixels
    c: Float32[Tensor, " n"]
    rate: Float32[Tensor, " n"]
    scale: Float32[Tensor, " n"]
    low: Float32[Tensor, " n"]
    high: Float32[Tensor, " n"]
    found: Bool[Tensor, " n"]


@dataclass(frozen=True)
class CarliniWagner:
    """Distance and margin weighed against each other, the weight found by halving.

    min_w ‖x' − x‖₂² + c·max(κ − margin(x'), 0) with x' = ½(tanh w + 1), by Adam; c is halved between the largest that
    found no twin and the smallest that did.

    Source: Carlini & Wagner 2017, "Towards evaluating the robustness of neural networks", §V–VI (f₆, L2).

    Departs from the paper: the search begins beyond the nearest linearised boundary, and its distance d sets the scale:
    Adam's step length goes with it, and falls along half a cosine, and the first c is 4·d² / |margin|, twice the one
    that balances the two gradients of a linear model, so that few weights do (further searches begin at the image, as
    in the paper); the margin is softened as in DDN here, by a tenth of the image's own at first and not at last; black
    and white pixels are drawn 1 % into the box, for at its walls x' hardly moves with w.

    Args:
        searches: weights c that are tried.
        iterations: Adam steps for each.
        step_size: how far Adam's first step goes at most, over d (L2).
        confidence: κ ≥ 0 in logits: the margin that is sought.
        candidates: the likeliest wrong classes whose linearised boundaries are looked at for the start.
    """

    searches: int = 3
    iterations: int = 100
    step_size: float = 0.7
    confidence: float = 0.0
    candidates: int = 9
    minimal: ClassVar[bool] = True
    norms: ClassVar[tuple[Norm, ...]] = ("l2",)

    def __post_init__(self) -> None:
        if min(self.searches, self.iterations, self.candidates) < 1 or self.step_size <= 0 or self.confidence < 0:
            raise InputError(
                "CarliniWagner needs searches, iterations and candidates ≥ 1, step_size > 0 and confidence ≥ 0, "
                f"not {self}."
            )

    @property
    def steps(self) -> int:
        """All iterations of all searches."""
        return self.searches * self.iterations

    def start(self, problem: Problem) -> Weighing:
        """Start beyond the nearest linearised boundary, whose distance sets the first weight and the step length."""
        x, scale = first_crossing(problem, self.candidates, _BEYOND)
        distance = geometry.norm(x - problem.x, "l2").float()
        c = (_FIRST * distance.square() / scale.clamp(min=_TINY)).clamp(min=_TINY)
        # x' moves by half of what w does at grey, and by less elsewhere; Adam moves every pixel by the same length.
        rate = (2 * self.step_size * distance / x[0].numel() ** 0.5).clamp(max=1)
        w, never = _free(x), torch.full_like(c, torch.inf)
        still = torch.zeros_like(w)
        return Weighing(_pixels(w), w, still, still, c, rate, scale, torch.zeros_like(c), never, c < 0)

    def step(self, problem: Problem, state: Weighing) -> Weighing:
        """Take one step of Adam; at the end of a search choose the next weight and begin at the image."""
        margin, gradient = climb(problem, state.x, softness(self._done(problem), self.iterations, state.scale))
        state = replace(state, found=state.found | (margin > 0))
        state = self._descended(problem, state, gradient * geometry.rows(margin < self.confidence))
        ended = problem.step % self.iterations == 0
        return _where(ended, _searched(state, problem.x), state)

    def _done(self, problem: Problem) -> Int64[Tensor, " n"]:
        """Return which step of its present search each row takes, from 1."""
        return (problem.step - 1) % self.iterations + 1

    def _descended(self, problem: Problem, state: Weighing, climbed: Tensor) -> Weighing:
        """Take a step of Adam (Kingma & Ba 2015, algorithm 1) on the weighed sum."""
        done = self._done(problem)
        by_x = 2 * (state.x - problem.x) - geometry.rows(state.c) * climbed
        by_w = by_x * 2 * state.x * (1 - state.x)
        mean = _DECAY * state.mean + (1 - _DECAY) * by_w
        square = _DECAY_SQUARE * state.square + (1 - _DECAY_SQUARE) * by_w.square()
        length = state.rate * annealed(done, self.iterations, 1.0, _LAST)
        length = geometry.rows(length / (1 - _DECAY**done))
        spread = (square / geometry.rows(1 - _DECAY_SQUARE**done)).sqrt()
        w = state.w - length * mean / (spread + _TINY)
        return replace(state, x=_pixels(w), w=w, mean=mean, square=square)


# Adam's decay rates, and what keeps its quotient finite.
_DECAY, _DECAY_SQUARE, _TINY = 0.9, 0.999, 1e-12
# Black and white are drawn in so far that their slope in w does not vanish.
_INSIDE = 0.98
# The share of its length that a search's last step has.
_LAST = 1e-3
# The first weight, over |margin| / ‖∇margin‖².
_FIRST = 4.0
# How far beyond the linearised boundary a run begins.
_BEYOND = 0.05
# A weight that found no twin grows by this factor until one is found.
_GROWTH = 5.0


def _free(x: Tensor) -> Tensor:
    return torch.atanh((2 * x - 1) * _INSIDE)


def _pixels(w: Tensor) -> Tensor:
    return (torch.tanh(w) + 1) / 2


def _searched(state: Weighing, image: Pixels) -> Weighing:
    """Return every row at the beginning of its next search."""
    low = torch.where(state.found, state.low, state.c)
    high = torch.where(state.found, state.c, state.high)
    c = torch.where(torch.isfinite(high), (low + high) / 2, low * _GROWTH)
    w, still = _free(image), torch.zeros_like(state.w)
    return replace(
        state, x=_pixels(w), w=w, mean=still, square=still, c=c, low=low, high=high, found=torch.zeros_like(state.found)
    )


def _where(chosen: Tensor, one: Weighing, other: Weighing) -> Weighing:
    """Return the rows of one state where chosen, else those of the other."""
    pairs = {name: (getattr(one, name), value) for name, value in vars(other).items()}
    return Weighing(
        **{name: torch.where(geometry.rows(chosen) if a.dim() > 1 else chosen, a, b) for name, (a, b) in pairs.items()}
    )
