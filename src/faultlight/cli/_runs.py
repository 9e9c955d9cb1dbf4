"""What verbs call runs that are set side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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
