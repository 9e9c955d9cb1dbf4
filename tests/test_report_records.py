"""Reading a run's records: what is damaged, foreign or of another version is named, never shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from faultlight.errors import InputError
from faultlight.report.reading import read_records
from faultlight.report.records import Rate
from faultlight.report.write import write_report
from report_fixture import Plan, write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", Plan(n=40, gallery=3, channels=1))


def change(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    record = json.loads(path.read_text(encoding="utf-8"))
    edit(record)
    path.write_text(json.dumps(record), encoding="utf-8")


def test_the_records_are_read_as_they_stand(run: Path) -> None:
    records = read_records(run)
    raw = json.loads((run / "verdict.json").read_text(encoding="utf-8"))
    assert records.verdict.attacked == Rate(**raw["attacked"])
    assert records.verdict.certified is None
    assert records.raw["verdict"] == raw
    assert records.settings.startswith('model = "zoo:digits-cnn"')


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no run folder at"):
        read_records(tmp_path / "nowhere")


def test_a_folder_without_a_verdict_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no verdict\.json.*--resume"):
        read_records(tmp_path)


@pytest.mark.parametrize("name", ["verdict.json", "stamp.json", "records/curve.json", "records/gallery.json"])
def test_a_newer_schema_names_the_version_to_install(run: Path, name: str) -> None:
    change(run / "verdict.json", lambda record: record.update(faultlight="0.7.2"))
    change(run / name, lambda record: record.update(schema=2))
    if name == "stamp.json":
        change(run / name, lambda record: record.update(faultlight="0.7.2"))
    with pytest.raises(InputError, match=r"has schema 2.*reads schema 1; install faultlight 0\.7\.2 or newer"):
        read_records(run)


def test_a_version_that_is_no_version_is_not_repeated(run: Path) -> None:
    change(run / "verdict.json", lambda record: record.update(schema=9, faultlight="\x1b[31m; rm -rf /"))
    with pytest.raises(InputError, match="install a newer faultlight to report") as caught:
        read_records(run)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("edit", "place"),
    [
        (lambda record: record.pop("n"), "'n'"),
        (lambda record: record.update(status="splendid"), "'status'"),
        (lambda record: record["clean"].update(value="0.9"), r"'clean\.value'"),
        (lambda record: record["findings"].append({"check": "x"}), r"'findings\.1\.severity'"),
        (lambda record: record.update(n=200.5), "'n'"),
    ],
)
def test_a_damaged_record_names_the_place(run: Path, edit: Callable[[dict[str, Any]], Any], place: str) -> None:
    change(run / "verdict.json", edit)
    with pytest.raises(InputError, match=rf"verdict\.json is damaged at {place}"):
        read_records(run)


@pytest.mark.parametrize("text", ['{"schema": 1, "cost": {"seconds": NaN}}', '{"schema": 1, "x": [1, -Infinity]}'])
def test_a_number_that_is_none_is_refused(run: Path, text: str) -> None:
    (run / "stamp.json").write_text(text)
    with pytest.raises(InputError, match=r"stamp\.json holds NaN or infinity"):
        read_records(run)


def test_a_record_that_is_no_object_is_refused(run: Path) -> None:
    (run / "records/curve.json").write_text("[1, 2]")
    with pytest.raises(InputError, match=r"curve\.json holds no JSON object but \[1, 2\]"):
        read_records(run)


def test_a_field_of_a_later_version_does_no_harm(run: Path) -> None:
    change(run / "verdict.json", lambda record: record.update(calibration={"ece": 0.1}))
    assert read_records(run).raw["verdict"]["calibration"] == {"ece": 0.1}


def test_a_failed_report_leaves_the_older_one(run: Path) -> None:
    page = write_report(run)
    before = page.read_bytes()
    change(run / "verdict.json", lambda record: record.pop("threat"))
    with pytest.raises(InputError, match="damaged"):
        write_report(run)
    assert page.read_bytes() == before
    assert sorted(path.name for path in run.iterdir() if "part" in path.name) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"not safetensors", "cannot be read"), (b"", "cannot be read")],
)
def test_damaged_pictures_are_named(run: Path, content: bytes, message: str) -> None:
    (run / "arrays/gallery.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=rf"gallery\.safetensors {message}"):
        write_report(run)


def test_pictures_of_other_failures_are_refused(run: Path) -> None:
    change(run / "records/gallery.json", lambda record: record["items"].pop())
    with pytest.raises(InputError, match=r"holds 3 rows of '\w+' for the 2 failures"):
        write_report(run)


def test_a_damaged_ledger_is_named(run: Path) -> None:
    (run / "ledger.sqlite").write_bytes(b"SQLite format 3\x00 and then nothing of use" * 40)
    with pytest.raises(InputError, match=r"ledger\.sqlite cannot be read as a ledger"):
        write_report(run)
