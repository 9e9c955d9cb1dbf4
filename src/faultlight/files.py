"""Writing files so that nothing is ever half-written, and hashing them."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from faultlight.errors import InputError


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole: beside its place first, then renamed into it.

    Raises:
        InputError: the folder is read-only or the disk is full; an older file at `path` is intact.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        remedy = "free some space or choose another folder"
        raise InputError(f"{path} could not be written: {error.strerror}; {remedy}.") from error


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 text whole."""
    write_bytes(path, content.encode())


def write_json(path: Path, record: Any) -> None:
    """Write a record as indented JSON, whole; NaN and infinity are refused."""
    write_text(path, json.dumps(record, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON record.

    Raises:
        InputError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is not there; was the run finished?") from None
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}); run again with --resume to write it anew.") from None


def sha256(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
