"""Norms, balls and projections, a row an image. Every function is pure and knows nothing of models."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Float32, Float64
from torch import Tensor

from faultlight.errors import InputError
from faultlight.threat import Norm, Threat

# L2 and L1 balls are shrunk by what float32 may be off by in relative terms; sums x + δ are rounded towards x besides.
_SHRINK = 1 - 1e-6
# A pixel this near a level of the 8-bit grid, in levels, lies on it: float32 is ten times as fine.
_LEVEL = 1e-4


def norm(delta: Float[Tensor, "n c h w"], kind: Norm) -> Float64[Tensor, " n"]:
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
    than ε in float64. For the other norms it is [0, 1] itself.
    """
    if threat.norm != "linf":
        return torch.zeros_like(x), torch.ones_like(x)
    epsilon = torch.tensor(threat.epsilon, device=x.device)
    if float(epsilon) > threat.epsilon:
        epsilon = torch.nextafter(epsilon, torch.zeros_like(epsilon))
    return _moved(x, -epsilon).clamp_(min=0), _moved(x, epsilon).clamp_(max=1)


def project(
    candidate: Float32[Tensor, "n c h w"], x: Float32[Tensor, "n c h w"], threat: Threat
) -> Float32[Tensor, "n c h w"]:
    """Move candidates into the ball around x and into [0, 1]; points already inside are returned as they are.

    L∞ and L0 give the nearest such point. L2 and L1 clamp to [0, 1] first and project on the ball then: that moves each
    pixel towards x, which lies in [0, 1], so both hold, though the point is not always the nearest.
    Rounding is towards x: in float64 no result is farther than ε.
    """
    if threat.norm == "linf":
        lower, upper = box(x, threat)
        return torch.clamp(candidate, lower, upper)
    candidate = candidate.clamp(0, 1)
    delta = candidate.double() - x.double()
    outside = norm(delta, threat.norm) > threat.epsilon
    if not outside.any():
        return candidate
    return torch.where(rows(outside), _nearer(candidate, x, delta, threat), candidate)


def to_grid(candidate: Float32[Tensor, "n c h w"], x: Float32[Tensor, "n c h w"], threat: Threat) -> Tensor:
    """Move candidates onto the grid of 8-bit images, the multiples k/255 rounded to float32, inside the ball around x.

    L∞: each pixel goes to the nearest level within ε. Other norms: to the nearest levels, or, where that leaves the
    ball, to the next ones towards x. Where x lies on the grid itself, no pixel is ever farther from it than it was.
    Where it does not, even a pixel that nothing changed has to move, by at most half a level, and what that costs is
    taken from ε; no point of the grid may then lie in the ball, and the result lies outside.
    """
    scaled, origin = 255 * candidate.double(), 255 * x.double()
    nearest = scaled.round()
    if threat.norm == "linf":
        lowest, highest = (origin - 255 * threat.epsilon), (origin + 255 * threat.epsilon)
        level = nearest.clamp((lowest - _LEVEL).ceil(), (highest + _LEVEL).floor())
    else:
        towards = torch.where(scaled >= origin, (scaled + _LEVEL).floor(), (scaled - _LEVEL).ceil())
        outside = norm(nearest / 255 - on_grid(x), threat.norm) > threat.epsilon
        level = torch.where(rows(outside), towards, nearest)
    return level.clamp(0, 255).float() / 255


def on_grid(x: Float32[Tensor, "n c h w"]) -> Float64[Tensor, "n c h w"]:
    """Return pixels in float64, those that are multiples of 1/255 but for float32's rounding as they were meant."""
    exact = x.double()
    level = (255 * exact).round()
    return torch.where((255 * exact - level).abs() < _LEVEL, level / 255, exact)


def ascent(gradient: Float32[Tensor, "n c h w"], kind: Norm) -> Float32[Tensor, "n c h w"]:
    """Return the direction of unit norm along which a linear function with this gradient grows fastest.

    L∞: the sign. L2: the gradient over its norm. L1: the one largest entry, signed. L0: the pixel of the largest
    gradient, by its sign. A zero gradient gives zero.
    """
    if kind == "linf":
        return gradient.sign()
    if kind == "l2":
        # In float64: the squares of a saturated model's gradients vanish in float32, and the attack would stand still.
        return (gradient.double() / rows(norm(gradient, "l2").clamp(min=1e-300))).float()
    if kind == "l1":
        largest = gradient.abs() == rows(gradient.abs().flatten(1).amax(1))
        return gradient.sign() * largest / largest.flatten(1).sum(1).view(-1, 1, 1, 1)
    return gradient.sign() * _strongest_pixels(gradient, 1)


