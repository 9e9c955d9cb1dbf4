"""Accuracy against ε on a sample: the same attack at every radius, so that its failures show; and nearest twins."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from faultlight.attacks.fgsm import FGSM
from faultlight.attacks.fmn import FMN
from faultlight.evaluation.adaptive import STRAIGHT_THROUGH, STRAIGHT_THROUGH_TARGETED, TRANSFER, TRANSFER_ALL
from faultlight.evaluation.checks.evidence import CurvePoint
from faultlight.evaluation.plan import Search, curve_attack
from faultlight.evaluation.probing import Scene, probe_images
from faultlight.evaluation.rows import Attempt, ImageRow
from faultlight.evaluation.verdict import share
from faultlight.geometry import diameter
from faultlight.threat import Norm, Threat

SAMPLE = 100
PROBE = "curve"
SINGLE_STEP = "curve-fgsm"
NEAREST = "nearest"
# The same searches where the adaptive path found that the model's own gradients hide twins.
LENT = "curve-straight-through"
NEAREST_LENT = "nearest-straight-through"
PROBES = (PROBE, SINGLE_STEP, NEAREST, LENT, NEAREST_LENT)
_NEAREST_ATTACK = FMN(steps=30)
_QUANTILES = (5, 25, 50, 75, 95)
# Few: the curve itself is drawn from the nearest twins; these balls tell whether the attack grows with its ball.
_MULTIPLES = (0.5, 1.0, 2.0)


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


def box_threat(threat: Threat, shape: tuple[int, int, int]) -> Threat:
    """Return the ball that reaches every image in [0, 1], in which the nearest twins are sought."""
    return threat.at(diameter(shape, threat.norm))


def draw_curve(scene: Scene, threat: Threat, images: list[ImageRow]) -> None:
    """Run the curve's attempts on the first images that are classified correctly.

    Where a straight-through search broke an image, the same searches run on the straight-through twin as well: the
    model's own gradients alone would draw the curve too high.
    """
    rows = _sample(images)
    _search(scene, threat, rows, (PROBE, NEAREST), "fast")
    probe_images(scene, SINGLE_STEP, FGSM(loss="margin"), threat, rows, "fast", audited=False)
    if _hidden(scene):
        _search(scene, threat, rows, (LENT, NEAREST_LENT), "straight-through")


def _search(scene: Scene, threat: Threat, rows: list[int], names: tuple[str, str], search: Search) -> None:
    each, nearest = names
    for ball in radii(threat, scene.images.shape):
        probe_images(scene, each, curve_attack(threat.norm), ball, rows, search, audited=False)
    whole = box_threat(threat, scene.images.shape)
    probe_images(scene, nearest, _NEAREST_ATTACK, whole, rows, search, audited=False, nearest=True)


def _hidden(scene: Scene) -> bool:
    """Return whether a straight-through search broke what the model's own gradients did not."""
    searches = (STRAIGHT_THROUGH, STRAIGHT_THROUGH_TARGETED, TRANSFER, TRANSFER_ALL)
    return any(attempt.broke for probe in searches for attempt in scene.ledger.attempts(probe))


def curve_points(
    images: list[ImageRow], attempts: list[Attempt], balls: list[Threat], probe: str = PROBE
) -> list[CurvePoint]:
    """Return the finished points of one of the curve's searches from the ledger; the first is ε = 0."""
    sampled = frozenset(images[row].id for row in _sample(images))
    after = {ball: standing_after(probe, ball, sampled, attempts) for ball in balls}
    found = [CurvePoint(ball.epsilon, ball.text, standing) for ball, standing in after.items() if standing is not None]
    return [CurvePoint(0.0, "0", sampled), *found]


def lowered(own: list[CurvePoint], lent: list[CurvePoint]) -> list[CurvePoint]:
    """Return the points without the images that the same attack broke there on the straight-through twin.

    Until that has run at every ε they stay as they are: a curve lowered in part would rise again.
    """
    if len(lent) < len(own):
        return own
    return [replace(point, standing=point.standing & other.standing) for point, other in zip(own, lent, strict=True)]


