"""The SQLite file below a ledger: its tables, how it is laid out, opened and found damaged."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from faultlight.errors import InputError

SCHEMA = 2

_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE images (id INTEGER PRIMARY KEY, label INTEGER NOT NULL, prediction INTEGER NOT NULL, status TEXT NOT NULL,
  broken INTEGER NOT NULL, broken_by TEXT NOT NULL, distance REAL, margin REAL, fragile INTEGER NOT NULL,
  twin_prediction INTEGER, clean_margin REAL, forwards INTEGER NOT NULL, backwards INTEGER NOT NULL);
CREATE TABLE attempts (id INTEGER NOT NULL, probe TEXT NOT NULL, threat TEXT NOT NULL, restart INTEGER NOT NULL,
  target INTEGER NOT NULL, outcome TEXT NOT NULL, margin REAL, distance REAL, twin_prediction INTEGER,
  fragile INTEGER NOT NULL, steps INTEGER NOT NULL, forwards INTEGER NOT NULL, backwards INTEGER NOT NULL,
  claims_refused INTEGER NOT NULL, PRIMARY KEY (id, probe, threat, restart, target)) WITHOUT ROWID;
CREATE TABLE findings (check_name TEXT PRIMARY KEY, severity TEXT NOT NULL, evidence TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE twins (id INTEGER PRIMARY KEY, x BLOB NOT NULL);
"""
# What each later schema added to the one before it.
ADDED = {2: "CREATE TABLE proofs (id INTEGER PRIMARY KEY, bound TEXT NOT NULL, margin REAL);"}


def read_meta(connection: sqlite3.Connection) -> dict[str, Any]:
    """Return what was noted, by key."""
    return {key: json.loads(value) for key, value in connection.execute("SELECT key, value FROM meta")}


def lay_out(path: Path, meta: dict[str, Any]) -> None:
    """Write an empty ledger with these notes."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript("BEGIN;" + _TABLES + "".join(ADDED.values()))
        rows = [(key, json.dumps(value, sort_keys=True)) for key, value in meta.items()]
        connection.executemany("INSERT INTO meta VALUES (?, ?)", rows)


def connect(path: Path) -> sqlite3.Connection:
    """Open a ledger for writing.

    Raises:
        InputError: it could not be opened.
    """
    try:
        return _opened(path)
    except sqlite3.OperationalError as error:
        remedy = "make its folder writable or free some space"
        raise InputError(f"{path} could not be opened ({error}); {remedy}.") from error
    except sqlite3.DatabaseError as error:
        raise damaged(path, str(error)) from error


def _opened(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def condition(connection: sqlite3.Connection) -> str:
    """Return "ok", or what is wrong with the file."""
    try:
        schema = read_meta(connection).get("schema", SCHEMA)
        added = ("proofs",) if schema == SCHEMA else ()
        for table in ("images", "attempts", "findings", "twins", *added):
            connection.execute(f"SELECT * FROM {table} LIMIT 1").fetchone()
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])
    except (sqlite3.Error, ValueError) as error:
        return str(error)


def damaged(path: Path, state: str) -> InputError:
    """Return the error that says so, and what to do."""
    return InputError(
        f"the ledger {path} is damaged ({state}): its images and attempts are lost. Move {path.name} away and run the "
        "same command without --resume: the seed makes the same outcome anew."
    )
