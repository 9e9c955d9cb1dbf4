"""The runs below a folder, each read from its own records into a row of the table."""

from __future__ import annotations

import json
import math
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import FiniteFloat, TypeAdapter, ValidationError

from faultlight.errors import InputError
from faultlight.files import read_json
from faultlight.report.results import FINISHED, UNFINISHED, Result

Kind = TypeVar("Kind")
_MARKS = ("run.toml", "verdict.json", "ledger.sqlite", "records/training.json")
# A run's own folders, in which no other run lies.
_WITHIN = {"arrays", "records", "epochs", "__pycache__"}
# What may differ between runs that are still repetitions of each other.
_SEEDS = {"recipe.seed", "audit.seed", "numerics.threads"}


def read_results(folders: Sequence[Path]) -> list[Result]:
    """Return a row for every run in and below the folders, in their order, damaged and unfinished ones included.

    Raises:
        InputError: there is no such folder, or no run below any of them.
    """
    found: dict[Path, Result] = {}
    for top in folders:
        if not top.is_dir():
            raise InputError(f"there is no folder {top}; give one that holds runs.")
        for place, refused in _walk(top):
            if place.resolve() not in found:
                found[place.resolve()] = Result(str(place), state=refused) if refused else read_result(place)
    if not found:
        raise InputError(f"there is no run in {', '.join(map(str, folders))} or below; give a folder that holds runs.")
    return list(found.values())


def read_result(folder: Path) -> Result:
    """Return a run's row; where its records are damaged, the row says so and holds what could be read."""
    row = Result(str(folder))
    try:
        asked = _asked(folder)
        row = replace(row, **_facts(folder, asked))
        return replace(row, **(_audit if row.kind == "audit" else _training)(folder))
    except InputError as error:
        return replace(row, state=f"damaged: {error}")
    except OSError as error:
        return replace(row, state=f"cannot be read: {error.strerror}")


def _walk(top: Path) -> Iterator[tuple[Path, str]]:
    """Yield the run folders in and below a folder, by name; and those that cannot be listed, with the reason."""
    refused: list[OSError] = []
    for place, inner, _ in os.walk(top, onerror=refused.append):
        inner[:] = sorted(name for name in inner if not name.startswith(".") and name not in _WITHIN)
        if any((Path(place) / mark).is_file() for mark in _MARKS):
            yield Path(place), ""
    for error in refused:
        yield Path(str(error.filename)), f"cannot be listed: {error.strerror}"


