"""The Square attack: random search over squares, asking for scores alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from faultlight import geometry
from faultlight.attacks._contract import Pixels, Problem
from faultlight.errors import InputError
from faultlight.threat import Norm

# The share p of the image that a square covers is halved after each of these queries, out of 10,000.
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_TILES = 5
_TINY = 1e-12


@dataclass(frozen=True)
class Searching:
    """The best point so far, its margin, and the queries that are settled.

    Args:
        x: the best point, the image itself before the first query.
        value: its margin.
        asked: queries that have been decided upon.
        finished: whether those are all.
    """

    x: Pixels
    value: Float32[Tensor, " n"]
    asked: Int64[Tensor, " n"]
    finished: Bool[Tensor, " n"]


@dataclass(frozen=True)
class Square:
    """Random search: a square of the perturbation is drawn anew, and kept where the margin grows.

    L∞: x' = x + ε·s with a sign s for each colour of a window of side round(√(p·h·w)), else as it was; it begins with
    vertical stripes. L2: window 2 is emptied and all that it held, and what is left of ε, goes to window 1 in the shape
    ν ∝ ±η + δ/‖δ‖, where η is a hill beside a hollow; it begins with 5 × 5 tiles of η. The share p falls by halves.

    Source: Andriushchenko et al. 2020, "Square attack: a query-efficient black-box adversarial attack via random
    search", algorithms 1–3; the settings are AutoAttack's (Croce & Hein 2020). A window may lie at either border, as in
    the paper. A goal is sought by its margin; AutoAttack's targeted version follows the cross-entropy. Looking ahead
    changes no outcome: each of the next squares is drawn upon the best point as it stands, the first that helps is
    taken, and those after it are drawn again.

    Args:
        steps: queries a run.
        share: p at the start, in (0, 1].
        rescaled: halve p at the paper's queries × steps / 10,000, not at those themselves.
        restarts: runs an image.
        lookahead: squares asked about at once; more passes, and less time where few images are left.
    """

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")
    knowledge: ClassVar[str] = "scores"

    steps: int = 5000
    share: float = 0.8
    rescaled: bool = True
    restarts: int = 1
    lookahead: int = 1

    def __post_init__(self) -> None:
        if min(self.steps, self.restarts, self.lookahead) < 1 or not 0 < self.share <= 1:
            raise InputError(f"Square needs steps, restarts and lookahead ≥ 1 and share in (0, 1], not {self}.")

    @property
    def points(self) -> int:
        """Points a row is asked about at once."""
        return self.lookahead

    def start(self, problem: Problem) -> Searching:
        """Stand at the image, with nothing asked yet."""
        nothing = torch.full_like(problem.x[:, 0, 0, 0], -torch.inf)
        return Searching(problem.x, nothing, torch.zeros_like(problem.y), torch.zeros_like(problem.y, dtype=torch.bool))

    def step(self, problem: Problem, state: Searching) -> Searching:
        """Ask about the next proposals, and keep the first whose margin is larger."""
        n, count = len(problem.y), self.lookahead
        query = state.asked[:, None] + torch.arange(count, device=problem.y.device)
        x = self._proposals(_repeated(problem, query), state.x.repeat_interleave(count, dim=0))
        value = problem.margin(problem.logits(x)).view(n, count)
        helps = (value > state.value[:, None]) & (query < self.steps)
        found, first = helps.any(1), helps.int().argmax(1)
        row = torch.arange(n, device=first.device)
        better = x.view(n, count, *x.shape[1:])[row, first]
        asked = (state.asked + torch.where(found, first + 1, count)).clamp(max=self.steps)
        return Searching(
            x=torch.where(geometry.rows(found), better, state.x),
            value=torch.where(found, value[row, first], state.value),
            asked=asked,
            finished=asked >= self.steps,
        )

    def _proposals(self, problem: Problem, best: Pixels) -> Pixels:
        """Return stripes (L∞) or tiles (L2) as query 0, and best points with a square drawn anew as the others."""
        linf = problem.threat.norm == "linf"
        propose = _repainted if linf else _moved
        first = problem.step == 0
        if first.all():
            return _stripes(problem) if linf else _tiles(problem)
        x = propose(problem, best, self.halvings((problem.step - 1).clamp(min=0)), self.share)
        if not first.any():
            return x
        return torch.where(geometry.rows(first), _stripes(problem) if linf else _tiles(problem), x)

    def halvings(self, query: Tensor) -> Tensor:
        """Return how often p has been halved before a square, counted from 0, is drawn."""
        scaled = query * 10_000 // self.steps if self.rescaled else query
        return torch.searchsorted(torch.tensor(HALVINGS, device=query.device), scaled)


def _repeated(problem: Problem, query: Int64[Tensor, "n k"]) -> Problem:
    """Return the problem with each row once for each of its queries, whose random numbers are the query's own."""
    count = query.shape[1]
    lower, upper = problem.bounds or geometry.box(problem.x, problem.threat)

    def wide(values: Tensor) -> Tensor:
        return values if count == 1 else values.repeat_interleave(count, dim=0)

    return replace(
        problem,
        x=wide(problem.x),
        y=wide(problem.y),
        target=wide(problem.target),
        ids=wide(problem.ids),
        restart=wide(problem.restart),
        step=query.flatten(),
        bounds=(wide(lower), wide(upper)),
        goal=None,
    )


