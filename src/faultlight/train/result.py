"""What a training run came to: its record, and the figures that its caller gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from faultlight.models.load import load_model
from faultlight.models.subject import Subject
from faultlight.train import folder as place
from faultlight.train.recipe import Recipe
from faultlight.train.state import State


@dataclass(frozen=True)
class TrainResult:
    """What a training run came to.

    Args:
        folder: where the records and the weights are.
        test_accuracy: share of the test images classified correctly, in float32.
        test_count: how many test images there are.
        best_epoch: the epoch, from 1, whose weights were kept.
        validation_accuracy: of that epoch.
        seconds: spent on training, over all resumptions.
        target: the figure the recipe has to reach, or None.
        met: whether every target was reached; None without one.
        robust_accuracy: share of the first test images that withstood what the robust target asks, if there is one.
        robust_target: the figure the recipe has to reach there, or None.
        chosen_by: the figure by which that epoch was chosen among all.
        chosen_at: its value there, in [0, 1].
        guards: what the guards found and did, a sentence each.
    """

    folder: Path
    test_accuracy: float
    test_count: int
    best_epoch: int
    validation_accuracy: float
    seconds: float
    target: float | None
    met: bool | None
    robust_accuracy: float | None = None
    robust_target: float | None = None
    chosen_by: str = "validation accuracy"
    chosen_at: float | None = None
    guards: tuple[str, ...] = ()

    def subject(self) -> Subject:
        """Return the trained network, ready to be tested."""
        return load_model(str(self.folder))


def record_of(recipe: Recipe, state: State, confusion: Tensor, robustness: dict[str, Any] | None) -> dict[str, Any]:
    """Return what records/training.json holds."""
    assert state.best is not None, "no epoch was finished"
    accuracy = int(confusion.diagonal().sum()) / int(confusion.sum())
    return {
        "schema": place.SCHEMA,
        "recipe": recipe.name,
        "epochs": state.history,
        "guards": state.guards,
        "best_epoch": state.best.epoch,
        "validation_accuracy": state.best.accuracy,
        "seconds": round(sum(part["seconds"] for part in [*state.history, *state.guards]), 3),
        "test_accuracy": accuracy,
        "test_count": int(confusion.sum()),
        "target": recipe.target.model_dump() if recipe.target else None,
        "robust_target": robustness,
        "met": _met(recipe, accuracy, robustness),
        "confusion": confusion.tolist(),
    }


def result_of(out: Path, record: Mapping[str, Any]) -> TrainResult:
    """Return the figures of a record."""
    target = record["target"]["at_least"] if record["target"] else None
    figures = {name: record[name] for name in ("test_accuracy", "test_count", "best_epoch", "validation_accuracy")}
    robust = record.get("robust_target") or {"accuracy": None, "at_least": None}
    chosen_by, chosen_at = _choice(record["epochs"][record["best_epoch"] - 1])
    return TrainResult(
        out,
        **figures,
        seconds=record["seconds"],
        target=target,
        met=record["met"],
        robust_accuracy=robust["accuracy"],
        robust_target=robust["at_least"],
        chosen_by=chosen_by,
        chosen_at=chosen_at,
        guards=tuple(found["text"] for found in record.get("guards", [])),
    )


def _choice(row: Mapping[str, Any]) -> tuple[str, float]:
    """Return the figure that an epoch was chosen by, and its value; see `state.merit`."""
    if "validation_robust_accuracy" not in row:
        return "validation accuracy", row["validation_accuracy"]
    # Alignment is measured along with attacks alone.
    by = "validation accuracy under PGD" if "gradient_alignment" in row else "proven validation accuracy"
    return by, row["validation_robust_accuracy"]


def _met(recipe: Recipe, accuracy: float, robustness: Mapping[str, Any] | None) -> bool | None:
    reached = [accuracy >= recipe.target.at_least] if recipe.target else []
    reached += [robustness["accuracy"] >= robustness["at_least"]] if robustness else []
    return all(reached) if reached else None