def random_in_ball(uniform: Float32[Tensor, "n c h w"], x: Float32[Tensor, "n c h w"], threat: Threat) -> Tensor:
    """Turn numbers uniform in [0, 1) into points of the ball around x, clipped to [0, 1].

    L∞: uniform in the cube. L2: uniform in the ball, by a normal direction and a radius ε·u^(1/d). L1 and L0: the
    cube's point projected.
    """
    if threat.norm == "linf":
        return project(x + (2 * uniform - 1) * threat.epsilon, x, threat)
    if threat.norm == "l2":
        size = math.prod(uniform.shape[1:])
        direction = ascent(torch.erfinv((2 * uniform - 1) * (1 - 1e-6)), "l2")
        # The low 12 bits of the first number, which its share in the direction hardly feels, are a number of their own.
        low = (uniform.flatten(1)[:, 0] * 2**12).frac() + 2**-13
        radius = threat.epsilon * low ** (1 / size)
        return project(x + direction * rows(radius), x, threat)
    return project(uniform, x, threat)


def rows(values: Tensor) -> Tensor:
    """View one value a row as (n, 1, 1, 1), to multiply images with."""
    return values.view(-1, 1, 1, 1)


def diameter(shape: tuple[int, ...], kind: Norm) -> float:
    """Return the largest distance between two images of shape (c, h, w) in [0, 1]."""
    size = math.prod(shape)
    return {"linf": 1.0, "l2": math.sqrt(size), "l1": float(size), "l0": float(size // shape[0])}[kind]


def check_radius(threat: Threat, shape: tuple[int, int, int]) -> None:
    """Raise InputError where the radius is larger than the largest distance between two images of shape (c, h, w)."""
    largest = diameter(shape, threat.norm)
    if threat.epsilon > largest:
        channels, height, width = shape
        raise InputError(
            f"the radius of {threat} is larger than {largest:g}, the largest {threat.norm} distance between two images "
            f"of {channels}×{height}×{width}; choose a smaller one."
        )


def _nearer(candidate: Tensor, x: Tensor, delta: Tensor, threat: Threat) -> Tensor:
    if threat.norm == "l0":
        return torch.where(_strongest_pixels(delta, int(threat.epsilon)), candidate, x)
    radius = threat.epsilon * _SHRINK
    if threat.norm == "l1":
        return _moved(x, _soft_threshold(delta, radius))
    return _moved(x, delta.float() * rows(radius / norm(delta, "l2").clamp(min=1e-300)).float())


def _moved(x: Tensor, delta: Tensor) -> Tensor:
    """Return x + δ rounded towards x: in exact arithmetic no pixel lies farther from x than its δ."""
    point = x + delta
    taken = point - x
    lost = (x - (point - taken)) + (delta - taken)  # what rounding took from the sum, exactly (Knuth's TwoSum)
    farther = lost * delta < 0
    # Exact, and several times faster than `where`, which is slow on a mask without a pattern.
    return point + (torch.nextafter(point, x) - point) * farther


def _strongest_pixels(values: Tensor, count: int) -> Bool[Tensor, "n 1 h w"]:
    strength = values.double().square().sum(1).flatten(1)
    chosen = strength.topk(min(count, strength.shape[1]), dim=1).indices
    mask = torch.zeros_like(strength, dtype=torch.bool).scatter_(1, chosen, value=True)
    return mask.view(len(values), 1, *values.shape[2:])


def _soft_threshold(delta: Tensor, radius: float) -> Tensor:
    """Project on the L1 ball: subtract the one θ that makes the norm equal the radius (Duchi et al. 2008, fig. 1)."""
    magnitude = delta.flatten(1).abs()
    ordered = magnitude.sort(dim=1, descending=True).values
    excess = ordered.cumsum(1) - radius
    count = torch.arange(1, ordered.shape[1] + 1, device=delta.device)
    last = (ordered * count > excess).sum(1, keepdim=True)
    theta = (excess.gather(1, last - 1) / last).clamp(min=0)
    return ((magnitude - theta).clamp(min=0).view_as(delta) * delta.sign()).float()