def _stripes(problem: Problem) -> Pixels:
    """Return the ball's corner whose signs are the same down each column, for each colour."""
    channels, _, width = problem.x.shape[1:]
    return _corner(problem, problem.uniform((channels, 1, width)))


def _corner(problem: Problem, uniform: Tensor) -> Pixels:
    lower, upper = problem.bounds or geometry.box(problem.x, problem.threat)
    return torch.where(uniform < 0.5, lower, upper)


def _repainted(problem: Problem, best: Pixels, halvings: Tensor, share: float) -> Pixels:
    """Return the best points with one square set to a corner of the ball."""
    channels, height, width = best.shape[1:]
    side = _sides(share, height, width, 1).to(best.device)[halvings]
    uniform = problem.uniform((2 + channels,))
    down, across = _offsets(uniform[:, :2], side, height, width)
    inside = _window(down, across, side)
    return torch.where(inside, _corner(problem, uniform[:, 2:, None, None]), best)


def _tiles(problem: Problem) -> Pixels:
    """Return the point of the sphere made of 5 × 5 tiles η, each with a sign for each colour."""
    n, channels, height, width = problem.x.shape
    uniform = problem.uniform((_TILES, _TILES, channels + 1))
    tile = min(height, width) // _TILES
    if tile == 0:  # an image smaller than the grid: one window over all of it
        tile, uniform = min(height, width), uniform[:, :1, :1]
    count = uniform.shape[1]
    hill = _hill(tile).to(problem.x.device)
    shape = torch.where(uniform[..., -1, None, None] < 0.5, hill, hill.T)
    signed = _sign(uniform[..., :-1]).unsqueeze(-1).unsqueeze(-1) * shape.unsqueeze(3)
    whole = signed.permute(0, 3, 1, 4, 2, 5).reshape(n, channels, count * tile, count * tile)
    top, left = (height - count * tile) // 2, (width - count * tile) // 2
    delta = torch.zeros_like(problem.x)
    delta[:, :, top : top + count * tile, left : left + count * tile] = whole
    return _on_sphere(problem, delta)


