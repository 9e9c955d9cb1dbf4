"""CROWN: linear bounds carried backwards through the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from faultlight.certify._backward import least, rows_at_once
from faultlight.certify._ball import Ball
from faultlight.certify._lines import Lines, RectifierLines, lines
from faultlight.certify._margins import Asked, Labels, Margins, clean_margins, functions, margins_from, merged
from faultlight.certify._narrowing import Narrowing
from faultlight.certify._network import Network
from faultlight.certify._ranges import Ranges, interval_ranges
from faultlight.certify._window import Carried, pieces
from faultlight.errors import InputError

_RATE = 0.3
# Better slopes gain a part of what lies between a bound and the clean margin; farther below 0 they are not tried.
_IN_REACH = 0.5


@dataclass(frozen=True)
class Crown:
    """Linear functions below and above every ReLU, carried back to the pixels, where their least value is known.

    A margin a·z is carried back layer by layer: through z = W·x + b it becomes aᵀW·x + a·b; through a ReLU that may go
    either way on [l, u] a positive coefficient takes the line α·x below it, a negative one the chord u·(x − l)/(u − l)
    above it. What arrives at the pixels is linear, and is minimised over the ball cut off at [0, 1].

    Source: Zhang et al. 2018, "Efficient neural network robustness certification with general activation functions", §3
    and appendix; the slopes that are optimised: Xu et al. 2021, "Fast and complete: enabling complete verification with
    massively parallel incomplete verifiers", §3.1 (α-CROWN).

    Departures: the ball is cut off at [0, 1]; ranges of hidden layers are intersected with interval bounds and found
    again only for numbers whose sign is open; α is optimised for the margins, not for hidden ranges; bounds are widened
    for the rounding of float32. Max-pooling lies above its input of the largest lower end and below the chord of
    max(x, m), with x the input of the largest upper end and m the most the others can be.

    Args:
        hidden: "crown" finds the ranges of hidden layers by CROWN too; "interval" by interval arithmetic alone, which
            costs a fraction and gives much less.
        steps: steps of Adam on the slopes α of the margins that are still open.
        budget: the most multiply-adds an image that hidden ranges may cost, in units of 10⁹ (each about a third of a
            second of one core); beyond them interval ranges stand in.
    """

    hidden: str = "crown"
    steps: int = 0
    budget: float = 5.0
    reach: ClassVar[float] = 25.0

    def __post_init__(self) -> None:
        if self.hidden not in ("crown", "interval") or self.steps < 0 or self.budget < 0:
            raise InputError(f"Crown needs hidden = crown or interval, steps ≥ 0 and budget ≥ 0, not {self}.")

    def margins(self, network: Network, ball: Ball, y: Labels, asked: Asked) -> Margins:
        """Return lower bounds of z_y − z_j where asked, (n, classes), in float64; −∞ elsewhere."""
        with torch.no_grad():
            ranges = self.ranges(network, ball)
            around = lines(network, ranges)
            by_intervals = margins_from(network, ball, ranges, y, asked, {})
            found = merged(by_intervals, margins_from(network, ball, ranges, y, asked, around))
        open_pairs = asked & (found <= 0) & (found > -_IN_REACH * clean_margins(network, ball.x, y))
        if self.steps and open_pairs.any():
            found = merged(found, _optimised(network, ball, ranges, y, open_pairs, around, self.steps))
        return found

    def ranges(self, network: Network, ball: Ball) -> Ranges:
        """Return the ranges of all nodes within the balls."""
        left = torch.full((len(ball.x),), self.budget * 1e9, dtype=torch.float64, device=ball.x.device)
        return interval_ranges(network, ball, Narrowing(network, ball, left, self.hidden == "interval").narrow)


def _optimised(
    network: Network, ball: Ball, ranges: Ranges, y: Labels, asked: Asked, around: Lines, steps: int
) -> Margins:
    """Raise the margins asked for by ascent on the slopes below rectifiers: every slope in [leak, 1] gives a bound."""
    a, owner = functions(y, asked, ball.x)
    # Adam keeps three numbers for each slope, and the ascent a graph of the whole way back.
    size = max(1, rows_at_once(network, len(network.nodes) - 1) // 8)
    found = [_ascended(network, ball, ranges, a[piece], owner[piece], around, steps) for piece in pieces(len(a), size)]
    margins = torch.full(asked.shape, -torch.inf, dtype=torch.float64, device=ball.x.device)
    margins[asked] = torch.cat(found)
    return margins


def _ascended(
    network: Network, ball: Ball, ranges: Ranges, a: Tensor, owner: Tensor, around: Lines, steps: int
) -> Tensor:
    rectifiers = {place: found for place, found in around.items() if isinstance(found, RectifierLines)}
    slopes = {place: found.below[owner].clone().requires_grad_() for place, found in rectifiers.items()}
    if not slopes:  # a linear net: there is nothing to choose
        return least(network, ball, ranges, len(network.nodes) - 1, Carried(a), owner, around)
    optimiser = torch.optim.Adam(slopes.values(), lr=_RATE, maximize=True)
    best = torch.full((len(a),), -torch.inf, dtype=torch.float64, device=a.device)
    for _ in range(steps):
        with torch.enable_grad():
            value = least(network, ball, ranges, len(network.nodes) - 1, Carried(a), owner, around, slopes)
            slope_of = dict(zip(slopes, torch.autograd.grad(value.sum(), list(slopes.values())), strict=True))
        for place, slope in slopes.items():
            slope.grad = slope_of[place]
        best = torch.maximum(best, value.detach())
        optimiser.step()
        for place, slope in slopes.items():
            slope.data.clamp_(_leak(network, place), 1.0)
    return best


def _leak(network: Network, place: int) -> float:
    return float(getattr(network.nodes[place].operation, "leak", 0.0))
