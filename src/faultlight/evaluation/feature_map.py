"""Where failures go among a net's features: the plane of two principal components, and each failure's path on it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from faultlight.data.images import Images
from faultlight.errors import InputError
from faultlight.models.subject import Subject
from faultlight.views._features import feature_layer, features
from faultlight.views._maps import reduce

# Images that make the plane, and points looked at on the straight way from an image to its twin, both ends included.
AROUND, STOPS = 400, 9
_DECIMALS = 4


def feature_map(
    subject: Subject, around: Images, images: Images, twins: Float32[Tensor, "k c h w"]
) -> tuple[dict[str, Any] | None, list[list[list[float]]]]:
    """Return the map of clean images for a report, and the path of each failure on it.

    The map holds the two first principal components of what the logits are computed from, over the first images of the
    audit. A failure's path are the projections of x + t·(x' − x) for t from 0 to 1: it bends where the net does.

    Args:
        subject: the model.
        around: the audited images; the first 400 make the map.
        images: the failures.
        twins: their twins.

    Returns:
        "layer", "explained" (the share of the variance that either axis holds), "points" and "labels", or None where
        the net has no such features or they do not vary; and 9 points (x, y) a failure.
    """
    first = around.take(torch.arange(min(AROUND, len(around)), device=around.x.device))
    try:
        layer = feature_layer(subject, first.x, None)
        plane = reduce(features(subject, first, layer))
        ways = features(subject, _ways(images, twins), layer)
    except InputError:
        return None, []
    if not plane.varies or plane.values.shape[1] < 2:
        return None, []
    paths = plane.project(ways)[:, :2].reshape(len(images), STOPS, 2)
    record = {
        "layer": layer,
        "explained": [float(share) for share in plane.explained[:2]],
        "points": _rounded(plane.values[:, :2]),
        "labels": first.y.tolist(),
    }
    return record, [_rounded(path) for path in paths]


def _ways(images: Images, twins: Tensor) -> Images:
    """Return the points on every failure's way, one failure after the other."""
    share = torch.linspace(0, 1, STOPS, device=twins.device).view(1, STOPS, 1, 1, 1)
    x = images.x[:, None] + share * (twins - images.x)[:, None]
    return replace(images, x=x.flatten(0, 1), y=images.y.repeat_interleave(STOPS), ids=torch.arange(len(x) * STOPS))


def _rounded(points: np.ndarray) -> list[list[float]]:
    found: list[list[float]] = np.round(points.astype(float), _DECIMALS).tolist()
    return found
