"""Several seeds of one recipe: a folder each, one summary, and a second go that trains nothing anew."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

from faultlight import files
from faultlight.cli import main
from faultlight.errors import InputError
from faultlight.train.several import parse_seeds

QUICK = ["--epochs", "1", "--set", "batch=256"]


def test_a_number_counts_from_0_and_a_list_is_taken_as_it_is() -> None:
    assert parse_seeds("3") == (0, 1, 2)
    assert parse_seeds("4, 0,7") == (4, 0, 7)
    for text, reason in (("0", "no seed"), ("1,1", "twice"), ("1,", "needs a number"), ("-1", "needs"), ("a", "'a'")):
        with pytest.raises(InputError, match=reason):
            parse_seeds(text)


def test_each_seed_gets_a_run_and_the_end_says_mean_and_deviation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "digits-cnn", *QUICK, "--seeds", "5,2", "--out", str(tmp_path / "out"), "--json"]
    assert main(words) == 0
    said = json.loads(capsys.readouterr().out)
    records = [files.read_json(tmp_path / f"out/seed-{seed}/records/training.json") for seed in (5, 2)]
    accuracies = [record["test_accuracy"] for record in records]
    assert [run["test"] for run in said["runs"]] == accuracies
    assert said["groups"][0]["seeds"] == [2, 5]
    assert said["groups"][0]["test"]["mean"] == pytest.approx(statistics.fmean(accuracies))
    assert said["groups"][0]["test"]["deviation"] == pytest.approx(statistics.stdev(accuracies))

    assert main(words[:-1]) == 2, "the folders hold runs"
    assert "already holds" in capsys.readouterr().err
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    assert main([*words[:-1], "--resume"]) == 0
    text = capsys.readouterr().out
    assert "±" in text
    assert "target met by 0 of 2 runs" in text
    assert before == {path: path.stat().st_mtime_ns for path in before}, "finished runs are left as they are"


def test_one_seed_and_several_cannot_both_be_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "digits-cnn", "--seeds", "2", "--seed", "1", "--out", str(tmp_path / "out")]) == 2
    assert "--seed cannot be given beside --seeds" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
