"""Curves handed on to TensorBoard and Weights & Biases, from records alone."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from faultlight.cli import main
from faultlight.errors import InputError
from faultlight.files import write_json, write_text
from faultlight.train import writers

ROWS = [{"epoch": 1, "train_loss": 1.5, "lr": 0.1, "note": "x"}, {"epoch": 2, "train_loss": 0.5, "lr": 0.01}]


def trained(folder: Path, finished: bool = True) -> Path:
    write_text(folder / "run.toml", 'verb = "train"\n[recipe]\nname = "toy"\nseed = 3\n')
    record = {"schema": 1, "epochs": ROWS, "test_accuracy": 0.75, "confusion": [[1]]}
    write_json(folder / ("records/training.json" if finished else "records/history.json"), record)
    return folder


class FakeWandb(SimpleNamespace):
    """Keeps what it is told, as the package does offline."""

    def __init__(self) -> None:
        super().__init__(runs=[])

    def init(self, **asked: Any) -> SimpleNamespace:
        rows: list[tuple[int, dict[str, float]]] = []
        run = SimpleNamespace(asked=asked, rows=rows, summary={}, finished=False)
        run.log = lambda values, step: rows.append((step, values))
        run.finish = lambda: setattr(run, "finished", True)
        self.runs.append(run)
        return run


def test_tensorboard_reads_back_what_the_record_holds(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="an extra")
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for _ in range(2):
        places = writers.write_tensorboard(
            [trained(tmp_path / "a"), trained(tmp_path / "b", False)], tmp_path / "board"
        )
    assert places == [tmp_path / "board/a", tmp_path / "board/b"]
    assert len(list(places[0].iterdir())) == 1, "written anew, not twice"
    events = accumulator.EventAccumulator(str(places[0])).Reload()
    assert [(each.step, each.value) for each in events.Scalars("train_loss")] == [(1, 1.5), (2, 0.5)]
    assert [each.value for each in events.Scalars("final/test_accuracy")] == [0.75]
    unfinished = accumulator.EventAccumulator(str(places[1])).Reload()
    assert [each.step for each in unfinished.Scalars("lr")] == [1, 2]


def test_wandb_is_told_settings_curves_and_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    assert main(["runs", str(trained(tmp_path / "a")), "--wandb", "toys"]) == 0
    (run,) = fake.runs
    assert (run.asked["project"], run.asked["name"], run.asked["config"]["recipe.seed"]) == ("toys", "a", 3)
    assert run.rows == [(1, {"train_loss": 1.5, "lr": 0.1}), (2, {"train_loss": 0.5, "lr": 0.01})]
    assert run.summary == {"test_accuracy": 0.75}
    assert run.finished


@pytest.mark.parametrize(("option", "package"), [("--tensorboard", "tensorboard"), ("--wandb", "wandb")])
def test_a_missing_package_is_said(
    tmp_path: Path, option: str, package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("wandb", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["runs", str(trained(tmp_path / "a")), option, str(tmp_path / "board")]) == 2
    assert f"pip install 'faultlight[{package}]'" in capsys.readouterr().err


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    assert writers._names([tmp_path / "a/seed-0", tmp_path / "b/seed-0"]) == ["a-seed-0", "b-seed-0"]
    with pytest.raises(InputError, match="two of the runs are one folder"):
        writers._names([tmp_path, tmp_path])


def test_a_run_without_an_epoch_has_no_curves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_text(tmp_path / "a/run.toml", 'verb = "train"\n[recipe]\nname = "toy"\n')
    assert main(["runs", str(tmp_path), "--tensorboard", str(tmp_path / "board")]) == 2
    assert "none of these runs has curves" in capsys.readouterr().err
