"""Ranges of hidden layers by CROWN, for the numbers whose sign is open; all others are settled already."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from faultlight.certify._backward import least, rows_at_once
from faultlight.certify._ball import Ball
from faultlight.certify._lines import Lines, lines
from faultlight.certify._network import BENT, Network
from faultlight.certify._operations import MaxPool
from faultlight.certify._ranges import Ranges
from faultlight.certify._window import Carried, Window, pieces

# Rows of a window that are carried back at once.
_ROWS = 1024


@dataclass
class Narrowing:
    """Narrows the range of one node after the other, as far as each image's budget goes.

    Args:
        network: the network.
        ball: where the pixels are.
        left: multiply-adds that each image may still cost, (n,).
        first_only: narrow only what no ReLU comes before: there a linear function is bounded exactly on any ball.
    """

    network: Network
    ball: Ball
    left: Tensor
    first_only: bool = False

    def narrow(self, ranges: Ranges, place: int) -> tuple[Tensor, Tensor] | None:
        """Return the range of a node, narrowed where that matters to what follows; None where nothing does."""
        if place not in self.network.bent or self._is_settled(place):
            return None
        lower, upper = ranges.lower[place], ranges.upper[place]
        wanted = (lower < upper) if self._is_pooled(place) else (lower < 0) & (upper > 0)
        wanted = self._afforded(wanted, place)
        if not wanted.any():
            return None
        lower, upper, around = lower.clone(), upper.clone(), lines(self.network, ranges)
        for window, at in _groups(wanted):
            owner, position = at.nonzero(as_tuple=True)
            self._narrow_rows(ranges, place, window, owner, position, around, (lower, upper))
        return lower, upper

    def _narrow_rows(
        self,
        ranges: Ranges,
        place: int,
        window: Window | None,
        owner: Tensor,
        position: Tensor,
        around: Lines,
        into: tuple[Tensor, Tensor],
    ) -> None:
        lower, upper = ((part if window is None else window.cut(part)) for part in into)
        # Upper ends first: most numbers turn out never to be above 0, and then their lower end is of no account.
        self._raise(ranges, place, window, owner, position, around, upper, -1)
        index = (owner, *torch.unravel_index(position, tuple(lower.shape[1:])))
        alive = upper[index] > (-torch.inf if self._is_pooled(place) else 0.0)
        self._raise(ranges, place, window, owner[alive], position[alive], around, lower, 1)

    def _raise(
        self,
        ranges: Ranges,
        place: int,
        window: Window | None,
        owner: Tensor,
        position: Tensor,
        around: Lines,
        ends: Tensor,
        sign: int,
    ) -> None:
        """Raise lower ends (sign 1), or lower upper ones (−1), to what is found for each number."""
        shape = tuple(ends.shape[1:])
        size = rows_at_once(self.network, place) if window is None else _ROWS
        for piece in pieces(len(owner), size):
            of, at = owner[piece], position[piece]
            a = torch.zeros(len(of), torch.Size(shape).numel()).to(ends).scatter_(1, at[:, None], sign)
            function = Carried(a.view(-1, *shape), window)
            found = _down(least(self.network, self.ball, ranges, place, function, of, around), ends)
            index = (of, *torch.unravel_index(at, shape))
            ends[index] = sign * torch.maximum(sign * ends[index], found)

    def _afforded(self, wanted: Tensor, place: int) -> Tensor:
        cost = wanted.flatten(1).sum(1) * (2.0 * self.network.cost_of_one(place))
        afforded = cost <= self.left
        self.left = self.left - torch.where(afforded, cost, 0.0)
        return wanted & afforded.view(-1, *(1,) * (wanted.ndim - 1))

    def _is_settled(self, place: int) -> bool:
        """Return whether the node's range is as narrow as it can be, or is not asked for."""
        mixings = self.network.mixings[place]
        return (self.ball.norm == "linf" and mixings <= 1) or (self.first_only and mixings >= BENT)

    def _is_pooled(self, place: int) -> bool:
        return any(place in node.inputs and isinstance(node.operation, MaxPool) for node in self.network.nodes)


def _groups(wanted: Tensor) -> list[tuple[Window | None, Tensor]]:
    """Return the numbers that are wanted, those at one position of the map together: they see the same window."""
    if wanted.ndim != 4:
        return [(None, wanted.flatten(1))]
    at = wanted.flatten(2).any(1).any(0).nonzero()[:, 0].tolist()
    width = wanted.shape[3]
    windows = [Window(i // width, i // width + 1, i % width, i % width + 1) for i in at]
    return [(window, window.cut(wanted).flatten(1)) for window in windows]


def _down(found: Tensor, like: Tensor) -> Tensor:
    """Return float64 bounds in another precision, rounded downwards."""
    return torch.nextafter(found.to(like), torch.full((), -torch.inf).to(like))
