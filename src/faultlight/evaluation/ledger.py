"""The ledger: one SQLite file a run, one row an image and one an attempt. Free of torch, for the report reads it too.

Write-ahead logging keeps it whole when the process is killed at any moment: a transaction is there or it is not.
Twins (the pixels that broke an image) lie in it too until the run exports them, so that one transaction holds a break
and its proof.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any, TypeVar

from faultlight.errors import InputError
from faultlight.evaluation._sqlite import ADDED, SCHEMA, condition, connect, damaged, lay_out, read_meta
from faultlight.evaluation.rows import Attempt, Finding, ImageRow, Outcome, Proof, Status

_SECONDS = "seconds"

Row = TypeVar("Row", ImageRow, Attempt, Proof)


class Ledger:
    """An open ledger; use `create_ledger`, `resume_ledger` or `read_ledger`."""

    def __init__(self, connection: sqlite3.Connection):
        self._connection = connection
        # The seconds of earlier sittings, and when this one began.
        self._before: float = 0.0
        self._began: float | None = None

    def close(self) -> None:
        """Close the file; everything recorded is already in it, and the write-ahead log is folded in."""
        with suppress(sqlite3.Error):  # a reader may hold it, or it is open for reading only
            self._connection.execute("PRAGMA journal_mode = DELETE")
        self._connection.close()

    def meta(self) -> dict[str, Any]:
        """Return the fingerprint the ledger was opened with, and what was noted since."""
        return read_meta(self._connection)

    def note(self, key: str, value: Any) -> None:
        """Keep a JSON value under a key."""
        with self._transaction() as cursor:
            cursor.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, json.dumps(value, sort_keys=True)))

    def count_from(self, began: float) -> None:
        """Count this sitting from a moment of `time.monotonic`, on top of the earlier ones.

        From now on every transaction keeps the seconds so far, so that a kill loses those since the last one at most.
        """
        self._before, self._began = float(self.meta().get(_SECONDS, 0.0)), began

    def seconds(self) -> float:
        """Return the seconds spent on the run, over all sittings, and keep them."""
        with self._transaction():
            pass
        return float(self.meta().get(_SECONDS, 0.0))

    def add_images(self, rows: Iterable[ImageRow]) -> None:
        """Add the audited images, once."""
        with self._transaction() as cursor:
            cursor.executemany(f"INSERT OR IGNORE INTO images VALUES ({_marks(ImageRow)})", map(astuple, rows))

    def record(self, attempts: Sequence[Attempt], twins: Sequence[bytes | None], audited: bool) -> None:
        """Record finished attempts in one transaction.

        Args:
            attempts: the attempts.
            twins: the accepted pixels of each (float32, little-endian, c·h·w), or None.
            audited: whether they count for the verdict (the curve's attempts at other radii do not).
        """
        with self._transaction() as cursor:
            cursor.executemany(f"INSERT OR REPLACE INTO attempts VALUES ({_marks(Attempt)})", map(astuple, attempts))
            if audited:
                for attempt, twin in zip(attempts, twins, strict=True):
                    _settle(cursor, attempt, twin)

    def record_proofs(self, proofs: Iterable[Proof]) -> None:
        """Record in one transaction what was proved of images, or was not."""
        with self._transaction() as cursor:
            cursor.executemany(f"INSERT OR REPLACE INTO proofs VALUES ({_marks(Proof)})", map(astuple, proofs))

    def proofs(self) -> list[Proof]:
        """Return what was proved of each image that was tried, by id."""
        if self.meta().get("schema", SCHEMA) < 2:
            return []
        return list(self._rows(Proof, "SELECT * FROM proofs ORDER BY id"))

    def images(self) -> list[ImageRow]:
        """Return all images by id."""
        return list(self._rows(ImageRow, "SELECT * FROM images ORDER BY id"))

    def attempts(self, probe: str | None = None) -> list[Attempt]:
        """Return all attempts, or a probe's, by id, probe, threat, restart and target."""
        order = "ORDER BY id, probe, threat, restart, target"
        if probe is None:
            return list(self._rows(Attempt, f"SELECT * FROM attempts {order}"))
        return list(self._rows(Attempt, f"SELECT * FROM attempts WHERE probe = ? {order}", (probe,)))

    def twins(self) -> list[tuple[int, bytes]]:
        """Return (id, pixels) of every broken image, by id."""
        return list(self._connection.execute("SELECT id, x FROM twins ORDER BY id"))

    def replace_findings(self, findings: Iterable[Finding]) -> None:
        """Set the findings."""
        with self._transaction() as cursor:
            cursor.execute("DELETE FROM findings")
            cursor.executemany("INSERT INTO findings VALUES (?, ?, ?)", [astuple(finding) for finding in findings])

    def findings(self) -> list[Finding]:
        """Return the findings by name."""
        return [Finding(*row) for row in self._connection.execute("SELECT * FROM findings ORDER BY check_name")]

    def count_passes(self) -> None:
        """Write into each image's row the passes that all its attempts have spent, and the clean image's one."""
        with self._transaction() as cursor:
            cursor.execute(
                "UPDATE images SET "
                "forwards = 1 + (SELECT coalesce(sum(forwards), 0) FROM attempts WHERE attempts.id = images.id), "
                "backwards = (SELECT coalesce(sum(backwards), 0) FROM attempts WHERE attempts.id = images.id)"
            )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Cursor]:
        try:
            with self._connection:
                cursor = self._connection.cursor()
                yield cursor
                if self._began is not None:
                    seconds = json.dumps(self._before + time.monotonic() - self._began)
                    cursor.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (_SECONDS, seconds))
        except sqlite3.OperationalError as error:
            raise InputError(
                f"the ledger could not be written ({error}); free some space and run again with --resume."
            ) from error

    def _rows(self, kind: type[Row], query: str, values: tuple[Any, ...] = ()) -> Iterator[Row]:
        names = [field.name for field in fields(kind)]
        flags = {field.name for field in fields(kind) if field.type == "bool"}
        for row in self._connection.execute(query, values):
            found: dict[str, Any] = dict(zip(names, row, strict=True))
            yield kind(**{**found, **{flag: bool(found[flag]) for flag in flags}})


