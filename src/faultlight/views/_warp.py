"""Moving images: shifted, enlarged and turned about their middle."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float32, Float64
from torch import Tensor
from torch.nn import functional


def shifted(x: Float32[Tensor, "n c h w"], down: int, fill: float) -> Float32[Tensor, "n c h w"]:
    """Return images moved down by whole pixels (up where negative), what comes in at the edge being `fill`."""
    height = x.shape[2]
    rows = max(0, height - abs(down))
    moved = torch.full_like(x, fill)
    moved[:, :, max(0, down) : max(0, down) + rows] = x[:, :, max(0, -down) : max(0, -down) + rows]
    return moved


def enlarged(x: Float32[Tensor, "n c h w"], factor: float, fill: float) -> Float32[Tensor, "n c h w"]:
    """Return images enlarged about their middle (shrunk by a factor below 1), bilinear, outside them `fill`."""
    return _sampled(x, torch.eye(2, dtype=torch.float64) / factor, fill)


def turned(x: Float32[Tensor, "n c h w"], degrees: float, fill: float) -> Float32[Tensor, "n c h w"]:
    """Return images turned counter-clockwise about their middle, bilinear, outside them `fill`."""
    angle = math.radians(degrees % 360)
    cosine, sine = math.cos(angle), math.sin(angle)
    return _sampled(x, torch.tensor([[cosine, sine], [-sine, cosine]], dtype=torch.float64), fill)


def _sampled(x: Tensor, inverse: Float64[Tensor, "2 2"], fill: float) -> Tensor:
    """Return images whose value at the place p is that of x at c + inverse·(p − c), with c the middle."""
    # In float64 about the middle: the identity gives back x to the bit, which torch's normalised places do not.
    height, width = x.shape[2:]
    middle = torch.tensor([(height - 1) / 2, (width - 1) / 2], dtype=torch.float64)
    places = torch.cartesian_prod(torch.arange(height), torch.arange(width)).double()
    source = (places - middle) @ inverse.T + middle
    corner = source.floor()
    share = source - corner
    padded, total = functional.pad(x.double().cpu(), (1, 1, 1, 1), value=fill), torch.zeros(1, dtype=torch.float64)
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        row = (corner[:, 0] + down + 1).clamp(0, height + 1).long()
        column = (corner[:, 1] + right + 1).clamp(0, width + 1).long()
        weight = (share[:, 0] if down else 1 - share[:, 0]) * (share[:, 1] if right else 1 - share[:, 1])
        total = total + weight * padded[:, :, row, column]
    return total.view_as(x).clamp(0, 1).to(x)
