"""The records of a training run as types: all that the training page knows."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64
from pydantic import FiniteFloat
from safetensors import SafetensorError
from safetensors.numpy import load_file

from faultlight.errors import InputError
from faultlight.report.reading import check_record, read_record
from faultlight.report.records import Layers

TRAINING, TEST, LAYERS, ARRAYS = (
    "records/training.json",
    "records/test.json",
    "records/model.json",
    "arrays/test.safetensors",
)


@dataclass(frozen=True)
class Target:
    """The figure that the recipe must reach."""

    at_least: FiniteFloat


@dataclass(frozen=True)
class Robust:
    """What the robust target asked, and the share of images that withstood it.

    `straight_through` names the layer that the attack's gradient passed as if it were the identity, if any.
    """

    threat: str
    at_least: FiniteFloat
    accuracy: FiniteFloat
    count: int
    by: str = "pgd"
    steps: int | None = None
    straight_through: str = ""

    @property
    def how(self) -> str:
        """How it was attacked or proven, in words."""
        if self.by != "pgd":
            return self.by
        through = f", straight through {self.straight_through}," if self.straight_through else ""
        return (f"pgd-{self.steps}" if self.steps else "pgd") + through


@dataclass(frozen=True)
class Training:
    """`records/training.json`."""

    recipe: str
    epochs: list[dict[str, FiniteFloat | int | str | bool | None]]
    best_epoch: int
    validation_accuracy: FiniteFloat
    seconds: FiniteFloat
    test_accuracy: FiniteFloat
    test_count: int
    met: bool | None
    confusion: list[list[int]]
    target: Target | None = None
    robust_target: Robust | None = None
    guards: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Tested:
    """`records/test.json`: which images, and the names of their classes."""

    name: str
    split: str
    classes: list[str]
    n: int
    validation_count: int


@dataclass(frozen=True)
class Answers:
    """`arrays/test.safetensors`: what the network said of each test image, and the worst of them.

    Args:
        ids, labels, predictions: of each image, in the file's order.
        confidence: the softmax probability of the prediction.
        loss: −log of the true class's probability.
        worst: rows of the images with the highest loss, that one first.
        worst_x: their pixels.
    """

    ids: Int64[np.ndarray, " n"]
    labels: Int64[np.ndarray, " n"]
    predictions: Int64[np.ndarray, " n"]
    confidence: Float32[np.ndarray, " n"]
    loss: Float32[np.ndarray, " n"]
    worst: Int64[np.ndarray, " k"]
    worst_x: Float32[np.ndarray, "k c h w"]


@dataclass(frozen=True)
class Run:
    """Everything a training run has written, checked; what an older one has not written is None or empty."""

    folder: Path
    asked: dict[str, Any]
    training: Training
    tested: Tested | None
    answers: Answers | None
    layers: Layers | None
    stamp: dict[str, Any]
    raw: dict[str, Any]
    settings: str


def read_run(folder: Path) -> Run:
    """Read a finished training run.

    Raises:
        InputError: the run is unfinished or none of a classifier, or a record is damaged or of a newer schema.
    """
    if not (folder / TRAINING).is_file():
        raise InputError(f"{folder} holds no {TRAINING}: finish the run with `faultlight train --resume`.")
    paths = {"training": TRAINING, "test": TEST, "model": LAYERS, "stamp": "stamp.json"}
    raw = {name: read_record(folder, path) for name, path in paths.items() if (folder / path).is_file()}
    if "confusion" not in raw["training"]:
        raise InputError(f"{folder / TRAINING} is not that of a classifier, of which alone two can be drawn together.")
    text = _settings(folder / "run.toml")
    return Run(
        folder=folder,
        asked=_asked(folder, text),
        training=check_record(folder / TRAINING, raw["training"], Training),
        tested=check_record(folder / TEST, raw["test"], Tested) if "test" in raw else None,
        answers=_answers(folder / ARRAYS) if (folder / ARRAYS).is_file() else None,
        layers=check_record(folder / LAYERS, raw["model"], Layers) if "model" in raw else None,
        stamp=raw.get("stamp", {}),
        raw=raw,
        settings=text,
    )


def _settings(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _asked(folder: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{folder / 'run.toml'} is not valid TOML ({error}); train again.") from None


def _answers(path: Path) -> Answers:
    try:
        arrays = load_file(path)
        found = Answers(**{name: arrays[name] for name in Answers.__dataclass_fields__})
    except (SafetensorError, OSError, KeyError) as error:
        raise InputError(f"{path} cannot be read ({error}); train again.") from None
    lengths = {len(each) for each in (found.ids, found.labels, found.predictions, found.confidence, found.loss)}
    if len(lengths) > 1 or len(found.worst) != len(found.worst_x) or (found.worst >= len(found.ids)).any():
        raise InputError(f"{path} holds arrays that do not belong together; train again.")
    return found
