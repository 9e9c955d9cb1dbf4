"""What verbs call runs that are set side by side, and what they say of one that stopped before its end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from faultlight import files
from faultlight.errors import InputError


def named(runs: Sequence[Path]) -> dict[str, Path]:
    """Return runs by their folders' names, or, where two have the same, by their paths as they were given.

    Raises:
        InputError: a folder is named twice.
    """
    places = [run.resolve() for run in runs]
    twice = next((run for run, place in zip(runs, places, strict=True) if places.count(place) > 1), None)
    if twice:
        raise InputError(f"the run {twice} is given twice, and beside itself it shows nothing; name it once.")
    names = [place.name for place in places]
    return dict(zip(names if len(set(names)) == len(names) else map(str, runs), runs, strict=True))


def say_if_stopped(*runs: Path) -> None:
    """Say on stderr of each run whose weights are not those of its last step that a NaN stopped it."""
    for run in runs:
        record = files.read_json(run / "model.json") if (run / "model.json").is_file() else None
        if isinstance(record, dict) and "stopped_at" in record:
            typer.echo(
                f"The run {run} was stopped by a NaN: its weights are those of step {record['stopped_at']:,}, from "
                f"before that.",
                err=True,
            )
