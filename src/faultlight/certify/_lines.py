"""Lines around what is bent: ReLU and max-pooling, on the ranges of their inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from faultlight.certify._network import Network
from faultlight.certify._operations import MaxPool, Rectifier
from faultlight.certify._ranges import Ranges
from faultlight.certify._window import Carried, Shape, Window, summed, whole


@dataclass(frozen=True)
class RectifierLines:
    """Lines around a rectifier: below·x ≤ max(x, leak·x) ≤ above·x + shift, each (n, *shape).

    Args:
        bent: where the input may have either sign, so that any slope from leak to 1 will do below.
    """

    below: Tensor
    above: Tensor
    shift: Tensor
    bent: Tensor


@dataclass(frozen=True)
class MaxPoolLines:
    """Lines around a max-pooling: x[below] ≤ max ≤ slope·x[above] + shift, each (n, *shape); places in a channel."""

    below: Tensor
    above: Tensor
    slope: Tensor
    shift: Tensor


Lines = Mapping[int, RectifierLines | MaxPoolLines]


def lines(network: Network, ranges: Ranges) -> dict[int, RectifierLines | MaxPoolLines]:
    """Return the lines around every bent node whose range is known, for all images.

    A rectifier that may go either way on [l, u] lies below the chord from (l, leak·l) to (u, u), and above every line
    through 0 with a slope from leak to 1: 1 where u > −l, leak elsewhere, which cuts off the smaller area.
    """
    found: dict[int, RectifierLines | MaxPoolLines] = {}
    for place, node in enumerate(network.nodes[: len(ranges.lower)]):
        if isinstance(node.operation, Rectifier | MaxPool):
            lower, upper = (part[node.inputs[0]] for part in (ranges.lower, ranges.upper))
            around = _around_rectifier if isinstance(node.operation, Rectifier) else _around_max_pool
            found[place] = around(lower, upper, node.operation)  # type: ignore[arg-type]
    return found


def through_rectifier(
    found: RectifierLines, carried: Carried, owner: Tensor, slopes: Tensor | None
) -> tuple[Tensor, Carried]:
    """Return what functions of a rectifier's output leave behind, and what they are of its input.

    Args:
        found: the lines for all images.
        carried: the functions.
        owner: the image of each.
        slopes: other slopes below where the rectifier is bent, (r, *shape).
    """
    of = partial(whole(carried.window).rows, owner=owner)
    below, a = of(found.below), carried.a
    if slopes is not None:
        below = torch.where(of(found.bent), slopes, below)
    taken = torch.where(a > 0, below, of(found.above))
    return summed(a.clamp(max=0) * of(found.shift)), Carried(a * taken, carried.window)


def through_max_pool(
    found: MaxPoolLines, carried: Carried, owner: Tensor, reached: Window | None, shape: Shape
) -> tuple[Tensor, Carried]:
    """The same for max-pooling: each coefficient goes to one input of its window.

    Args:
        found: the lines for all images.
        carried: the functions.
        owner: the image of each.
        reached: the window of the input that holds all that is reached; None for all of it.
        shape: of the whole input.
    """
    of, area = partial(whole(carried.window).rows, owner=owner), reached or Window(0, shape[1], 0, shape[2])
    up, down, width = carried.a.clamp(min=0), carried.a.clamp(max=0), area.right - area.left
    part = up.new_zeros(len(up), shape[0], (area.bottom - area.top) * width)
    for places, values in ((of(found.below), up), (of(found.above), down * of(found.slope))):
        inside = (places // shape[2] - area.top) * width + places % shape[2] - area.left
        part = part.scatter_add(2, inside.flatten(2), values.flatten(2))
    return summed(down * of(found.shift)), Carried(part.view(len(up), shape[0], -1, width), reached)


def _around_rectifier(lower: Tensor, upper: Tensor, rectifier: Rectifier) -> RectifierLines:
    leak = rectifier.leak
    bent = (lower < 0) & (upper > 0)
    chord = (upper - leak * lower) / (upper - lower).clamp(min=torch.finfo(lower.dtype).tiny)
    straight = torch.where(lower >= 0, 1.0, leak).to(lower)
    above = torch.where(bent, chord.clamp(leak, 1), straight)
    below = torch.where(bent, torch.where(upper > -lower, 1.0, leak).to(lower), straight)
    return RectifierLines(below, above, torch.where(bent, upper * (1 - above), 0.0), bent)


def _around_max_pool(lower: Tensor, upper: Tensor, pool: MaxPool) -> MaxPoolLines:
    """Below lies the input of the largest lower end. Above lies the chord of max(x, m) on [l, u], with x the input of
    the largest upper end and m the most that the others of the window can be."""
    height, width = lower.shape[2:]
    grid = torch.arange(height * width, device=lower.device).view(1, 1, height, width).double()
    places = pool.windows(grid, -1.0).long().expand(*lower.shape[:2], -1, -1)
    lowers, uppers = pool.windows(lower, -torch.inf), pool.windows(upper, -torch.inf)
    top, first = uppers.max(2, keepdim=True)
    rest = uppers.scatter(2, first, -torch.inf).amax(2, keepdim=True)
    own = lowers.gather(2, first)
    alone = rest <= own
    slope = (top - rest) / (top - own).clamp(min=torch.finfo(lower.dtype).tiny)
    slope = torch.where(alone, 1.0, slope.clamp(0, 1))
    shift = torch.where(alone, 0.0, rest - slope * own)
    below = lowers.argmax(2, keepdim=True)
    shape = pool.apply(lower[:1]).shape[1:]
    found = (places.gather(2, below), places.gather(2, first), slope, shift)
    return MaxPoolLines(*(part.reshape(len(lower), *shape) for part in found))
