"""Margins z_y − z_j as linear functions of the logits, and what a bound is."""

from __future__ import annotations

from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from faultlight.certify._backward import least, rows_at_once
from faultlight.certify._ball import Ball
from faultlight.certify._lines import Lines
from faultlight.certify._network import Network
from faultlight.certify._ranges import Ranges
from faultlight.certify._window import Carried, pieces

Labels = Int64[Tensor, " n"]
Asked = Bool[Tensor, "n classes"]
Margins = Float64[Tensor, "n classes"]


@runtime_checkable
class Bound(Protocol):
    """A frozen dataclass of settings that bounds margins from below.

    `reach`: a bound that lies so many times farther below 0 than the image's own margin lies above it is so loose that
    a dearer one is not worth its cost.
    """

    reach: ClassVar[float]

    def margins(self, network: Network, ball: Ball, y: Labels, asked: Asked) -> Margins:
        """Return lower bounds of z_y − z_j over each image's ball where asked, −∞ elsewhere."""


def every_other_class(y: Labels, classes: int) -> Asked:
    """Ask for all classes but the label."""
    return torch.arange(classes, device=y.device) != y[:, None]


def functions(y: Labels, asked: Asked, like: Tensor) -> tuple[Float[Tensor, "r classes"], Int64[Tensor, " r"]]:
    """Return z_y − z_j for every pair asked for, as coefficients of the logits, and the image each belongs to."""
    owner, other = asked.nonzero(as_tuple=True)
    a = torch.zeros(len(owner), asked.shape[1]).to(like)
    a.scatter_(1, y[owner][:, None], 1.0).scatter_add_(1, other[:, None], torch.full_like(a[:, :1], -1.0))
    return a, owner


def margins_from(network: Network, ball: Ball, ranges: Ranges, y: Labels, asked: Asked, around: Lines) -> Margins:
    """Carry the margins asked for back to the pixels, or to the last bent layer where `around` is empty."""
    a, owner = functions(y, asked, ball.x)
    last = len(network.nodes) - 1
    found = [
        least(network, ball, ranges, last, Carried(a[piece]), owner[piece], around)
        for piece in pieces(len(a), rows_at_once(network, last))
    ]
    margins = torch.full(asked.shape, -torch.inf, dtype=torch.float64, device=ball.x.device)
    margins[asked] = torch.cat(found) if found else margins[asked]
    return margins


def clean_margins(network: Network, x: Float[Tensor, "n c h w"], y: Labels) -> Margins:
    """Return z_y − z_j at the images themselves."""
    with torch.no_grad():
        logits = network.evaluate(x).double()
    return logits.gather(1, y[:, None]) - logits


def merged(first: Margins, second: Margins) -> Margins:
    """Return the better of two bounds; both hold."""
    return torch.maximum(first, second)