def _moved(problem: Problem, best: Pixels, halvings: Tensor, share: float) -> Pixels:
    """Return the best points with the norm of two squares, and all norm that is left, in the first of the two."""
    channels, height, width = best.shape[1:]
    side = _sides(share, height, width, 3).to(best.device)[halvings]
    uniform = problem.uniform((5 + channels,))
    down, across = _offsets(uniform[:, :2], side, height, width)
    first = _window(down, across, side)
    second = _window(*_offsets(uniform[:, 2:4], side, height, width), side)
    delta = best - problem.x
    square = delta.square()
    whole = square.sum((1, 2, 3), keepdim=True)
    held = torch.where(first, square, 0).sum((2, 3), keepdim=True).sqrt()
    moved = torch.where(first | second, square, 0).sum((2, 3), keepdim=True)
    spare = (problem.threat.epsilon**2 - whole).clamp(min=0) / channels
    hills = _hills(share, height, width).to(best.device)
    down, across = down.clamp(0, hills.shape[1] - 1), across.clamp(0, hills.shape[1] - 1)
    turned = uniform[:, 4, None, None] < 0.5
    hill = hills[
        halvings[:, None, None],
        torch.where(turned, across[:, None, :], down[:, :, None]),
        torch.where(turned, down[:, :, None], across[:, None, :]),
    ]
    shape = torch.where(first, _sign(uniform[:, 5:, None, None]) * hill[:, None] + delta / (held + _TINY), 0)
    length = shape.square().sum((2, 3), keepdim=True).sqrt()
    filled = shape * ((spare + moved).sqrt() / (length + _TINY))
    return _on_sphere(problem, torch.where(first, filled, torch.where(second, 0, delta)))


def _on_sphere(problem: Problem, delta: Tensor) -> Pixels:
    """Return the image moved along δ, by as much of ε as float32 is sure not to exceed.

    Projecting in float64, thousands of times a run, would cost more than a small model's answer.
    """
    length = delta.square().sum((1, 2, 3), keepdim=True).sqrt()
    rounding = 2**-24 * math.sqrt(delta[0].numel())  # x + δ is off by no more than half a step below 2 in each pixel
    radius = max(problem.threat.epsilon * (1 - 1e-5) - rounding, 0)
    return (problem.x + delta * (radius / (length + _TINY))).clamp(0, 1)


def _sign(uniform: Tensor) -> Tensor:
    return torch.where(uniform < 0.5, -1.0, 1.0)


def _offsets(uniform: Tensor, side: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return how far each row and each column of the image lies below or right of a random window's corner."""
    room = torch.stack([height - side, width - side], 1) + 1
    corner = (uniform * room).long().clamp(max=room - 1)
    rows, columns = torch.arange(height, device=side.device), torch.arange(width, device=side.device)
    return rows - corner[:, :1], columns - corner[:, 1:]


def _window(down: Tensor, across: Tensor, side: Tensor) -> Tensor:
    vertical = (down >= 0) & (down < side[:, None])
    horizontal = (across >= 0) & (across < side[:, None])
    return (vertical[:, :, None] & horizontal[:, None, :])[:, None]


@lru_cache
def _sides(share: float, height: int, width: int, least: int) -> Tensor:
    """Return the side of the windows for each number of halvings; odd where at least 3 (the L2 attack)."""
    sides = [max(round(math.sqrt(share / 2**k * height * width)), least) for k in range(len(HALVINGS) + 1)]
    odd = [side + (least == 3 and side % 2 == 0) for side in sides]
    return torch.tensor([min(side, height, width) for side in odd])


@lru_cache
def _hills(share: float, height: int, width: int) -> Tensor:
    """Return η for each number of halvings, filled up with zeros, (halvings, side, side)."""
    sides = _sides(share, height, width, 3).tolist()
    hills = torch.zeros(len(sides), max(sides), max(sides))
    for hill, side in zip(hills, sides, strict=True):
        hill[:side, :side] = _hill(side)
    return hills


def _hill(side: int) -> Tensor:
    """Return η of unit norm: a hill in the upper half of a square, a hollow in the lower (the paper's equation 4)."""
    upper = side // 2
    hill = torch.cat([_pyramid(upper, side), -_pyramid(side - upper, side)])
    return hill / hill.square().sum().sqrt()


def _pyramid(height: int, width: int) -> Tensor:
    """Return Σ 1/(k + 1)² over k from the distance to the middle (in the maximum norm) to half of the longer side."""
    terms = 1 / torch.arange(1, max(height, width) // 2 + 2, dtype=torch.float64).square()
    tail = terms.flip(0).cumsum(0).flip(0)
    rows = (torch.arange(height) - height // 2).abs()
    columns = (torch.arange(width) - width // 2).abs()
    pyramid = tail[torch.maximum(rows[:, None], columns)]
    return (pyramid / pyramid.square().sum().sqrt().clamp(min=_TINY)).float()
