"""Accuracy against ε on a sample: the same attack at every radius, so that its failures show."""

from __future__ import annotations

import math
from typing import Any

from faultlight.attacks.fgsm import FGSM
from faultlight.evaluation.checks.evidence import CurvePoint
from faultlight.evaluation.ledger import Attempt, ImageRow
from faultlight.evaluation.plan import curve_attack
from faultlight.evaluation.probing import Scene, probe_images
from faultlight.evaluation.verdict import share
from faultlight.threat import Norm, Threat

SAMPLE = 100
PROBE = "curve"
SINGLE_STEP = "curve-fgsm"
_MULTIPLES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0)


def radii(threat: Threat, shape: tuple[int, int, int]) -> list[Threat]:
    """Return the curve's balls by ascending ε: fractions and multiples of the audited one, up to the grey radius."""
    grey = grey_radius(threat.norm, shape)
    around = {threat.epsilon * multiple for multiple in _MULTIPLES}
    if threat.norm == "l0":
        around = {float(math.ceil(epsilon)) for epsilon in around}
    inner = sorted(epsilon for epsilon in around if epsilon < grey and epsilon != threat.epsilon)
    return sorted([threat, *map(threat.at, inner), *([threat.at(grey)] if grey > threat.epsilon else [])], key=_radius)


def grey_radius(norm: Norm, shape: tuple[int, int, int]) -> float:
    """Return the ε within which every image in [0, 1] can be turned into plain grey: nothing tells them apart then."""
    size = math.prod(shape)
    return {"linf": 0.5, "l2": 0.5 * math.sqrt(size), "l1": 0.5 * size, "l0": float(size // shape[0])}[norm]


def draw_curve(scene: Scene, threat: Threat, images: list[ImageRow]) -> None:
    """Run the curve's attempts on the first images that are classified correctly."""
    rows = _sample(images)
    for ball in radii(threat, scene.images.shape):
        probe_images(scene, PROBE, curve_attack(), ball, rows, "fast", audited=False)
    probe_images(scene, SINGLE_STEP, FGSM(loss="margin"), threat, rows, "fast", audited=False)


def curve_points(images: list[ImageRow], attempts: list[Attempt], balls: list[Threat]) -> list[CurvePoint]:
    """Return the finished points of the curve from the ledger; the first is ε = 0."""
    sampled = frozenset(images[row].id for row in _sample(images))
    after = {ball: standing_after(PROBE, ball, sampled, attempts) for ball in balls}
    found = [CurvePoint(ball.epsilon, ball.text, standing) for ball, standing in after.items() if standing is not None]
    return [CurvePoint(0.0, "0", sampled), *found]


def standing_after(
    probe: str, threat: Threat, sampled: frozenset[int], attempts: list[Attempt]
) -> frozenset[int] | None:
    """Return the sampled images that a probe left standing at a threat; None if it did not run on all of them."""
    of_probe = [a for a in attempts if a.probe == probe and a.threat == str(threat)]
    if not sampled or not sampled <= {a.id for a in of_probe}:
        return None
    return sampled - {a.id for a in of_probe if a.broke}


def curve_record(points: list[CurvePoint], images: list[ImageRow], threat: Threat) -> dict[str, Any]:
    """Return the content of records/curve.json: accuracy over the sample's images, wrongly classified ones included."""
    n = _counted(images)
    return {
        "schema": 1,
        "norm": threat.norm,
        "n": n,
        "probe": str(curve_attack()),
        "audit_epsilon": threat.epsilon,
        "points": [_point(point, n) for point in points],
    }


def _point(point: CurvePoint, n: int) -> dict[str, Any]:
    part = share(len(point.standing), n)
    interval = {"value": part.value, "low": part.low, "high": part.high}
    return {"epsilon": point.epsilon, "text": point.text, "standing": part.count, "n": n, **interval}


def _sample(images: list[ImageRow]) -> list[int]:
    first = images[:SAMPLE]
    return [
        row for row, image in enumerate(first) if image.clean_margin is not None and image.prediction == image.label
    ]


def _counted(images: list[ImageRow]) -> int:
    # By the clean look alone, like the sample: an image that turned invalid under attack stays in both.
    return sum(image.clean_margin is not None for image in images[:SAMPLE])


def _radius(threat: Threat) -> float:
    return threat.epsilon
