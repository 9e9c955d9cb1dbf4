"""The ledger's images, summarised and exported: a ledger of seven images, counted by hand."""

from __future__ import annotations

import csv
import io
import os
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from faultlight.report.table import Flow, export_csv, summarise
from report_fixture import HOSTILE

COLUMNS = (
    "id, label, prediction, status, broken, broken_by, distance, margin, fragile, twin_prediction, "
    "clean_margin, forwards, backwards"
)
ROWS = [
    (0, 1, 1, "broken", 1, "fgsm", 0.03, 0.5, 0, 2, -1.0, 3, 2),
    (1, 1, 1, "broken", 1, "pgd", 0.02, 0.1, 1, 2, -2.0, 9, 8),
    (2, 0, 0, "broken", 1, "pgd", 0.01, 0.2, 0, 1, -0.5, 9, 8),
    (3, 0, 0, "standing", 0, "", None, -0.25, 0, None, -3.0, 40, 40),
    (4, 2, 2, "standing", 0, "", None, None, 0, None, -4.0, 0, 0),
    (5, 2, 0, "misclassified", 0, "", None, None, 0, None, 1.5, 1, 0),
    (6, 2, 0, "invalid", 0, "", None, None, 0, None, None, 1, 0),
]


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    path = tmp_path / "a ledger #1?.sqlite"
    base = sqlite3.connect(path)
    with base:
        base.execute("PRAGMA journal_mode = WAL")
        base.execute(f"CREATE TABLE images ({COLUMNS})")
        base.executemany(f"INSERT INTO images VALUES ({', '.join('?' * 13)})", ROWS)
    base.close()
    return path


def test_the_summary_is_what_a_hand_counts(ledger: Path) -> None:
    summary = summarise(ledger)
    assert summary.fates == {"broken": 3, "standing": 2, "misclassified": 1, "invalid": 1}
    assert summary.flows == (Flow(1, 2, 2), Flow(0, 1, 1))
    np.testing.assert_array_equal(np.sort(summary.distances), [0.01, 0.02, 0.03])
    np.testing.assert_array_equal(np.sort(summary.margins["broken"]), [0.1, 0.2, 0.5])
    np.testing.assert_array_equal(summary.margins["standing"], [-0.25])


def test_a_ledger_is_only_read(ledger: Path) -> None:
    before = ledger.read_bytes()
    summarise(ledger)
    export_csv(ledger, ["a", "b", "c"])
    assert ledger.read_bytes() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to any folder, so none is read-only")
def test_a_ledger_in_a_folder_nobody_may_write_to_is_read(ledger: Path) -> None:
    ledger.parent.chmod(0o500)
    try:
        assert summarise(ledger).fates["broken"] == 3
    finally:
        ledger.parent.chmod(0o700)


def test_the_export_holds_every_row_and_the_class_names(ledger: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(export_csv(ledger, ["cat", "dog", "owl"]))))
    assert [row["id"] for row in rows] == ["0", "1", "2", "3", "4", "5", "6"]
    assert [row["label_name"] for row in rows] == ["dog", "dog", "cat", "cat", "owl", "owl", "owl"]
    assert rows[0]["twin_prediction_name"] == "owl"
    assert rows[3]["twin_prediction_name"] == ""
    assert float(rows[3]["margin"]) == -0.25, "a number is no formula and stays a number"
    assert rows[4]["margin"] == ""


def test_no_cell_of_the_export_is_a_formula(ledger: Path) -> None:
    classes = [HOSTILE[3], HOSTILE[4], "\r=1"]
    for row in csv.DictReader(io.StringIO(export_csv(ledger, classes), newline="")):
        for name in ("label_name", "prediction_name", "twin_prediction_name", "broken_by"):
            assert not row[name] or row[name][0] not in "=+-@\t\r"
        assert row["label_name"] == f"'{classes[int(row['label'])]}"
