"""The records of a run as types: all that the report knows."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import FiniteFloat


@dataclass(frozen=True)
class Rate:
    """A fraction of the audited images with the ends of its 95 % interval, all in [0, 1]."""

    value: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat
    count: int | None = None


@dataclass(frozen=True)
class Finding:
    """One remark of the checks: which check, how grave, and on what evidence."""

    check: str
    severity: Literal["info", "warning", "fatal"]
    evidence: str


@dataclass(frozen=True)
class Data:
    """The audited data: its name, split, class names by label, and fingerprint."""

    name: str
    split: str
    classes: list[str]
    fingerprint: str = ""


@dataclass(frozen=True)
class Model:
    """The audited model's name and fingerprint."""

    name: str
    fingerprint: str = ""


@dataclass(frozen=True)
class Cost:
    """What the audit spent: passes of one image through the net, and seconds."""

    forward: int
    backward: int
    seconds: FiniteFloat


@dataclass(frozen=True)
class Verdict:
    """`verdict.json`; `halved` says by probe how often memory ran out, so that fewer images were attacked at once."""

    status: Literal["sound", "doubtful", "withheld"]
    sentence: str
    complete: bool
    n: int
    threat: str
    norm: str
    epsilon: FiniteFloat
    data: Data
    model: Model
    cost: Cost
    invalid: int
    fragile: int
    clean: Rate | None = None
    attacked: Rate | None = None
    certified: Rate | None = None
    effort: str = ""
    search: str = ""
    halved: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


@dataclass(frozen=True)
class Point:
    """One ε of the curve: how many of n images still stand there, with a 95 % interval."""

    epsilon: FiniteFloat
    text: str
    standing: int
    n: int
    value: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat


@dataclass(frozen=True)
class Distances:
    """How far the nearest known twins lie, and the accuracy that this implies at every ε.

    Args:
        probe: the search for the nearest twins; the twins of every other probe count too.
        n: images, those without a known twin included.
        median: None where more than half of the images have no known twin.
        quantiles: by percent, "5" … "95".
        values: the distances that are known, in ascending order.
        accuracy: the share of images whose nearest twin is farther, for each of the values.
        found_by: how many nearest twins each probe found.
    """

    probe: str
    n: int
    median: FiniteFloat | None
    quantiles: dict[str, FiniteFloat | None]
    values: list[FiniteFloat]
    accuracy: list[FiniteFloat]
    found_by: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Curve:
    """`records/curve.json`."""

    norm: str
    n: int
    probe: str
    points: list[Point]
    audit_epsilon: FiniteFloat
    distances: Distances | None = None
    lent: bool = False


@dataclass(frozen=True)
class Probe:
    """One attack as it ran: the images it was given, those it broke, and its passes."""

    probe: str
    tried: int
    broke: int
    forwards: int
    backwards: int
    settings: str = ""
    paper: str = ""


@dataclass(frozen=True)
class Probes:
    """`records/probes.json`, in the order the attacks ran."""

    probes: list[Probe]


@dataclass(frozen=True)
class Check:
    """One check that was made: what it saw, and "passed", "not run", or how grave its finding is."""

    check: str
    saw: str
    outcome: str


@dataclass(frozen=True)
class Checks:
    """`records/checks.json`, in the order of the checks."""

    checks: list[Check]


@dataclass(frozen=True)
class Layer:
    """One layer of the audited net."""

    name: str
    type: str
    output: list[int]
    neurons: int
    parameters: int
    multiply_adds: int


@dataclass(frozen=True)
class Total:
    """The sums over all layers."""

    neurons: int
    parameters: int
    multiply_adds: int


@dataclass(frozen=True)
class Layers:
    """`records/model.json`."""

    layers: list[Layer]
    total: Total


@dataclass(frozen=True)
class Moved:
    """A channel that the attack moved: its layer, its number and by how much."""

    layer: str
    channel: int
    change: FiniteFloat


@dataclass(frozen=True)
class Item:
    """One failure of the gallery: an image that the net classified correctly, and its twin that it did not."""

    id: int
    label: int
    prediction: int
    twin_prediction: int
    broken_by: str
    confidence: list[FiniteFloat]
    twin_confidence: list[FiniteFloat]
    distance: FiniteFloat | None = None
    margin: FiniteFloat | None = None
    fragile: bool = False
    moved: list[Moved] = field(default_factory=list)
    path: list[tuple[FiniteFloat, FiniteFloat]] = field(default_factory=list)


@dataclass(frozen=True)
class Scales:
    """The shared scales of the gallery's pictures: the largest |δ|, and the ends of the maps."""

    delta: FiniteFloat = 0.0
    occlusion: tuple[FiniteFloat, FiniteFloat] = (0.0, 1.0)
    saliency: FiniteFloat = 0.0


@dataclass(frozen=True)
class FeatureMap:
    """Clean images in the plane of two principal components of a layer's features."""

    layer: str
    explained: list[FiniteFloat]
    points: list[tuple[FiniteFloat, FiniteFloat]]
    labels: list[int]


@dataclass(frozen=True)
class Gallery:
    """`records/gallery.json`; the arrays of its pictures lie in `arrays/gallery.safetensors`."""

    items: list[Item]
    scales: Scales = field(default_factory=Scales)
    patch: int | None = None
    stride: int | None = None
    fill: FiniteFloat | None = None
    no_projections: str = ""
    map: FeatureMap | None = None


@dataclass(frozen=True)
class Withstood:
    """The share of test images that withstood what a recipe's robust target asks."""

    threat: str
    by: str
    accuracy: FiniteFloat
    count: int


@dataclass(frozen=True)
class Trained:
    """`records/trained.json`: what the run of the audited model ended with, and its folder, seen from here."""

    folder: str
    recipe: str
    epochs: int
    best_epoch: int
    test_accuracy: FiniteFloat
    test_count: int
    seconds: FiniteFloat
    robust: Withstood | None = None


@dataclass(frozen=True)
class Records:
    """Everything a run has written, checked; what it has not written is None or empty.

    Args:
        raw: the same records as plain JSON, by name, for the page to carry.
    """

    run: Path
    verdict: Verdict
    curve: Curve | None
    probes: Probes | None
    model: Layers | None
    gallery: Gallery | None
    stamp: dict[str, Any]
    settings: str
    raw: dict[str, Any]
    checks: Checks | None = None
    trained: Trained | None = None
