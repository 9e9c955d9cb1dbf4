"""`faultlight report`: writes the page, says where it is, exports the table."""

from __future__ import annotations

import csv
import json
import webbrowser
from pathlib import Path

import pytest

from faultlight.cli import main
from report_fixture import HOSTILE, Plan, write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", Plan(n=60, gallery=2, channels=1, classes=HOSTILE))


def test_the_page_is_written_and_its_path_printed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
    assert (run / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_json_says_where_and_how_large(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "images.csv"
    assert main(["report", str(run), "--json", "--csv", str(table)]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == {
        "report": str(run / "report.html"),
        "bytes": (run / "report.html").stat().st_size,
        "csv": str(table),
    }


def test_the_table_is_exported_with_formulas_made_inert(run: Path, tmp_path: Path) -> None:
    table = tmp_path / "images.csv"
    assert main(["report", str(run), "--csv", str(table)]) == 0
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 60
    named = {row["label"]: row["label_name"] for row in rows}
    assert named["3"] == "'=cmd()"
    assert named["7"] == "'\tTAB"
    assert named["9"] == HOSTILE[9]


def test_open_shows_the_page(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: opened.append(address) or True)
    assert main(["report", str(run), "--open"]) == 0
    assert opened == [(run / "report.html").as_uri()]


def test_no_run_is_the_user_s_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path / "nothing")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "there is no run folder at" in captured.err


def test_no_ledger_is_no_table(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "ledger.sqlite").unlink()
    assert main(["report", str(run), "--csv", str(tmp_path / "x.csv")]) == 2
    assert "holds no ledger.sqlite" in capsys.readouterr().err
    assert not (tmp_path / "x.csv").exists()


def test_a_path_cannot_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "\x1b[31mrun", Plan(n=30, gallery=1, channels=1))
    assert main(["report", str(run)]) == 0
    assert "\x1b" not in capsys.readouterr().out
