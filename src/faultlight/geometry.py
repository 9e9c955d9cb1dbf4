"""Norms, balls and projections, a row an image. Every function is pure and knows nothing of models."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float32, Float64
from torch import Tensor

from faultlight.threat import Norm, Threat

# A float32 sum x + δ may land half a unit in the last place outside the ball; L2 and L1 balls are shrunk by this.
_SHRINK = 1 - 1e-6


def norm(delta: Float32[Tensor, "n c h w"], kind: Norm) -> Float64[Tensor, " n"]:
    """Return ‖δ‖ of each row in float64; "l0" counts pixels in which any channel changed."""
    if kind == "l0":
        return (delta != 0).any(1).flatten(1).sum(1).double()
    flat = delta.flatten(1).double()
    if kind == "linf":
        return flat.abs().amax(1)
    return flat.abs().sum(1) if kind == "l1" else flat.square().sum(1).sqrt()


def box(x: Float32[Tensor, "n c h w"], threat: Threat) -> tuple[Tensor, Tensor]:
    """Return the smallest box, as float32 bounds, that holds the ball around x within [0, 1].

    For L∞ the box is the ball: its bounds are rounded towards x, so that no float32 point between them is farther
    than ε even in exact arithmetic. For the other norms it is [0, 1] itself.
    """
    if threat.norm != "linf":
        return torch.zeros_like(x), torch.ones_like(x)
    lower, upper = x - threat.epsilon, x + threat.epsilon
    exact = x.double()
    lower = torch.where(exact - lower.double() > threat.epsilon, torch.nextafter(lower, x), lower)
    upper = torch.where(upper.double() - exact > threat.epsilon, torch.nextafter(upper, x), upper)
    return lower.clamp_(min=0), upper.clamp_(max=1)


def project(
    candidate: Float32[Tensor, "n c h w"], x: Float32[Tensor, "n c h w"], threat: Threat
) -> Float32[Tensor, "n c h w"]:
    """Move candidates into the ball around x and into [0, 1]; points already inside are returned as they are.

    L∞ and L0 give the nearest such point. L2 and L1 project on the ball first and clamp then: clamping towards [0, 1]
    shrinks every |δ| because x lies in the box, so both hold, though the point is not always the nearest.
    """
    if threat.norm == "linf":
        lower, upper = box(x, threat)
        return torch.clamp(candidate, lower, upper)
    candidate = candidate.clamp(0, 1)
    delta = candidate - x
    outside = norm(delta, threat.norm) > threat.epsilon
    if not outside.any():
        return candidate
    return torch.where(rows(outside), x + _shrink(delta, threat), candidate).clamp(0, 1)


def ascent(gradient: Float32[Tensor, "n c h w"], kind: Norm) -> Float32[Tensor, "n c h w"]:
    """Return the direction of unit norm along which a linear function with this gradient grows fastest.

    L∞: the sign. L2: the gradient over its norm. L1: the one largest entry, signed. L0: the pixel of the largest
    gradient, by its sign. A zero gradient gives zero.
    """
    if kind == "linf":
        return gradient.sign()
    if kind == "l2":
        return gradient / rows(gradient.flatten(1).norm(dim=1)).clamp(min=1e-20)
    if kind == "l1":
        largest = gradient.abs() == rows(gradient.abs().flatten(1).amax(1))
        return gradient.sign() * largest / largest.flatten(1).sum(1).view(-1, 1, 1, 1)
    return gradient.sign() * _strongest_pixels(gradient, 1)


def random_in_ball(uniform: Float32[Tensor, "n c h w"], x: Float32[Tensor, "n c h w"], threat: Threat) -> Tensor:
    """Turn numbers uniform in [0, 1) into points of the ball around x, clipped to [0, 1].

    L∞: uniform in the cube. L2: a direction from the centred numbers, a radius ε·u^(1/d). L1 and L0: the cube's point
    projected.
    """
    if threat.norm == "linf":
        return project(x + (2 * uniform - 1) * threat.epsilon, x, threat)
    if threat.norm == "l2":
        size = uniform[0].numel()
        direction = ascent(torch.erfinv((2 * uniform - 1) * (1 - 1e-6)), "l2")
        radius = threat.epsilon * uniform.flatten(1)[:, 0] ** (1 / size)
        return project(x + direction * rows(radius), x, threat)
    return project(uniform, x, threat)


def rows(values: Tensor) -> Tensor:
    """View one value a row as (n, 1, 1, 1), to multiply images with."""
    return values.view(-1, 1, 1, 1)


def diameter(shape: tuple[int, ...], kind: Norm) -> float:
    """Return the largest distance between two images of shape (c, h, w) in [0, 1]."""
    size = math.prod(shape)
    return {"linf": 1.0, "l2": math.sqrt(size), "l1": float(size), "l0": float(size // shape[0])}[kind]


def _shrink(delta: Tensor, threat: Threat) -> Tensor:
    if threat.norm == "l2":
        return delta * rows(threat.epsilon * _SHRINK / norm(delta, "l2").clamp(min=1e-30)).float()
    if threat.norm == "l0":
        return delta * _strongest_pixels(delta, int(threat.epsilon))
    return _soft_threshold(delta, threat.epsilon * _SHRINK)


def _strongest_pixels(values: Tensor, count: int) -> Bool[Tensor, "n 1 h w"]:
    strength = values.square().sum(1).flatten(1)
    chosen = strength.topk(min(count, strength.shape[1]), dim=1).indices
    mask = torch.zeros_like(strength, dtype=torch.bool).scatter_(1, chosen, value=True)
    return mask.view(len(values), 1, *values.shape[2:])


def _soft_threshold(delta: Tensor, radius: float) -> Tensor:
    """Project on the L1 ball: subtract the one θ that makes the norm equal the radius (Duchi et al. 2008, fig. 1)."""
    magnitude = delta.flatten(1).abs().double()
    ordered = magnitude.sort(dim=1, descending=True).values
    excess = ordered.cumsum(1) - radius
    count = torch.arange(1, ordered.shape[1] + 1, device=delta.device)
    last = (ordered * count > excess).sum(1, keepdim=True)
    theta = (excess.gather(1, last - 1) / last).clamp(min=0)
    return ((magnitude - theta).clamp(min=0).view_as(delta) * delta.sign()).float()
