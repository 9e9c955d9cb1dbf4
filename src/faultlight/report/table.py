"""The ledger's table of images, read without the code that wrote it: plain SQL on a file opened read-only."""

from __future__ import annotations

import csv
import io
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from faultlight.errors import InputError

STATUSES = ("standing", "broken", "misclassified", "invalid")
# What a spreadsheet takes for the start of a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class Flow:
    """How many images of one class were broken into another."""

    label: int
    twin: int
    count: int


@dataclass(frozen=True)
class Summary:
    """What the charts need of the images, so that a page's size does not grow with their number.

    Args:
        fates: how many images ended in each status.
        flows: true class → twin's class of the broken images.
        margins: the ledger's margins by status, those that are set.
        distances: how far each broken image's twin lies from it.
    """

    fates: dict[str, int]
    flows: tuple[Flow, ...]
    margins: dict[str, Float64[np.ndarray, " _"]]
    distances: Float64[np.ndarray, " _"]


def summarise(ledger: Path) -> Summary:
    """Summarise the images of a ledger.

    Raises:
        InputError: the file cannot be read as a ledger.
    """
    with _opened(ledger) as base:
        fates = dict(base.execute("SELECT coalesce(status, 'unfinished'), count(*) FROM images GROUP BY 1"))
        flows = base.execute(
            "SELECT label, twin_prediction, count(*) FROM images "
            "WHERE status = 'broken' AND twin_prediction IS NOT NULL GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2"
        ).fetchall()
        margins = {status: _column(base, "margin", status) for status in ("standing", "broken")}
        distances = _column(base, "distance", "broken")
    return Summary(fates, tuple(Flow(*flow) for flow in flows), margins, distances)


def export_csv(ledger: Path, classes: list[str]) -> str:
    """Return the images table as CSV, with class names beside the labels and text made inert for spreadsheets."""
    text = io.StringIO()
    writer = csv.writer(text)
    with _opened(ledger) as base:
        rows = base.execute("SELECT * FROM images ORDER BY id")
        columns = [column[0] for column in rows.description]
        named = [name for name in ("label", "prediction", "twin_prediction") if name in columns]
        writer.writerow([*columns, *(f"{name}_name" for name in named)])
        for row in rows:
            names = [_class_name(row[columns.index(name)], classes) for name in named]
            writer.writerow([inert_cell(cell) for cell in (*row, *names)])
    return text.getvalue()


def _column(base: sqlite3.Connection, name: str, status: str) -> Float64[np.ndarray, " _"]:
    rows = base.execute(f"SELECT {name} FROM images WHERE status = ? AND {name} IS NOT NULL", (status,))
    values = np.array([row[0] for row in rows], dtype=np.float64)
    return values[np.isfinite(values)]


def _class_name(label: Any, classes: list[str]) -> str:
    return classes[label] if isinstance(label, int) and 0 <= label < len(classes) else ""


def inert_cell(cell: Any) -> Any:
    """Return a cell for CSV: numbers as they are, text that a spreadsheet would run with a leading apostrophe."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell


@contextmanager
def _opened(ledger: Path) -> Iterator[sqlite3.Connection]:
    try:
        with closing(_connect(ledger)) as base:
            yield base
    except sqlite3.Error as error:
        raise InputError(f"{ledger} cannot be read as a ledger ({error}); run again with --resume.") from None


def _connect(ledger: Path) -> sqlite3.Connection:
    address = ledger.resolve().as_uri()
    base = sqlite3.connect(f"{address}?mode=ro", uri=True)
    try:
        base.execute("SELECT 1 FROM images LIMIT 1")
    except sqlite3.OperationalError:
        # A write-ahead ledger in a folder nobody may write to opens only as an unchanging file.
        base.close()
        base = sqlite3.connect(f"{address}?mode=ro&immutable=1", uri=True)
    return base
