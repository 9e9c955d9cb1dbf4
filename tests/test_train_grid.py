"""A grid of settings: a run a cell, the student without its teacher beside, and a second go that trains nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from faultlight import files
from faultlight.cli import main
from faultlight.errors import InputError
from faultlight.train.grid import Axis, parse_grid, summary
from faultlight.train.result import TrainResult

QUICK = ["--epochs", "1", "--set", "batch=256"]


def a_result(test: float) -> TrainResult:
    return TrainResult(Path("run"), test, 1000, 1, test - 0.1, 1.0, None, None)


def test_axes_are_read_and_what_is_none_is_refused() -> None:
    axes = parse_grid(["objective.temperature=1, 4,12", "objective.weight=0.3"])
    assert axes == (Axis("objective.temperature", ("1", "4", "12")), Axis("objective.weight", ("0.3",)))
    assert axes[0].setting("4") == {"objective.temperature": 4}
    wrong = {"seed=1,1": "twice", "seed": "needs a key", "=1": "needs a key", "data=a/b": "needs a key"}
    for word, reason in wrong.items():
        with pytest.raises(InputError, match=reason):
            parse_grid([word])
    with pytest.raises(InputError, match="one or two different keys"):
        parse_grid(["seed=1", "seed=2"])


def test_the_summary_says_each_cell_the_best_by_validation_and_what_the_student_does_alone() -> None:
    axes = (Axis("objective.temperature", ("1", "4")), Axis("objective.weight", ("0.3", "0.5", "0.9")))
    tests = [0.5, 0.6, 0.7, 0.8, 0.9, 0.75]
    found = {f"cell {i}": a_result(value) for i, value in enumerate(tests)} | {"alone": a_result(0.65)}
    result = summary(axes, found, "toy")
    assert np.array_equal(result.arrays["test"], np.array(tests).reshape(2, 3))
    assert np.allclose(result.arrays["alone"], [0.55, 0.65])
    lines = result.text().splitlines()
    assert lines[4].split() == ["test,", "%", "weight", "0.3", "weight", "0.5", "weight", "0.9"]
    assert lines[6].split() == ["temperature", "4", "80.00", "90.00", "75.00"]
    assert "best by validation: cell 4, test 90.00 % of 1,000 images" in result.text()
    assert "4 of 6 cells are above it" in result.text()
    panels = result.panels
    assert len({panel.scale for panel in panels}) == 1, "what is compared shares a scale"  # type: ignore[union-attr]
    assert (panels[0].scale.low, panels[0].scale.high) == (40.0, 90.0)  # type: ignore[union-attr]


def test_a_distillation_grid_trains_each_cell_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher, out = tmp_path / "teacher", tmp_path / "grid"
    assert main(["train", "digits-cnn", *QUICK, "--out", str(teacher)]) == 0
    capsys.readouterr()
    student = ["train", "digits-cnn", *QUICK, "--set", "objective.name=distillation"]
    words = [*student, "--set", f"objective.teacher={teacher}", "--out", str(out)]
    words += ["--grid", "objective.temperature=1.0,12.0", "--grid", "objective.weight=0.5"]
    assert main([*words, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    names = ["temperature-1.0,weight-0.5", "temperature-12.0,weight-0.5", "alone"]
    assert list(said["cells"]) == names
    for name in names:
        record = files.read_json(out / name / "records/training.json")
        assert said["cells"][name]["test"] == record["test_accuracy"]
    asked = (out / "alone/run.toml").read_text(encoding="utf-8")
    assert "teacher" not in asked
    assert "temperature = 12.0" in (out / names[1] / "run.toml").read_text(encoding="utf-8")
    assert (out / "grid.png").stat().st_size > 1000

    assert main(words) == 2, "the folders hold runs"
    assert "already holds" in capsys.readouterr().err
    before = {path: path.stat().st_mtime_ns for path in out.rglob("temperature*/*.json")}
    assert main([*words, "--resume"]) == 0
    assert "without a teacher:  alone" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in before}, "finished cells are left as they are"


def test_a_grid_and_a_search_cannot_both_be_asked_for(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "digits-cnn", "--grid", "seed=1,2", "--search", "optimiser.lr=0.1..0.2", "--out", str(run_folder)]
    assert main(words) == 2
    assert "--search cannot be given beside --grid" in capsys.readouterr().err
    assert not run_folder.exists()
