"""The gallery of failures: which are shown, and what the net saw of each before and after."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from numpy.typing import NDArray
from torch import Tensor

from faultlight.data.images import Images
from faultlight.errors import InputError
from faultlight.models.subject import Subject
from faultlight.views._project import EVERY, Units, project
from faultlight.views.listening import rows_at_once
from faultlight.views.moved import moved_maps
from faultlight.views.saliency import pixel_gradient, saliency_of
from faultlight.views.sliding import Grid, slide

SCHEMA = 1
FILL = 0.5


@dataclass(frozen=True)
class GalleryFact:
    """What the ledger says about a failure.

    Args:
        id: the image's id.
        prediction: the class predicted for the image.
        twin_prediction: the class predicted for its adversarial twin.
        broken_by: the probe that broke it.
        distance: ‖twin − image‖ in the audit's norm.
        margin: by how many logits the twin's wrong class wins.
        fragile: whether the break holds by a small margin only.
    """

    id: int
    prediction: int
    twin_prediction: int
    broken_by: str
    distance: float
    margin: float
    fragile: bool


def choose(distances: Sequence[float], broken_by: Sequence[str], labels: Sequence[int], k: int = 24) -> list[int]:
    """Return the rows of the failures to show: a spread over classes and attacks, the same one each time.

    Nothing is picked for its looks. The rows, which come in the order of their ids, are dealt out class by class, in
    rounds: the n-th round takes from each class one failure, alternating between the attacks that broke images of that
    class, always the lowest id that is left. The first k dealt are shown, in the order of their ids.

    Args:
        distances: ‖δ‖ of each failure; a row whose distance is not finite was not broken and is left out.
        broken_by: the attack that broke each.
        labels: the true class of each.
        k: how many to show.

    Returns:
        At most k row numbers, ascending.
    """
    seen_pair: dict[tuple[int, str], int] = {}
    seen_class: dict[int, int] = {}
    rows = [row for row, distance in enumerate(distances) if math.isfinite(distance)]
    turns = {row: _count(seen_pair, (labels[row], broken_by[row])) for row in rows}
    by_turn = sorted(rows, key=lambda row: (turns[row], row))
    rounds = {row: _count(seen_class, labels[row]) for row in by_turn}
    return sorted(sorted(rows, key=lambda row: (rounds[row], labels[row]))[:k])


def build_gallery(
    subject: Subject, images: Images, twins: Float32[Tensor, "k c h w"], facts: Sequence[GalleryFact]
) -> tuple[dict[str, Any], dict[str, NDArray[np.float32]]]:
    """Return the gallery's record and its arrays, for failures in the order given.

    For image and twin: the probabilities of all classes; the true class's probability with a grey patch at each
    position; the saliency of the true class's logit; the feature maps that moved most (`views.moved`); and what drives
    each of these maps, projected to the pixels (`views.projection`), where the net bends by ReLUs alone.

    Args:
        subject: the model.
        images: the failures, k of them.
        twins: the pixels that fooled the model, shape (k, c, h, w).
        facts: what the ledger says of each, k of them.

    Returns:
        The content of records/gallery.json, and the arrays of arrays/gallery.safetensors (float32): x and twin
        (k, c, h, w), occlusion_clean and occlusion_twin (k, a, b), saliency_clean and saliency_twin (k, h, w),
        moved_clean and moved_twin (k, m, p, q), projection_clean and projection_twin (k, m, c, h, w). Feature maps of
        different sizes are brought to one p × q by taking the nearest position, so that every number is one the net
        computed.

    Raises:
        InputError: images, twins and facts are not one for one.
    """
    _check(images, twins, facts)
    grid = patch_grid(*images.x.shape[2:])
    both, labels = torch.cat([images.x, twins]), images.y.repeat(2)
    moved, maps = moved_maps(subject, images.x, twins)
    seen = {
        "x": both,
        "occlusion": _occlusion(subject, both, labels, grid),
        "saliency": _saliency(subject, both, labels),
    }
    projections, why_not = _projections(subject, both, images, moved)
    arrays = {name: tensor for key, tensor in seen.items() for name, tensor in _halves(key, tensor).items()}
    arrays |= maps | projections
    items = _items(images, facts, _confidence(subject, both), moved)
    scales = {"delta": _largest(twins - images.x), "occlusion": [0.0, 1.0], "saliency": _largest(seen["saliency"])}
    record = {"schema": SCHEMA, "items": items, "scales": scales}
    record |= {"patch": grid.patch, "stride": grid.stride, "fill": FILL, "no_projections": why_not}
    return record, {name: tensor.float().cpu().numpy() for name, tensor in arrays.items()}


def patch_grid(height: int, width: int) -> Grid:
    """Return positions for a map of about ten by ten: a patch of a quarter of the side, a little more to end flush.

    8 × 8 pixels give patch 2, stride 1 (7 × 7 positions); 28 × 28 give 8, 2 (11 × 11); 32 × 32 give 8, 3 (9 × 9).
    """
    side = min(height, width)
    patch = min(side, max(2, side // 4))
    stride = max(1, round((side - patch) / 9))
    return Grid(height, width, patch + (side - patch) % stride, stride)


def _count(counts: dict[Any, int], key: Any) -> int:
    counts[key] = counts.get(key, 0) + 1
    return counts[key]


def _check(images: Images, twins: Tensor, facts: Sequence[GalleryFact]) -> None:
    if twins.shape != images.x.shape or len(facts) != len(images):
        raise InputError(
            f"the gallery was given images of shape {tuple(images.x.shape)}, twins of shape {tuple(twins.shape)} and "
            f"{len(facts)} facts; they must be one for one."
        )
    strays = [fact.id for fact, own in zip(facts, images.ids.tolist(), strict=True) if fact.id != own]
    if strays:
        raise InputError(f"the gallery's facts name the images {strays[:5]} where others were given; keep one order.")


def _halves(key: str, both: Tensor) -> Mapping[str, Tensor]:
    clean, twin = both.chunk(2)
    return {"x": clean, "twin": twin} if key == "x" else {f"{key}_clean": clean, f"{key}_twin": twin}


def _largest(values: Tensor) -> float:
    # A gradient may be infinite where the net has a pole; such a place is left out of the scale, not of the arrays.
    finite = values[values.isfinite()]
    return float(finite.abs().max()) if len(finite) else 0.0


@torch.no_grad()
def _confidence(subject: Subject, x: Tensor) -> Float32[Tensor, "n classes"]:
    if not len(x):
        return torch.zeros(0, subject.classes)
    return torch.cat([subject(part.to(subject.device)).softmax(1).cpu() for part in torch.split(x, rows_at_once(x))])


def _occlusion(subject: Subject, x: Tensor, y: Int64[Tensor, " n"], grid: Grid) -> Float32[Tensor, "n a b"]:
    covered = slide(subject, x, y, grid, FILL).probability if len(x) else torch.zeros(0)
    return covered.view(len(x), len(grid.top), len(grid.left))


def _saliency(subject: Subject, x: Tensor, y: Int64[Tensor, " n"]) -> Float32[Tensor, "n h w"]:
    return saliency_of(pixel_gradient(subject, x, y)) if len(x) else torch.zeros(0, *x.shape[2:])


def _projections(
    subject: Subject, both: Float32[Tensor, "n c h w"], images: Images, moved: Sequence[Sequence[Mapping[str, Any]]]
) -> tuple[dict[str, Tensor], str]:
    """Return what drives each moved map in the image and in its twin, or why it cannot be projected."""
    pairs = replace(images, x=both, y=images.y.repeat(2), ids=torch.arange(len(both)))
    places: dict[str, list[tuple[int, int, int]]] = {}
    for row, entries in enumerate(moved):
        for slot, entry in enumerate(entries):
            places.setdefault(entry["layer"], []).append((row, slot, entry["channel"]))
    found = torch.zeros(2, len(images), max(map(len, moved), default=0), *images.shape)
    for layer, wanted in places.items():
        rows, slots, channels = torch.tensor(wanted).unbind(1)
        whole = torch.full_like(channels, EVERY).repeat(2)
        try:
            halves = project(
                subject, pairs, layer, Units(torch.cat([rows, rows + len(images)]), channels.repeat(2), whole)
            )
        except InputError as error:
            return {}, str(error)
        found[:, rows, slots] = halves.view(2, len(rows), *images.shape)
    return {"projection_clean": found[0], "projection_twin": found[1]}, ""


def _items(
    images: Images, facts: Sequence[GalleryFact], confidence: Tensor, moved: list[list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    clean, twin = (half.tolist() for half in confidence.chunk(2)) if len(facts) else ([], [])
    return [
        {
            "id": fact.id,
            "label": int(images.y[row]),
            "prediction": fact.prediction,
            "twin_prediction": fact.twin_prediction,
            "broken_by": fact.broken_by,
            "distance": fact.distance,
            "margin": fact.margin,
            "fragile": fact.fragile,
            "confidence": clean[row],
            "twin_confidence": twin[row],
            "moved": moved[row],
        }
        for row, fact in enumerate(facts)
    ]
