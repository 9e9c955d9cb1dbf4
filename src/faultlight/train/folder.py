"""The folder of a training run: what was asked, whether it may go on, and the records it ends with."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

import faultlight
from faultlight import files
from faultlight.errors import InputError
from faultlight.progress import Progress
from faultlight.train.numerics import Numerics
from faultlight.train.recipe import Recipe, flatten
from faultlight.train.state import CHECKPOINT

ASKED = "run.toml"
RECORD = "records/training.json"
HISTORY = "records/history.json"
EPOCHS = "epochs"
SCHEMA = 1
_MARKS = (ASKED, "model.json", "model.safetensors", "ledger.sqlite", "records", "arrays", CHECKPOINT)
# The number of threads is taken over from the folder, and any number of processes may go on with a run.
_NOT_COMPARED = ("numerics.threads", "numerics.processes")


def asked(
    recipe: Recipe, numerics: Numerics, fingerprints: Mapping[str, str], threads: int, models: Mapping[str, str]
) -> dict[str, Any]:
    """Return what run.toml holds: everything that decides what is computed."""
    return {
        "schema": SCHEMA,
        "verb": "train",
        "faultlight": faultlight.__version__,
        "recipe": recipe.model_dump(exclude_none=True),
        "numerics": {
            "device": numerics.device,
            "bf16": numerics.bf16,
            "channels_last": numerics.channels_last,
            "threads": threads,
        },
        "data": dict(fingerprints),
        "models": dict(models),
    }


def write_asked(folder: Path, content: Mapping[str, Any]) -> None:
    """Write run.toml."""
    files.write_text(folder / ASKED, tomli_w.dumps(content))


def read_asked(folder: Path) -> dict[str, Any] | None:
    """Return what an earlier run was asked, or None where there was none.

    Raises:
        InputError: run.toml is damaged.
    """
    path = folder / ASKED
    if not path.exists():
        return None
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path} cannot be read ({error}); choose another folder with --out.") from None


def check_free(folder: Path, resume: bool) -> None:
    """Raise InputError when the folder holds a run that is not to be resumed, or someone else's files of our names."""
    found = [name for name in _MARKS if (folder / name).exists()]
    if not found or (resume and ASKED in found):
        return
    way = "give --resume to go on with it, or " if ASKED in found else ""
    raise InputError(f"the folder {folder} already holds {', '.join(found)}; {way}choose another folder with --out.")


def say_anew(folder: Path, resume: bool, quiet: bool) -> None:
    """Say that a run begins which was to go on, where the folder holds none."""
    if resume and not (folder / ASKED).exists():
        Progress("train", 0, quiet).say(f"{folder} holds no run to go on with; it begins anew")


def check_same(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise InputError, with every key that differs, unless a run may go on under what is asked now."""
    old, new = flatten(_filled(before)), flatten(now)
    keys = [
        key for key in [*new, *old.keys() - new.keys()] if key not in _NOT_COMPARED and old.get(key) != new.get(key)
    ]
    if keys:
        shown = "; ".join(f"{key} was {_text(old, key)}, now {_text(new, key)}" for key in keys)
        raise InputError(
            f"the run in {folder} cannot be resumed, since something else is asked now: {shown}; "
            f"ask for the same, or choose another folder with --out."
        )


def _filled(before: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what was asked with the defaults of settings that the recipe of an earlier version did not have yet."""
    try:
        recipe = Recipe.model_validate(before.get("recipe"))
    except ValidationError:
        return before
    return {**before, "recipe": recipe.model_dump(exclude_none=True)}


def clear_leftovers(folder: Path) -> None:
    """Delete what writes that were killed left behind."""
    for path in [*folder.glob(".*.part"), *folder.glob("records/.*.part"), *folder.glob("arrays/.*.part")]:
        path.unlink(missing_ok=True)


def _text(flat: Mapping[str, Any], key: str) -> str:
    return repr(flat[key]) if key in flat else "not set"
