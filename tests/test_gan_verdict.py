"""What a study of collapse says of its runs' alarms, in the record, in words and on the page."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from faultlight.cli.gan import _verdict
from faultlight.gan import study
from faultlight.gan.study import CELLS
from faultlight.models.subject import Subject
from faultlight.report.gan_page import write_gan_page
from report_reader import read_page
from test_gan_measure import Bright
from test_gan_study import small_study

LEAKS = ("leak-0", "leak-1")
RUNS = tuple(f"{cell}-{seed}" for cell in CELLS for seed in (0, 1))
FINDING = {"check": "spread", "value": 0.0, "threshold": 0.25, "evidence": "all are one"}


def given_alarms(names: Iterable[str], folder: Path) -> dict[str, Any]:
    """What is measured of a run, its alarm going off where it is named."""
    off = folder.name in names
    return {"alarm": off, "findings": [FINDING] if off else [], "drawn": {}, "held_out": {}}


@pytest.mark.parametrize(
    ("alarming", "holds"),
    [
        (LEAKS, True),
        (LEAKS[:1], False),
        (LEAKS[1:], False),
        ((*LEAKS, "minimax-1"), False),
        ((*LEAKS, "non-saturating-0"), False),
        (RUNS, False),
        ((), False),
        (("minimax-0", "minimax-1"), False),
    ],
)
def test_a_study_holds_where_the_alarm_goes_off_on_every_leak_and_on_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alarming: tuple[str, ...], holds: bool
) -> None:
    monkeypatch.setattr("faultlight.gan.run.train", lambda *_given, **_more: None)
    monkeypatch.setattr("faultlight.gan.measuring.measure", lambda folder, *_, **__: given_alarms(alarming, folder))
    record = small_study(tmp_path)
    assert record["holds"] is holds
    assert [row["folder"] for row in record["rows"] if row["alarm"]] == [name for name in RUNS if name in alarming]
    assert ("NOT" in _verdict(record["holds"])) is not holds


@pytest.mark.parametrize(("seed", "taken"), [(0, True), (5, False)])
def test_measures_by_other_samples_are_not_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, taken: bool
) -> None:
    """A run whose alarm went off when it was measured by hand, where the study's own samples leave it silent."""
    monkeypatch.setattr("faultlight.gan.run.train", lambda *_given, **_more: None)
    monkeypatch.setattr("faultlight.gan.measuring.measure", lambda folder, *_, **__: given_alarms((), folder))
    subject = {"fingerprint": Subject(Bright(), 2).fingerprint()}
    before = given_alarms(["minimax-0"], tmp_path / "minimax-0") | {"n": 20, "seed": seed, "classifier": subject}
    (tmp_path / "minimax-0/records").mkdir(parents=True)
    (tmp_path / "minimax-0/records/measure.json").write_text(json.dumps(before))
    record = small_study(tmp_path, resume=True)
    assert [row["folder"] for row in record["rows"] if row["alarm"]] == ["minimax-0"] * taken


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with its records, of which a test says where the alarm went off."""
    folder = tmp_path_factory.mktemp("study")
    small_study(folder)
    return folder


def with_alarms(folder: Path, alarming: tuple[str, ...]) -> None:
    """Write into a study's records that the alarm went off on the named runs and on no other."""
    record = json.loads((folder / study.RECORD).read_text())
    for row in record["rows"]:
        new = {key: given_alarms(alarming, folder / row["folder"])[key] for key in ("alarm", "findings")}
        row |= new
        path = folder / row["folder"] / "records/measure.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | new))
    (folder / study.RECORD).write_text(json.dumps(record | {"holds": alarming == LEAKS}))


@pytest.mark.parametrize(
    ("alarming", "counts"), [(LEAKS, (2, 0, 0)), (("leak-1", "non-saturating-0", "non-saturating-1"), (1, 0, 2))]
)
def test_the_page_says_of_every_cell_and_run_whether_the_alarm_went_off(
    whole: Path, alarming: tuple[str, ...], counts: tuple[int, int, int]
) -> None:
    with_alarms(whole, alarming)
    page = read_page(write_gan_page(whole))
    said = zip(CELLS, counts, strict=True)
    assert [each.text for each in page.all("tr")][1:4] == [f"{cell}{count} of 2" for cell, count in said]
    cells = [each.text for each in page.all("table")][1:]
    assert [text.count("spread") for text in cells] == list(counts)
    assert [text.count("silent") for text in cells] == [2 - count for count in counts]
    assert page.text.count("all are one") == len(alarming)
    assert ("does not tell" in page.one("h1").text) == (alarming != LEAKS)