def create_ledger(path: Path, fingerprint: dict[str, Any]) -> Ledger:
    """Create a ledger for a run with this fingerprint (model, data, threat, version, …).

    Raises:
        InputError: a ledger is there already, or the folder cannot be written.
    """
    if path.exists():
        raise InputError(f"{path.parent} holds a run already; continue it with --resume or choose another --out.")
    # Made beside its place and renamed, so that a process killed here leaves a whole ledger or none.
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lay_out(partial, {"schema": SCHEMA, **fingerprint})
        for rest in ("-wal", "-shm"):  # of a ledger that was moved away: SQLite would play it into the new one
            path.with_name(path.name + rest).unlink(missing_ok=True)
        partial.replace(path)
    except (OSError, sqlite3.Error) as error:
        with suppress(OSError):  # the folder may be a file, or read-only
            partial.unlink(missing_ok=True)
        raise InputError(f"{path} could not be written ({error}); choose another folder.") from error
    return Ledger(connect(path))


def resume_ledger(path: Path, fingerprint: dict[str, Any]) -> Ledger:
    """Open the ledger of a run to go on with it.

    Raises:
        InputError: it is damaged, or was made with another model, data, threat or version (the difference is shown).
    """
    ledger = _checked(connect(path), path)
    found = ledger.meta()
    asked = json.loads(json.dumps(fingerprint))
    changed = [
        f"{key} was {_short(found.get(key))} and is now {_short(asked[key])}"
        for key in asked
        if found.get(key, _BEFORE.get(key)) != asked[key]
    ]
    if changed:
        ledger.close()
        raise InputError(f"{path.parent} was made by another audit: {'; '.join(changed)}. Choose another --out.")
    _migrate(ledger)
    return ledger


def read_ledger(path: Path) -> Ledger:
    """Open a ledger for reading only.

    Raises:
        InputError: it is missing, damaged or of a newer schema.
    """
    if not path.exists():
        raise InputError(f"{path} is not there; is {path.parent} the folder of an audit?")
    return _checked(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True), path)


def _settle(cursor: sqlite3.Cursor, attempt: Attempt, twin: bytes | None) -> None:
    if attempt.broke:
        change = (
            Status.BROKEN,
            attempt.probe,
            attempt.distance,
            attempt.margin,
            attempt.fragile,
            attempt.twin_prediction,
        )
        cursor.execute(
            "UPDATE images SET status = ?, broken = 1, broken_by = ?, distance = ?, margin = ?, fragile = ?, "
            "twin_prediction = ? WHERE id = ? AND broken = 0",
            (*change, attempt.id),
        )
        cursor.execute("INSERT OR IGNORE INTO twins VALUES (?, ?)", (attempt.id, twin))
        return
    if attempt.outcome == Outcome.INVALID:
        cursor.execute("UPDATE images SET status = ? WHERE id = ? AND broken = 0", (Status.INVALID, attempt.id))
    cursor.execute(
        "UPDATE images SET margin = max(coalesce(margin, ?1), ?1) WHERE id = ?2 AND broken = 0 AND ?1 IS NOT NULL",
        (attempt.margin, attempt.id),
    )


# What was decided by older versions in silence.
_BEFORE = {"cross_check": False, "eight_bit": False}


def _migrate(ledger: Ledger) -> None:
    """Add to the ledger of an older schema what it lacks, and call it one of this schema."""
    for schema in range(ledger.meta()["schema"] + 1, SCHEMA + 1):
        with ledger._transaction() as cursor:
            cursor.execute("BEGIN")  # Python's module begins no transaction for a new table
            cursor.execute(ADDED[schema])
            cursor.execute("UPDATE meta SET value = ? WHERE key = 'schema'", (json.dumps(schema),))


def _checked(connection: sqlite3.Connection, path: Path) -> Ledger:
    """Return the ledger of a connection, or close it and say what is wrong."""
    ledger = Ledger(connection)
    state = condition(connection)
    if state != "ok":
        connection.close()
        raise damaged(path, state)
    schema = ledger.meta().get("schema")
    if not isinstance(schema, int) or schema > SCHEMA:
        connection.close()
        raise InputError(f"{path} has schema {schema}, newer than {SCHEMA}: use the Faultlight that wrote it.")
    return ledger


def _marks(kind: type[Any]) -> str:
    return ", ".join("?" * len(fields(kind)))


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 28 else f"{text[:12]}…{text[-6:]}"
