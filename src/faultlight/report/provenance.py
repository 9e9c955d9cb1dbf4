"""What the stamp says of how a run was made, as the page shows it."""

from __future__ import annotations

import re
import shlex
from pathlib import PurePath
from typing import Any

from faultlight.report.records import Verdict


def command_line(stamp: dict[str, Any]) -> str:
    """Return the command line that made the run, quoted for a shell; empty where none is recorded."""
    words = stamp.get("command")
    if not isinstance(words, list) or not words:
        return ""
    # Where the program stood on the machine of the run is of no use on another.
    program = PurePath(str(words[0])).name
    first = program if program == "faultlight" else str(words[0])
    return shlex.join([first, *(str(word) for word in words[1:])])


def stages(stamp: dict[str, Any]) -> list[str]:
    """Return the stages whose seconds the stamp holds."""
    timings = stamp.get("timings")
    known = timings if isinstance(timings, dict) else {}
    return [
        name for name, seconds in known.items() if isinstance(seconds, int | float) and re.fullmatch(r"[\w -]+", name)
    ]


def facts(stamp: dict[str, Any], verdict: Verdict) -> list[tuple[str, str]]:
    """Return what else a repetition needs: versions, commit, device, fingerprints."""
    rows = [*_circumstances(stamp), ("search copy", verdict.search)]
    rows += [("model fingerprint", verdict.model.fingerprint), ("data fingerprint", verdict.data.fingerprint)]
    shown = {value for _, value in rows}
    rows += [
        (f"hash of {name}", _text(value)) for name, value in _mapping(stamp, "hashes").items() if value not in shown
    ]
    return [(name, value) for name, value in rows if value]


def training_facts(stamp: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what a repetition of a training run needs: versions, commit, device, fingerprints."""
    rows = _circumstances(stamp)
    rows += [(f"hash of {name}", _text(value)) for name, value in _mapping(stamp, "hashes").items()]
    return [(name, value) for name, value in rows if value]


def _circumstances(stamp: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [("seed", _text(stamp.get("seed")))]
    rows += [(name, _text(version)) for name, version in _mapping(stamp, "versions").items()]
    rows += [("git commit", _commit(_mapping(stamp, "git"))), ("device", _device(stamp.get("device")))]
    return rows + [(name, _text(stamp.get(name))) for name in ("platform", "written")]


def _mapping(stamp: dict[str, Any], name: str) -> dict[str, Any]:
    found = stamp.get(name)
    return found if isinstance(found, dict) else {}


def _commit(git: dict[str, Any]) -> str:
    commit = _text(git.get("commit"))
    return f"{commit}, with changes not committed" if commit and git.get("dirty") else commit


def _device(device: Any) -> str:
    return ", ".join(_text(part) for part in device.values()) if isinstance(device, dict) else _text(device)


def _text(value: Any) -> str:
    return "" if value is None else str(value)
