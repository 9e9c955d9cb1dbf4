"""Guards against the two ways in which robust training overfits: at once, and slowly.

Catastrophic overfitting: within an epoch the network learns to resist the training attack and nothing else (Wong, Rice
& Kolter 2020). What `on_collapse` says is done then:

    switch   the run goes back to the end of the epoch before and on with the objective's remedy, N-FGSM for attacks of
             one step: the same again would fail again. Where the objective has no remedy it is noted
    stop     the run ends there
    note     it is noted, and training goes on

Robust overfitting: accuracy under attack falls while that on clean images still grows (Rice, Wong & Kolter 2020,
"Overfitting in adversarially robust deep learning"). The checkpoint is the best epoch, so nothing need be done; the
record says how far the last one fell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scipy.stats import binomtest

# One epoch's record.
Row = Mapping[str, Any]

# Accuracy under attack below this share of the best so far is a collapse …
_FALLEN = 0.5
# … if accuracy on clean images kept this share of what it was an epoch before, or gradient alignment lost that one.
_HELD = 0.9
_LOST = 0.5


def robust(row: Row) -> float:
    """Return the accuracy under attack of the network that learns; where an average is kept, that lags behind it."""
    value: float = row.get("plain_robust_accuracy", row["validation_robust_accuracy"])
    return value


def has_collapsed(history: Sequence[Row], row: Row, count: int, chance: float) -> bool:
    """Return whether an epoch lost its robustness catastrophically.

    Args:
        history: the epochs before.
        row: the epoch.
        count: images that the accuracy under attack was measured on.
        chance: the accuracy of guessing; below it there is nothing to lose.
    """
    if not history:
        return False
    before, best = history[-1], max(map(robust, history))
    fell = robust(row) < _FALLEN * best <= robust(before)
    certain = _highest(robust(row), count) < robust(before) and robust(before) > chance
    held = row["validation_accuracy"] >= _HELD * before["validation_accuracy"]
    return fell and certain and (held or row["gradient_alignment"] < _LOST * before["gradient_alignment"])


def evidence(before: Row, row: Row, count: int, action: str) -> dict[str, Any]:
    """Return the record of a collapse, with a sentence for people."""
    named = {"robust_accuracy": robust, "gradient_alignment": _alignment, "validation_accuracy": _clean}
    figures = {name: {"before": read(before), "after": read(row)} for name, read in named.items()}
    text = (
        f"catastrophic overfitting in epoch {row['epoch']}: accuracy under PGD fell from {100 * robust(before):.1f} to "
        f"{100 * robust(row):.1f} % ({count} validation images), gradient alignment from {_alignment(before):.2f} to "
        f"{_alignment(row):.2f}; {_ACTIONS[action].format(epoch=before['epoch'])}"
    )
    return {
        "guard": "catastrophic overfitting",
        "epoch": row["epoch"],
        "count": count,
        **figures,
        "action": action,
        # Of the epoch, where it is undone and so has no row of its own.
        "seconds": row["seconds"] if action == "switch" else 0.0,
        "text": text,
    }


def overfitting(history: Sequence[Row], best_epoch: int, count: int) -> list[dict[str, Any]]:
    """Return the record of robust overfitting, if the last epoch fell behind the best beyond its 95 % interval."""
    best, last = history[best_epoch - 1], history[-1]
    if "validation_robust_accuracy" not in last:
        return []
    high, low = (each["validation_robust_accuracy"] for each in (best, last))
    if _highest(low, count) >= high:
        return []
    text = (
        f"robust overfitting: best epoch {best_epoch} at {100 * high:.1f} %, last epoch {100 * low:.1f} % "
        f"({count} validation images); the best one is kept"
    )
    return [
        {
            "guard": "robust overfitting",
            "epoch": last["epoch"],
            "best_epoch": best_epoch,
            "count": count,
            "robust_accuracy": {"best": high, "last": low},
            "action": "note",
            "seconds": 0.0,
            "text": text,
        }
    ]


_ACTIONS = {
    "switch": "back to the end of epoch {epoch}, and on with N-FGSM",
    "stop": "the run ends here",
    "note": "going on, for the best epoch is kept",
}


def _alignment(row: Row) -> float:
    value: float = row["gradient_alignment"]
    return value


def _clean(row: Row) -> float:
    value: float = row["validation_accuracy"]
    return value


def _highest(accuracy: float, count: int) -> float:
    """Return the upper end of the exact 95 % interval of a share (Clopper & Pearson 1934)."""
    return float(binomtest(round(accuracy * count), count).proportion_ci().high)
