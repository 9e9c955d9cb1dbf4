"""Reads the records of a run, each checked against its type and its schema."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from faultlight import __version__
from faultlight.errors import InputError
from faultlight.files import read_json
from faultlight.report.records import Checks, Curve, Gallery, Layers, Probes, Records, Trained, Verdict

SCHEMA = 1
Part = TypeVar("Part")
_PATHS = {
    "verdict": "verdict.json",
    "stamp": "stamp.json",
    "curve": "records/curve.json",
    "probes": "records/probes.json",
    "checks": "records/checks.json",
    "model": "records/model.json",
    "gallery": "records/gallery.json",
    "trained": "records/trained.json",
}


def read_records(run: Path) -> Records:
    """Read the records of a run folder.

    Raises:
        InputError: there is no such folder or no verdict in it, or a record is damaged or of a newer schema.
    """
    if not (run / "verdict.json").is_file():
        raise InputError(_no_verdict(run))
    raw = {name: read_record(run, path) for name, path in _PATHS.items() if (run / path).is_file()}
    return Records(
        run=run,
        verdict=_check(run, "verdict", raw["verdict"], Verdict),
        curve=_optional(run, "curve", raw, Curve),
        probes=_optional(run, "probes", raw, Probes),
        model=_optional(run, "model", raw, Layers),
        gallery=_optional(run, "gallery", raw, Gallery),
        stamp=raw.get("stamp", {}),
        settings=_settings(run / "run.toml"),
        raw=raw,
        checks=_optional(run, "checks", raw, Checks),
        trained=_optional(run, "trained", raw, Trained),
    )


def _no_verdict(run: Path) -> str:
    if not run.is_dir():
        return f"there is no run folder at {run}; give the folder that `faultlight audit --out` made."
    return f"{run} holds no verdict.json, so there is nothing to report; finish it with `faultlight audit --resume`."


def read_record(run: Path, path: str) -> dict[str, Any]:
    """Return a record of a run as plain JSON.

    Raises:
        InputError: it is no object, of a newer schema, or holds NaN or infinity.
    """
    record = read_json(run / path)
    if not isinstance(record, dict):
        raise InputError(f"{run / path} holds no JSON object but {record!r:.40}; run again with --resume.")
    schema = record.get("schema", SCHEMA)
    if schema != SCHEMA:
        raise InputError(_newer(run, path, schema, _writer(run, record)))
    if not _is_finite(record):
        raise InputError(f"{run / path} holds NaN or infinity, which no record may; run again with --resume.")
    return record


def _is_finite(record: Any) -> bool:
    if isinstance(record, dict | list):
        return all(map(_is_finite, record.values() if isinstance(record, dict) else record))
    return not isinstance(record, float) or math.isfinite(record)


def _newer(run: Path, path: str, schema: Any, writer: str) -> str:
    wanted = f"faultlight {writer} or newer" if writer else "a newer faultlight"
    return (
        f"{run / path} has schema {schema!r}, and faultlight {__version__} reads schema {SCHEMA}; "
        f"install {wanted} to report this run."
    )


def _writer(run: Path, record: dict[str, Any]) -> str:
    """Return the version that wrote the run, as far as any record says."""
    if "faultlight" not in record and (run / "verdict.json").is_file():
        record = read_json(run / "verdict.json")
    version = str(record.get("faultlight", "")) if isinstance(record, dict) else ""
    return version if re.fullmatch(r"[0-9][0-9a-z.+]{0,30}", version) else ""


def _optional(run: Path, name: str, raw: dict[str, Any], kind: type[Part]) -> Part | None:
    return _check(run, name, raw[name], kind) if name in raw else None


def _check(run: Path, name: str, record: dict[str, Any], kind: type[Part]) -> Part:
    return check_record(run / _PATHS[name], record, kind)


def check_record(path: Path, record: dict[str, Any], kind: type[Part]) -> Part:
    """Return a record, read from a path, as its type.

    Raises:
        InputError: a key is missing, or a value is of another kind.
    """
    try:
        # Strictly, as JSON: a number written as text would be shown but could not be compared.
        return TypeAdapter(kind).validate_json(json.dumps(record), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where, what = ".".join(str(step) for step in first["loc"]), first["msg"].lower()
        raise InputError(f"{path} is damaged at {where!r} ({what}); run again with --resume.") from None


def _settings(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