def _asked(folder: Path) -> dict[str, Any]:
    path = folder / "run.toml"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("run.toml is not there.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"run.toml is not valid TOML ({error}).") from None


def _facts(folder: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """Return what was asked, and with what: run.toml and, where the run got so far, stamp.json."""
    train = asked.get("verb") == "train"
    if not train and "audit" not in asked:
        raise InputError("run.toml is that of no training and no audit.")
    trained = asked if train else _trained(asked)
    recipe = _table(trained, "recipe")
    own = recipe if train else _table(asked, "audit")
    facts = {
        # Recipes of networks that are no classifiers say what they are of.
        "kind": _text(recipe.get("kind")) or "train" if train else "audit",
        "recipe": _text(recipe.get("name")),
        "data": _text(recipe.get("data") if train else _table(asked, "data").get("name")),
        "model": _text(recipe.get("model") if train else _table(asked, "model").get("spec")),
        "seed": own["seed"] if type(own.get("seed")) is int else None,
        "kin": _kin(asked, trained),
        "lot": json.dumps([own.get("seed"), recipe.get("seed")], default=str),
    }
    return facts | _stamped(folder / "stamp.json")


def _trained(asked: dict[str, Any]) -> dict[str, Any]:
    """Return what the audited run folder had been asked, or nothing where the model was no run folder or is gone."""
    spec = _table(asked, "model").get("spec")
    try:
        return _asked(Path(spec)) if isinstance(spec, str) and spec else {}
    except (InputError, OSError, ValueError):
        return {}


def _kin(asked: dict[str, Any], trained: dict[str, Any]) -> str:
    flat = {key: value for key, value in _flat(asked).items() if key not in _SEEDS}
    if trained is not asked and trained:
        del flat["model.spec"]
        flat |= {f"trained.{key}": value for key, value in _flat(trained).items() if key not in _SEEDS}
    return json.dumps(flat, sort_keys=True, default=str)


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _stamped(path: Path) -> dict[str, Any]:
    stamp = read_json(path) if path.is_file() else {}
    git, device = _table(stamp, "git"), _table(stamp, "device")
    return {
        "commit": _text(git.get("commit")),
        "dirty": git["dirty"] if isinstance(git.get("dirty"), bool) else None,
        "device": _text(device.get("name") or device.get("asked")),
        "written": _text(stamp.get("written") if isinstance(stamp, dict) else None),
    }


@dataclass(frozen=True)
class _Robust:
    threat: str
    accuracy: FiniteFloat
    by: str = "pgd"
    steps: int | None = None


@dataclass(frozen=True)
class _Training:
    epochs: list[dict[str, Any]]
    best_epoch: int
    validation_accuracy: FiniteFloat
    test_accuracy: FiniteFloat
    test_count: int
    seconds: FiniteFloat
    met: bool | None
    robust_target: _Robust | None = None


def _training(folder: Path) -> dict[str, Any]:
    path = folder / "records/training.json"
    if not path.is_file():
        return {"state": UNFINISHED, "epochs": _epochs_so_far(folder)}
    content = read_json(path)
    if _table(content, "kind", str):
        return _other(content)
    record = _check(path, _Training)
    robust = record.robust_target
    return {
        "epochs": len(record.epochs),
        "best_epoch": record.best_epoch,
        "validation": record.validation_accuracy,
        "test": record.test_accuracy,
        "count": record.test_count,
        "robust": robust.accuracy if robust else None,
        "threat": f"{_by(robust)} {robust.threat}" if robust else "",
        "met": record.met,
        "seconds": record.seconds,
    }


def _other(content: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of a network that is no classifier: those that all such records have."""
    return {
        "kind": content["kind"],
        "loss": _number(content.get("held_out_loss")),
        "seconds": _number(content.get("seconds")),
        "met": content["met"] if isinstance(content.get("met"), bool) else None,
    }


def _number(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and math.isfinite(value) else None


def _by(robust: _Robust) -> str:
    return f"{robust.by}-{robust.steps}" if robust.by == "pgd" and robust.steps else robust.by


def _epochs_so_far(folder: Path) -> int | None:
    path = folder / "records/history.json"
    return len(_table(read_json(path), "epochs", list)) if path.is_file() else None


@dataclass(frozen=True)
class _Rate:
    value: FiniteFloat


@dataclass(frozen=True)
class _Named:
    name: str


@dataclass(frozen=True)
class _Cost:
    seconds: FiniteFloat


@dataclass(frozen=True)
class _Verdict:
    status: str
    complete: bool
    n: int
    threat: str
    data: _Named
    model: _Named
    cost: _Cost
    effort: str = ""
    clean: _Rate | None = None
    attacked: _Rate | None = None
    certified: _Rate | None = None


def _audit(folder: Path) -> dict[str, Any]:
    path = folder / "verdict.json"
    if not path.is_file():
        return {"state": UNFINISHED}
    record = _check(path, _Verdict)
    return {
        "state": FINISHED if record.complete else UNFINISHED,
        "data": record.data.name,
        "model": record.model.name,
        "test": record.clean.value if record.clean else None,
        "count": record.n,
        "robust": record.attacked.value if record.attacked else None,
        "threat": f"audit {record.effort} {record.threat}, {record.status}",
        "certified": record.certified.value if record.certified else None,
        "seconds": record.cost.seconds,
    }


def _check(path: Path, kind: type[Kind]) -> Kind:
    content = read_json(path)
    try:
        return TypeAdapter(kind).validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"{path.name} at {where!r}: {first['msg'].lower()}.") from None


def _table(record: Any, key: str, kind: type = dict) -> Any:
    found = record.get(key) if isinstance(record, dict) else None
    return found if isinstance(found, kind) else kind()


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
