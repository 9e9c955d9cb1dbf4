"""The range of every number in a network, and how it is widened for rounding.

A bound is about the network as it is computed, in float32, not as it is written. A sum of k products is off by at most
about k·u·(|W|·|x| + |b|) from the exact one, in whatever order it is added (Higham 2002, "Accuracy and stability of
numerical algorithms", §3.1; u is half of the machine's epsilon). At each operation that much is allowed for the network
and as much again for the bound itself, which is computed in the same precision: (k + 16)·2u·(|W|·|x| + |b|); the 16
are for what happens between operations. What is
not covered: convolutions by Winograd's or Fourier's way, or in TF32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from faultlight.certify._ball import Ball
from faultlight.certify._network import Network, Node
from faultlight.certify._operations import Affine, Operation, Pixels, Sum

_OWN_ROUNDINGS = 16


@dataclass
class Ranges:
    """What each number of a network may be within the balls, a row an image.

    Args:
        lower: for each node, (n, *shape).
        upper: the same.
        size: for each node, what it sums up in absolute value at most: |W|·|x| + |b|, (n, *shape); empty where
            rounding is left out.
    """

    lower: list[Tensor] = field(default_factory=list)
    upper: list[Tensor] = field(default_factory=list)
    size: list[Tensor] = field(default_factory=list)

    def take(self, rows: Tensor) -> Ranges:
        """Return the ranges of some images."""
        return Ranges(*([values[rows] for values in part] for part in (self.lower, self.upper, self.size)))


# Narrows the range of a node before what follows it is looked at: (ranges so far, place) -> (lower, upper) or None.
Narrow = Callable[[Ranges, int], tuple[Tensor, Tensor] | None]


def interval_ranges(network: Network, ball: Ball, narrow: Narrow | None = None, rounding: bool = True) -> Ranges:
    """Return the ranges of all nodes by interval arithmetic, each from those of its inputs.

    z = W·x + b with x in c ± r lies in W·c + b ± |W|·r; what is bent is monotone and takes the ends to the ends.

    Args:
        network: the network.
        ball: where the pixels are.
        narrow: called for each node once its range is known; what it returns is used for all that follows.
        rounding: widen the ranges for rounding; a training loss does without.
    """
    ranges = Ranges()
    for place, node in enumerate(network.nodes):
        lower, upper = _range(node, ranges, ball)
        if rounding:
            ranges.size.append(_size(node, ranges, lower, upper))
            slack = unit(node.operation, ball.x.dtype) * ranges.size[place]
            lower, upper = lower - slack, upper + slack
        ranges.lower.append(lower)
        ranges.upper.append(upper)
        narrowed = narrow(ranges, place) if narrow else None
        if narrowed is not None:
            ranges.lower[place], ranges.upper[place] = narrowed
    return ranges


def unit(operation: Operation, dtype: torch.dtype) -> float:
    """Return what an operation's result may be off by, as a share of its size."""
    terms = 2 if isinstance(operation, Sum) else operation.terms if isinstance(operation, Affine) else 0
    if isinstance(operation, Affine) and not terms:
        return 0.0
    return (terms + _OWN_ROUNDINGS) * float(torch.finfo(dtype).eps)


def _range(node: Node, ranges: Ranges, ball: Ball) -> tuple[Tensor, Tensor]:
    operation = node.operation
    if isinstance(operation, Pixels):
        return ball.lower, ball.upper
    lowers, uppers = ([part[i] for i in node.inputs] for part in (ranges.lower, ranges.upper))
    if isinstance(operation, Sum):
        first, second = (lowers, uppers) if operation.sign > 0 else (uppers, lowers)
        return lowers[0] + operation.sign * first[1], uppers[0] + operation.sign * second[1]
    if isinstance(operation, Affine) and not operation.terms:  # numbers are moved, so nothing is rounded
        return operation.apply(lowers[0]), operation.apply(uppers[0])
    if isinstance(operation, Affine):
        centre = operation.apply((lowers[0] + uppers[0]) / 2)
        spread = operation.spread((uppers[0] - lowers[0]) / 2)
        return centre - spread, centre + spread
    return operation.apply(lowers[0]), operation.apply(uppers[0])


def _size(node: Node, ranges: Ranges, lower: Tensor, upper: Tensor) -> Tensor:
    largest = [torch.maximum(ranges.lower[i].abs(), ranges.upper[i].abs()) for i in node.inputs]
    if isinstance(node.operation, Sum):
        return largest[0] + largest[1]
    if isinstance(node.operation, Affine):
        size, bias = node.operation.spread(largest[0]), node.operation.weight_of_bias()
        return size if bias is None else size + bias
    return torch.maximum(lower.abs(), upper.abs())
