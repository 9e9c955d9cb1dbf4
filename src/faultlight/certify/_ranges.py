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
        size: for each node, what it sums up in absolute value at most: |W|·|x| + |b|, (n, *shape).
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
        lower, upper, size = _range(node, ranges, ball)
        if rounding:
            slack = unit(node.operation, ball.x.dtype) * size
            lower, upper = lower - slack, upper + slack
        for values, value in zip((ranges.lower, ranges.upper, ranges.size), (lower, upper, size), strict=True):
            values.append(value)
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


def _range(node: Node, ranges: Ranges, ball: Ball) -> tuple[Tensor, Tensor, Tensor]:
    operation = node.operation
    if isinstance(operation, Pixels):
        return ball.lower, ball.upper, torch.maximum(ball.lower.abs(), ball.upper.abs())
    lowers, uppers = ([part[i] for i in node.inputs] for part in (ranges.lower, ranges.upper))
    if isinstance(operation, Sum):
        return _of_sum(operation, lowers, uppers)
    lower, upper = lowers[0], uppers[0]
    if isinstance(operation, Affine):
        return _of_affine(operation, lower, upper)
    lower, upper = operation.apply(lower), operation.apply(upper)
    return lower, upper, torch.maximum(lower.abs(), upper.abs())


def _of_affine(operation: Affine, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    middle, radius = (lower + upper) / 2, (upper - lower) / 2
    centre, spread = operation.apply(middle), operation.spread(radius)
    size = operation.spread(torch.maximum(lower.abs(), upper.abs()))
    bias = operation.weight_of_bias()
    return centre - spread, centre + spread, size if bias is None else size + bias


def _of_sum(operation: Sum, lowers: list[Tensor], uppers: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    size = sum(
        (torch.maximum(a.abs(), b.abs()) for a, b in zip(lowers, uppers, strict=True)), torch.zeros(()).to(lowers[0])
    )
    if operation.sign > 0:
        return lowers[0] + lowers[1], uppers[0] + uppers[1], size
    return lowers[0] - uppers[1], uppers[0] - lowers[1], size
