"""The figures of the training page: shares with their intervals, calibration, the first epoch above a mark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32

from faultlight.evaluation.verdict import share
from faultlight.report.training_records import Answers, Run, Training

BINS = 15
_MARKS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995)


def figures(run: Run) -> dict[str, Any]:
    """Return every figure of the page that is worked out from the records, as plain JSON."""
    training = run.training
    found: dict[str, Any] = {"test": rate(training.test_accuracy, training.test_count)}
    if run.tested:
        found["validation"] = rate(training.validation_accuracy, run.tested.validation_count)
    if training.robust_target:
        found["robust"] = rate(training.robust_target.accuracy, training.robust_target.count)
    found["classes"] = per_class(training.confusion)
    if run.answers is not None and len(run.answers.ids):
        answers = run.answers
        found["calibration"] = calibration(answers.confidence, answers.predictions == answers.labels)
        found["loss"] = float(answers.loss.mean(dtype=np.float64))
        found["worst"] = worst(answers)
    return found


def rate(value: float, n: int) -> dict[str, Any]:
    """Return a share with its 95 % Clopper–Pearson interval, as {"value", "low", "high", "count", "n"}."""
    return {**asdict(share(round(value * n), n)), "n": n}


def per_class(confusion: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
    """Return for each class the share of its images classified correctly, lowest first; empty classes are left out."""
    rows = [
        {"label": label, **asdict(share(row[label], sum(row))), "n": sum(row)}
        for label, row in enumerate(confusion)
        if sum(row)
    ]
    return sorted(rows, key=lambda row: (row["value"], row["label"]))


def calibration(
    confidence: Float32[np.ndarray, " n"], right: Bool[np.ndarray, " n"], bins: int = BINS
) -> dict[str, Any]:
    """Return the reliability of a network's confidence.

    ECE = Σ_b (n_b / n) · |accuracy_b − confidence_b| over equally wide bins of the confidence, ((b − 1)/B, b/B].

    Source: Guo, Pleiss, Sun and Weinberger 2017, "On Calibration of Modern Neural Networks", section 2.

    Args:
        confidence: the largest softmax probability of each image, in [0, 1].
        right: whether that class is the true one.
        bins: B; the paper's 15 by default.

    Returns:
        "ece", the mean "confidence", the "accuracy", and "bins": of those not empty the edges, the count, the mean
        confidence, and the accuracy with its 95 % interval.
    """
    place = np.clip(np.ceil(confidence.astype(np.float64) * bins).astype(int) - 1, 0, bins - 1)
    rows = []
    for b in np.unique(place):
        inside = place == b
        accuracy = share(int(right[inside].sum()), int(inside.sum()))
        mean = float(confidence[inside].mean(dtype=np.float64))
        edges = {"from": int(b) / bins, "to": (int(b) + 1) / bins}
        rows.append({**edges, "confidence": mean, **asdict(accuracy), "n": int(inside.sum())})
    gap = sum(row["n"] * abs(row["value"] - row["confidence"]) for row in rows) / max(len(right), 1)
    mean = float(confidence.mean(dtype=np.float64))
    return {"ece": gap, "confidence": mean, "accuracy": float(right.mean()), "bins": rows}


def worst(answers: Answers) -> list[dict[str, Any]]:
    """Return the test images with the highest loss: which, their class, what they were taken for, and how surely."""
    return [
        {
            "id": int(answers.ids[row]),
            "label": int(answers.labels[row]),
            "prediction": int(answers.predictions[row]),
            "confidence": float(answers.confidence[row]),
            "loss": float(answers.loss[row]),
        }
        for row in answers.worst
    ]


def first_above(runs: Sequence[Training]) -> list[dict[str, Any]]:
    """Return, for each mark of validation accuracy that any run reached, the first epoch of each run at or above it."""
    rows = [(mark, [_first(run, mark) for run in runs]) for mark in _MARKS]
    # Marks that every run passed at once say nothing.
    told = [(mark, epochs) for mark, epochs in rows if any(epochs) and any(epoch != 1 for epoch in epochs)]
    return [{"mark": mark, "epochs": epochs} for mark, epochs in told]


def _first(run: Training, mark: float) -> int | None:
    for row in run.epochs:
        accuracy = row.get("validation_accuracy")
        if isinstance(accuracy, float) and accuracy >= mark:
            return int(row["epoch"] or 0)
    return None