def standing_after(
    probe: str, threat: Threat, sampled: frozenset[int], attempts: list[Attempt]
) -> frozenset[int] | None:
    """Return the sampled images that a probe left standing at a threat; None if it did not run on all of them."""
    of_probe = [a for a in attempts if a.probe == probe and a.threat == str(threat)]
    if not sampled or not sampled <= {a.id for a in of_probe}:
        return None
    return sampled - {a.id for a in of_probe if a.broke}


@dataclass(frozen=True)
class Nearest:
    """How far the nearest known twin of each of the sample's images lies, and which probe found it.

    Args:
        distance: by image id; 0 where the image is wrong by itself, ∞ where no twin is known.
        found_by: by image id; "" where none was needed or found.
    """

    distance: dict[int, float]
    found_by: dict[int, str]


def nearest_twins(images: list[ImageRow], attempts: Sequence[Attempt], norm: Norm) -> Nearest | None:
    """Return each sampled image's nearest twin of all attempts in the norm; None until the search for them is done.

    Per image the minimum over every probe of the run, at whatever radius: all of them were accepted by the judge.
    """
    sampled = {images[row].id for row in _sample(images)}
    if not sampled or not sampled <= {attempt.id for attempt in attempts if attempt.probe == NEAREST}:
        return None
    counted = [image for image in images[:SAMPLE] if image.clean_margin is not None]
    distance = {image.id: math.inf if image.id in sampled else 0.0 for image in counted}
    found_by = dict.fromkeys(distance, "")
    for attempt in attempts:
        near = attempt.broke and attempt.distance is not None and attempt.threat.startswith(f"{norm}:")
        if near and (attempt.distance or 0.0) < distance.get(attempt.id, 0.0):
            distance[attempt.id], found_by[attempt.id] = attempt.distance or 0.0, attempt.probe
    return Nearest(distance, found_by)


def distances_record(nearest: Nearest | None) -> dict[str, Any] | None:
    """Return the content of "distances" in records/curve.json.

    "values" are the distances in ascending order, those of images without a known twin left out; "accuracy" is what
    each implies: the share of all n images whose nearest twin is farther. A quantile among images without one is null.
    """
    if nearest is None:
        return None
    n, values = len(nearest.distance), sorted(nearest.distance.values())
    finite = [value for value in values if math.isfinite(value)]
    quantiles = {str(percent): _quantile(values, percent) for percent in _QUANTILES}
    return {
        "probe": str(_NEAREST_ATTACK),
        "n": n,
        "median": quantiles["50"],
        "quantiles": quantiles,
        "values": finite,
        "accuracy": [sum(value > bound for value in values) / n for bound in finite],
        "found_by": dict(sorted(Counter(filter(None, nearest.found_by.values())).items())),
    }


def _quantile(values: Sequence[float], percent: int) -> float | None:
    """Return the smallest distance that at least so many percent of the images do not exceed; None where it is ∞."""
    value = values[max(0, math.ceil(len(values) * percent / 100) - 1)]
    return value if math.isfinite(value) else None


def curve_record(
    own: list[CurvePoint], lent: list[CurvePoint], images: list[ImageRow], threat: Threat, nearest: Nearest | None
) -> dict[str, Any]:
    """Return the content of records/curve.json: accuracy over the sample's images, wrongly classified ones included.

    "lent" says whether the attack ran on the straight-through twin as well, at every ε.
    """
    n = _counted(images)
    return {
        "schema": 1,
        "norm": threat.norm,
        "n": n,
        "probe": str(curve_attack(threat.norm)),
        "lent": 1 < len(own) == len(lent),
        "audit_epsilon": threat.epsilon,
        "points": [_point(point, n) for point in lowered(own, lent)],
        "distances": distances_record(nearest),
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
