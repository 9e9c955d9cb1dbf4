"""The nearest point of a hyperplane inside the box, in closed form but for the one multiplier."""

from __future__ import annotations

import torch
from jaxtyping import Float32
from torch import Tensor

from faultlight import geometry
from faultlight.threat import Norm

_TINY = 1e-12
# Rounds of Newton's method on a concave, piecewise linear function: each passes a kink at least, and most pass many.
_ROUNDS = 10
# Steps go so far beyond the linearised boundary that a tie of two classes does not hold them up.
BEYOND = 1e-4
# Where more than this share of the way is left, the box stands in between.
_SHARE = 0.01


def reach(
    x: Float32[Tensor, "n c h w"], normal: Float32[Tensor, "n c h w"], gap: Float32[Tensor, " n"], kind: Norm
) -> Float32[Tensor, "n c h w"]:
    """Return the smallest δ with ⟨w, δ⟩ = gap and x + δ in [0, 1]; where none is, the corner that comes nearest.

    L2: δ = clip(λ·w); L∞: δ = clip(λ·sign w); each with the λ that closes the gap. L1: pixels are moved to the end of
    the box in the order of |w|, the last one as far as it takes. L0: whole pixels are, in the order of what they gain.

    Source: Croce & Hein 2020, "Minimally distorted adversarial examples with a fast adaptive boundary attack", §2.2.

    Args:
        x: points in [0, 1].
        normal: w.
        gap: how much ⟨w, ·⟩ has to grow; below 0 it has to fall.
        kind: the norm.
    """
    direction = normal * geometry.rows(gap.sign())
    weight = direction.abs()
    room = torch.where(direction > 0, 1 - x, x)
    if kind == "l0":
        size = _filled_pixels(weight, room, gap.abs())
    elif kind == "l1":
        size = _filled(weight, room, gap.abs())
    else:
        size = _clipped(weight, room, gap.abs(), kind)
    return direction.sign() * size


def shortest(
    x: Float32[Tensor, "n c h w"], value: Float32[Tensor, "n k"], gradient: Float32[Tensor, "n k c h w"], norm: Norm
) -> Float32[Tensor, "n c h w"]:
    """Return the shortest of the steps to each row's k linearised boundaries where `value` is 0.

    Boundaries that cannot be reached inside the box come last.
    """
    n, k = value.shape
    flat = gradient.flatten(0, 1)
    steps = reach(x.repeat_interleave(k, 0), flat, (-value).clamp(min=0).flatten() + BEYOND, norm)
    left = value + (flat * steps).flatten(1).sum(1).view(n, k)
    length = geometry.norm(steps, norm).view(n, k)
    chosen = torch.where(left < _SHARE * value, torch.inf, length).argmin(1)
    return steps.view(gradient.shape)[torch.arange(n, device=x.device), chosen]


def _clipped(weight: Tensor, room: Tensor, gap: Tensor, kind: Norm) -> Tensor:
    """Return min(λ·s, room) with Σ weight·min(λ·s, room) = gap, s the weights for L2 and their signs for L∞."""
    slope = weight if kind == "l2" else weight.sign()
    # Scaled to a largest weight of 1: the squares of a saturated model's gradients vanish in float32.
    largest = weight.flatten(1).amax(1).clamp(min=torch.finfo(weight.dtype).tiny)
    weight, gap = weight / geometry.rows(largest), gap / largest
    slope = weight if kind == "l2" else slope
    multiplier = torch.zeros_like(gap)
    for _ in range(_ROUNDS):
        wanted = geometry.rows(multiplier) * slope
        free = wanted < room
        found = (weight * torch.minimum(wanted, room)).flatten(1).sum(1)
        rate = (weight * slope * free).flatten(1).sum(1)
        multiplier = torch.where(rate > 0, multiplier + (gap - found) / rate.clamp(min=_TINY), multiplier)
    return torch.minimum(geometry.rows(multiplier.clamp(min=0)) * slope, room)


def _filled(weight: Tensor, room: Tensor, gap: Tensor) -> Tensor:
    """Return the rooms taken up in the order of the weights until Σ weight·size = gap."""
    flat, rooms = weight.flatten(1), room.flatten(1)
    order = flat.argsort(dim=1, descending=True, stable=True)
    gains = (flat * rooms).gather(1, order)
    before = gains.cumsum(1) - gains
    part = ((gap[:, None] - before) / gains.clamp(min=_TINY)).clamp(0, 1) * (gains > 0)
    return torch.zeros_like(rooms).scatter_(1, order, part * rooms.gather(1, order)).view_as(room)


def _filled_pixels(weight: Tensor, room: Tensor, gap: Tensor) -> Tensor:
    """Return the rooms of as few pixels, all their channels together, as gain the gap."""
    gain = (weight * room).sum(1).flatten(1)
    order = gain.argsort(dim=1, descending=True, stable=True)
    gains = gain.gather(1, order)
    needed = (gains.cumsum(1) - gains < gap[:, None]).to(weight.dtype)
    return room * torch.zeros_like(gain).scatter_(1, order, needed).view(len(room), 1, *room.shape[2:])
