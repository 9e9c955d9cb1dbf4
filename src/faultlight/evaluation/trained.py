"""How the audited model was trained, where it comes from a run's folder: the figures that its own record ends with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from faultlight.errors import InputError
from faultlight.files import read_json, write_json
from faultlight.models.subject import Subject
from faultlight.train.folder import RECORD


def write_trained(out: Path, subject: Subject) -> None:
    """Write records/trained.json: recipe, epochs and final figures of the run that the subject comes from, if any.

    `folder` is where that run lies, seen from `out`; empty where there is no such way, as between two drives.
    """
    found = _ending(subject.folder) if subject.folder else None
    if subject.folder and found:
        write_json(out / "records" / "trained.json", {"schema": 1, "folder": _way(out, subject.folder), **found})


def _ending(folder: Path) -> dict[str, Any] | None:
    """Return what a training run ended with; None where it left no record, or one that cannot be read."""
    kept = ("recipe", "best_epoch", "test_accuracy", "test_count", "seconds")
    robust = ("threat", "by", "accuracy", "count")
    try:
        record = read_json(folder / RECORD)
        asked = record.get("robust_target")
        return {
            **{name: record[name] for name in kept},
            "epochs": len(record["epochs"]),
            "robust": {name: asked[name] for name in robust} if asked else None,
        }
    # The audit is done by now, and does not rest on this.
    except (InputError, OSError, KeyError, TypeError, AttributeError):
        return None


def _way(out: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(folder.resolve(), out.resolve())).as_posix()
    except ValueError:
        return ""
