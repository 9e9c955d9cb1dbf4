"""Certificates for images: each bound in turn on those that are still open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from faultlight.certify._ball import ball
from faultlight.certify._calls import NoCertificate
from faultlight.certify._margins import Bound, clean_margins, every_other_class, merged
from faultlight.certify._network import Network
from faultlight.certify._reading import read_network
from faultlight.certify.crown import Crown
from faultlight.certify.interval import Interval
from faultlight.models.subject import Subject
from faultlight.threat import Threat, parse_threat

__all__ = ["CASCADE", "Certificate", "NoCertificate", "certify", "certify_images", "read_network"]

# The cheap bound first; each is asked only for the classes of those images that the ones before left open.
CASCADE: dict[str, Bound] = {
    "interval": Interval(),
    "crown-interval": Crown(hidden="interval"),
    "crown": Crown(steps=12),
}
OPEN = -1


@dataclass(frozen=True)
class Certificate:
    """What was proved of each image.

    Args:
        certified: whether no image in the ball is classified otherwise than the label, (n,).
        margin: the best lower bound of min over j ≠ y of z_y − z_j over the ball, in logits, (n,).
        bound: the place in the cascade of the bound that proved it; −1 where none did, (n,).
    """

    certified: Bool[Tensor, " n"]
    margin: Float64[Tensor, " n"]
    bound: Int64[Tensor, " n"]


def certify(
    subject: Subject,
    x: Float32[Tensor, "n c h w"],
    y: Int64[Tensor, " n"],
    threat: str | Threat,
    bounds: Sequence[Bound] = tuple(CASCADE.values()),
) -> Certificate:
    """Return what can be proved of a subject's answers within a ball around each image.

    Args:
        subject: a feed-forward ReLU network; see docs/certificates.md for what it may be made of.
        x: pixels in [0, 1].
        y: labels.
        threat: the ball, such as "linf:0.1".
        bounds: which bounds to try, one after the other.

    Raises:
        NoCertificate: the network holds an operation that has no bound; the message names it.

    Example:
        certify(subject, images.x, images.y, "linf:0.1").certified.float().mean()
    """
    network = read_network(subject.module, (int(x.shape[1]), int(x.shape[2]), int(x.shape[3])))
    return certify_images(network, x, y, parse_threat(threat), bounds)


def certify_images(
    network: Network,
    x: Float32[Tensor, "n c h w"],
    y: Int64[Tensor, " n"],
    threat: Threat,
    bounds: Sequence[Bound] = tuple(CASCADE.values()),
) -> Certificate:
    """Return the same for a network that is read already."""
    asked, clean = every_other_class(y, network.classes), clean_margins(network, x, y)
    margins = torch.full_like(clean, -torch.inf)
    proved_by = torch.full_like(y, OPEN)
    hopeful = (clean > 0).logical_or(~asked).all(1)
    for place, bound in enumerate(bounds):
        rows = (hopeful & (proved_by == OPEN)).nonzero()[:, 0]
        if not len(rows):
            break
        still = asked[rows] & (margins[rows] <= 0)
        found = bound.margins(network, ball(x[rows], threat), y[rows], still)
        margins[rows] = merged(margins[rows], found)
        proved = (margins[rows] > 0) | ~asked[rows]
        proved_by[rows[proved.all(1)]] = place
        hopeful &= ((margins > -bound.reach * clean) | ~asked).all(1)
    worst = torch.minimum(margins, clean).masked_fill(~asked, torch.inf).amin(1)
    return Certificate(proved_by != OPEN, worst, proved_by)
