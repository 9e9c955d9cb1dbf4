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
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, astuple, dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from faultlight.errors import InputError

SCHEMA = 2
_SECONDS = "seconds"


class Status(StrEnum):
    """What became of an image."""

    STANDING = "standing"
    BROKEN = "broken"
    MISCLASSIFIED = "misclassified"
    INVALID = "invalid"


class Outcome(StrEnum):
    """What became of an attempt."""

    BROKE = "broke"
    STOOD = "stood"
    REFUSED = "refused"  # it stood, and a candidate left the ball or the box: the attack is faulty
    INVALID = "invalid"  # the model gave NaN or infinity


@dataclass(frozen=True)
class ImageRow:
    """One audited image.

    Args:
        id: position in the file order of its split.
        label: the true class.
        prediction: the class predicted without attack.
        status: a `Status`.
        broken: whether a judged twin exists.
        broken_by: the probe that broke it, or "".
        distance: ‖x' − x‖ of the twin in the threat's norm, or None.
        margin: the largest margin any attempt reached, in logits; above 0 when broken; None if never attacked.
        fragile: the twin wins by so little that other arithmetic may undo it.
        twin_prediction: the class predicted for the twin, or None.
        clean_margin: max_{j≠y} z_j − z_y without attack; below 0 when classified correctly; None if not a number.
        forwards: forward passes spent on it.
        backwards: backward passes spent on it.
    """

    id: int
    label: int
    prediction: int
    status: str
    broken: bool = False
    broken_by: str = ""
    distance: float | None = None
    margin: float | None = None
    fragile: bool = False
    twin_prediction: int | None = None
    clean_margin: float | None = None
    forwards: int = 0
    backwards: int = 0


@dataclass(frozen=True)
class Attempt:
    """One job: an image, a probe, a threat, a restart and a target (−1: untargeted), and what came of it.

    Args:
        margin: the largest judged margin, in logits; None when it was not a number.
        distance: of the accepted twin, or None.
        twin_prediction: the class predicted for the accepted twin, or None.
        claims_refused: successes seen in the search that the judge did not uphold.
    """

    id: int
    probe: str
    threat: str
    restart: int
    target: int
    outcome: str
    margin: float | None
    distance: float | None
    twin_prediction: int | None
    fragile: bool
    steps: int
    forwards: int
    backwards: int
    claims_refused: int

    @property
    def broke(self) -> bool:
        """Whether the judge accepted a twin."""
        return self.outcome == Outcome.BROKE


@dataclass(frozen=True)
class Proof:
    """What was proved of one image at the audited threat.

    Args:
        id: of the image.
        bound: the bound that proved that no point of the ball is classified otherwise, or "" where none did.
        margin: the best lower bound of min over j ≠ y of z_y − z_j over the ball, in logits; above 0 when proved.
    """

    id: int
    bound: str
    margin: float | None

    @property
    def holds(self) -> bool:
        """Whether the image is certified."""
        return bool(self.bound)


@dataclass(frozen=True)
class Finding:
    """Something about the evaluation that the reader must know.

    Args:
        check: the name of the check.
        severity: "info", "warning" (the verdict is doubtful) or "fatal" (it is withheld).
        evidence: one sentence with the numbers seen.
    """

    check: str
    severity: str
    evidence: str


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
_ADDED = {2: "CREATE TABLE proofs (id INTEGER PRIMARY KEY, bound TEXT NOT NULL, margin REAL);"}

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
        return {key: json.loads(value) for key, value in self._connection.execute("SELECT key, value FROM meta")}

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
        _lay_out(partial, {"schema": SCHEMA, **fingerprint})
        for rest in ("-wal", "-shm"):  # of a ledger that was moved away: SQLite would play it into the new one
            path.with_name(path.name + rest).unlink(missing_ok=True)
        partial.replace(path)
    except (OSError, sqlite3.Error) as error:
        with suppress(OSError):  # the folder may be a file, or read-only
            partial.unlink(missing_ok=True)
        raise InputError(f"{path} could not be written ({error}); choose another folder.") from error
    return Ledger(_connect(path))


def resume_ledger(path: Path, fingerprint: dict[str, Any]) -> Ledger:
    """Open the ledger of a run to go on with it.

    Raises:
        InputError: it is damaged, or was made with another model, data, threat or version (the difference is shown).
    """
    ledger = _checked(_connect(path), path)
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


def record_of(row: ImageRow | Attempt | Finding) -> dict[str, Any]:
    """Return a row as a JSON-able record."""
    return asdict(row)


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
            cursor.execute(_ADDED[schema])
            cursor.execute("UPDATE meta SET value = ? WHERE key = 'schema'", (json.dumps(schema),))


def _lay_out(path: Path, meta: dict[str, Any]) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript("BEGIN;" + _TABLES + "".join(_ADDED.values()))
        rows = [(key, json.dumps(value, sort_keys=True)) for key, value in meta.items()]
        connection.executemany("INSERT INTO meta VALUES (?, ?)", rows)


def _connect(path: Path) -> sqlite3.Connection:
    try:
        return _opened(path)
    except sqlite3.OperationalError as error:
        remedy = "make its folder writable or free some space"
        raise InputError(f"{path} could not be opened ({error}); {remedy}.") from error
    except sqlite3.DatabaseError as error:
        raise _damaged(path, str(error)) from error


def _opened(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _checked(connection: sqlite3.Connection, path: Path) -> Ledger:
    """Return the ledger of a connection, or close it and say what is wrong."""
    ledger = Ledger(connection)
    state = _state(connection)
    if state != "ok":
        connection.close()
        raise _damaged(path, state)
    schema = ledger.meta().get("schema")
    if not isinstance(schema, int) or schema > SCHEMA:
        connection.close()
        raise InputError(f"{path} has schema {schema}, newer than {SCHEMA}: use the Faultlight that wrote it.")
    return ledger


def _state(connection: sqlite3.Connection) -> str:
    try:
        schema = Ledger(connection).meta().get("schema", SCHEMA)
        added = ("proofs",) if schema == SCHEMA else ()
        for table in ("images", "attempts", "findings", "twins", *added):
            connection.execute(f"SELECT * FROM {table} LIMIT 1").fetchone()
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])
    except (sqlite3.Error, ValueError) as error:
        return str(error)


def _damaged(path: Path, state: str) -> InputError:
    return InputError(
        f"the ledger {path} is damaged ({state}): its images and attempts are lost. Move {path.name} away and run the "
        "same command without --resume: the seed makes the same outcome anew."
    )


def _marks(kind: type[Any]) -> str:
    return ", ".join("?" * len(fields(kind)))


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 28 else f"{text[:12]}…{text[-6:]}"
