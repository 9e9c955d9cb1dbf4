"""Linear functions carried backwards through a network: the heart of CROWN."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from faultlight.certify._ball import Ball
from faultlight.certify._lines import Lines, RectifierLines, through_max_pool, through_rectifier
from faultlight.certify._network import Network
from faultlight.certify._operations import Affine, MaxPool, Pixels, Sum
from faultlight.certify._ranges import Ranges, unit
from faultlight.certify._window import Carried, Window, short_terms, summed, whole

# Coefficients carried back at once: few enough for the caches.
_PIECE = 1 << 21


def least(
    network: Network,
    ball: Ball,
    ranges: Ranges,
    place: int,
    function: Carried,
    owner: Tensor,
    around: Lines,
    slopes: Mapping[int, Tensor] | None = None,
) -> Tensor:
    """Return a lower bound of a·z for the output z of a node, over the balls, (r,) in float64.

    a is carried back from the node to the pixels: through W·x + b it becomes aᵀW and leaves a·b behind; through what is
    bent, each coefficient takes the line below where it is positive and the line above where it is negative. What
    arrives is a linear function of the pixels, whose least value on the ball is known. A bent node without lines is not
    passed: there the range of its output is taken, which makes an interval bound.

    Args:
        network: the network.
        ball: where the pixels are.
        ranges: of all nodes up to this one.
        place: the node.
        function: linear functions of the node's output.
        owner: the image of each, (r,).
        around: the lines around the bent nodes before it.
        slopes: other slopes from leak to 1 for the lines below rectifiers, (r, *shape) for each.
    """
    back = _Back(network, ball, ranges, owner, around, slopes or {})
    carried = {place: function}
    total = torch.zeros(len(owner), dtype=torch.float64, device=owner.device)
    for here in range(place, -1, -1):
        if here in carried:
            left, sources = back.through(here, carried.pop(here))
            total = total + left
            for source, part in sources:
                shape = network.nodes[source].shape
                carried[source] = _joined(carried[source], part, shape) if source in carried else part
    return total


def rows_at_once(network: Network, place: int) -> int:
    """Return how many linear functions of the whole of a node's output are carried back at once."""
    largest = max(torch.Size(node.shape).numel() for node in network.nodes[: place + 1])
    return max(16, _PIECE // largest)


_Passed = tuple[Tensor, list[tuple[int, Carried]]]


@dataclass(frozen=True)
class _Back:
    """What every step back needs; a step returns what stays behind, (r,), and what goes on to which input."""

    network: Network
    ball: Ball
    ranges: Ranges
    owner: Tensor
    around: Lines
    slopes: Mapping[int, Tensor]

    def through(self, here: int, function: Carried) -> _Passed:
        """Carry a function of a node's output to its inputs."""
        node, a, window = self.network.nodes[here], function.a, function.window
        operation = node.operation
        if isinstance(operation, Pixels):
            least = self.ball.take(self.owner, window).least(a)
            return least - self._share(here, a) * summed(a.abs()), []  # no pixel is larger than 1
        if isinstance(operation, Affine):
            return self._through_affine(operation, here, function)
        if isinstance(operation, Sum):
            first, second = node.inputs
            parts = [(first, function), (second, Carried(a * operation.sign, window))]
            return -self._slack(here, function), parts
        if here not in self.around:
            lower, upper = (self._of(part[here], window) for part in (self.ranges.lower, self.ranges.upper))
            ends = torch.where(a > 0, lower, upper)
            return summed(a * ends) - self._slack(here, function), []
        return self._through_bent(here, function)

    def _through_affine(self, operation: Affine, here: int, function: Carried) -> _Passed:
        bias, left = operation.bias(), -self._slack(here, function)
        if bias is not None:
            left = left + summed(function.a * whole(function.window).cut(bias))
        passed = Carried(*operation.transpose(function.a, function.window))
        return left, [(self.network.nodes[here].inputs[0], passed)]

    def _through_bent(self, here: int, function: Carried) -> _Passed:
        source, found = self.network.nodes[here].inputs[0], self.around[here]
        if isinstance(found, RectifierLines):
            left, passed = through_rectifier(found, function, self.owner, self.slopes.get(here))
            # Rounding of the slopes is a few units of what goes on, and allowed for at the node that takes it.
            return left * (1 + self._share(here, function.a)), [(source, passed)]
        pool, shape = self.network.nodes[here].operation, self.network.nodes[source].shape
        assert isinstance(pool, MaxPool)
        reached = pool.reached(function.window, shape)
        left, passed = through_max_pool(found, function, self.owner, reached, shape)
        return left - self._slack(here, function), [(source, passed)]

    def _slack(self, here: int, function: Carried) -> Tensor:
        """Return what rounding may take away at a node."""
        share = self._share(here, function.a)
        if not share:
            return torch.zeros(len(function.a), dtype=torch.float64, device=function.a.device)
        size, a = self.ranges.size[here], function.a.abs()
        if function.window is None or a.shape[2:] == (1, 1):
            size = whole(function.window).cut(size)
            return share * summed(a * size.index_select(0, self.owner))
        # In a window the largest size stands for all: the least of the hidden ranges' worries, and much less work.
        return share * summed(a) * function.window.cut(size).flatten(1).amax(1).index_select(0, self.owner)

    def _share(self, here: int, a: Tensor) -> float:
        """Return the share of its size that an operation, and the sum over what is carried, may be off by."""
        share = unit(self.network.nodes[here].operation, a.dtype) if self.ranges.size else 0.0
        return share and share + short_terms(a) * float(torch.finfo(a.dtype).eps)

    def _of(self, values: Tensor, window: Window | None) -> Tensor:
        return whole(window).rows(values, self.owner)


def _joined(first: Carried, second: Carried, shape: tuple[int, ...]) -> Carried:
    if first.window == second.window:
        return Carried(first.a + second.a, first.window)
    parts = [whole(each.window).laid_out(each.a, shape) for each in (first, second)]
    return Carried(parts[0] + parts[1])
