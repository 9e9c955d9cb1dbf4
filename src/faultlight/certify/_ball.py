"""The set a bound holds on: a ball around each image, cut off at [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from faultlight.certify._window import Window, summed, whole
from faultlight.threat import Norm, Threat

# The judge lets a twin's distance exceed ε by this factor, for its rounding; a bound must cover all that it lets pass.
_MARGIN = 1 + 2e-6
# Halvings of an interval of logarithms: any multiplier gives a bound, these many give it to five digits.
_HALVINGS = 24


@dataclass(frozen=True)
class Ball:
    """All x' in [0, 1] with ‖x' − x‖ ≤ ε, a row an image.

    Args:
        x: the images, (n, c, h, w).
        norm: of the distance.
        epsilon: ε, a little enlarged.
        lower: least value of each pixel in the ball, (n, c, h, w).
        upper: its greatest value.
    """

    x: Float[Tensor, "n c h w"]
    norm: Norm
    epsilon: float
    lower: Float[Tensor, "n c h w"]
    upper: Float[Tensor, "n c h w"]

    def take(self, owner: Int64[Tensor, " r"], window: Window | None = None) -> Ball:
        """Return the balls of some images, as far as a window of the image shows them."""
        rows = partial(whole(window).rows, owner=owner)
        lower, upper = rows(self.lower), rows(self.upper)
        return Ball(lower if self.norm == "linf" else rows(self.x), self.norm, self.epsilon, lower, upper)

    def least(self, a: Float[Tensor, "n c h w"]) -> Float64[Tensor, " n"]:
        """Return min a·x' over each ball for a linear function a row.

        Exactly; for L2 within 1e-4·ε·‖a‖ below it.
        """
        if self.norm == "linf":
            return summed(a * torch.where(a > 0, self.lower, self.upper))
        # How far each pixel can go in the direction that lowers a·x', and how steeply it falls.
        room = torch.where(a > 0, self.x - self.lower, self.upper - self.x).flatten(1)
        fall = {"l2": _fall_in_l2, "l1": _fall_in_l1, "l0": self._fall_in_l0}[self.norm]
        return summed(a * self.x) - fall(a.flatten(1).abs(), room, self.epsilon)

    def _fall_in_l0(self, steepness: Tensor, room: Tensor, epsilon: float) -> Tensor:
        pixels = (steepness * room).view(len(steepness), self.x.shape[1], -1).sum(1, dtype=torch.float64)
        return pixels.topk(min(int(epsilon), pixels.shape[1]), dim=1).values.sum(1)


def ball(x: Float[Tensor, "n c h w"], threat: Threat) -> Ball:
    """Return the ball of a threat around images in [0, 1], cut off there."""
    epsilon = threat.epsilon if threat.norm == "l0" else threat.epsilon * _MARGIN
    reach = 1.0 if threat.norm == "l0" else epsilon
    lower, upper = (x.double() - reach).clamp(min=0).to(x), (x.double() + reach).clamp(max=1).to(x)
    # To the precision of x outwards: the pixels that float32 holds between ε and the next number belong to the ball.
    lower = torch.nextafter(lower, torch.zeros_like(x)).clamp(min=0)
    upper = torch.nextafter(upper, torch.full_like(x, 2)).clamp(max=1)
    return Ball(x, threat.norm, epsilon, lower, upper)


def _fall_in_l1(steepness: Tensor, room: Tensor, epsilon: float) -> Tensor:
    """Spend ε where a·x' falls the fastest, as far as each pixel can go: a fractional knapsack."""
    ordered, place = steepness.double().sort(dim=1, descending=True)
    spent = room.double().gather(1, place)
    before = spent.cumsum(1) - spent
    return (ordered * torch.minimum(spent, (epsilon - before).clamp(min=0))).sum(1)


def _fall_in_l2(steepness: Tensor, room: Tensor, epsilon: float) -> Tensor:
    """Bound max Σ|aᵢ|dᵢ over 0 ≤ dᵢ ≤ roomᵢ, ‖d‖₂ ≤ ε by its dual: for every λ > 0 it is at most

    Σ max over dᵢ of (|aᵢ|dᵢ − λdᵢ²/2) + λε²/2, with dᵢ = min(|aᵢ|/λ, roomᵢ). The best λ is where ‖d‖₂ = ε.
    """
    length = steepness.double().square().sum(1, keepdim=True).sqrt()
    # Without the box the best λ is ‖a‖/ε; the box makes it smaller, for others must go farther.
    high = (length / epsilon).log().clamp(min=-60)
    low = high - 16
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        far = _reach(steepness, room, middle).square().sum(1, keepdim=True, dtype=torch.float64) > epsilon**2
        low, high = torch.where(far, middle, low), torch.where(far, high, middle)
    bounds = [_dual(steepness, room, end, epsilon) for end in (low, high)]
    return torch.minimum(*bounds).clamp(min=0)


def _reach(steepness: Tensor, room: Tensor, log_multiplier: Tensor) -> Tensor:
    return torch.minimum(steepness / log_multiplier.exp().to(steepness), room)


def _dual(steepness: Tensor, room: Tensor, log_multiplier: Tensor, epsilon: float) -> Tensor:
    # d need not be the best for a rounded λ: the bound is taken with the exact best one, in float64.
    multiplier = log_multiplier.exp()
    going = torch.minimum(steepness.double() / multiplier, room.double())
    gained = (steepness.double() * going - multiplier / 2 * going.square()).sum(1)
    return gained + multiplier[:, 0] / 2 * epsilon**2
