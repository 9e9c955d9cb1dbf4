"""The search for settings: ranges, a search of two runs, and a killed one that goes on with the same choices."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from faultlight.cli import main
from faultlight.errors import InputError
from faultlight.files import write_json
from faultlight.train import search as module
from faultlight.train.search import Range, parse_space, search


def test_ranges() -> None:
    found = parse_space(["optimiser.lr=log:1e-4..1e-1", "epochs=5..20", "batch=64|128", "ema=0.0..0.9"])
    assert found["optimiser.lr"] == Range(1e-4, 1e-1, log=True)
    assert found["epochs"] == Range(5, 20)
    assert found["batch"] == Range(choices=(64, 128))
    assert found["ema"] == Range(0.0, 0.9)
    for word in ("lr", "lr=", "lr=1", "lr=log:0..1", "lr=2..1", "lr=a..b"):
        with pytest.raises(InputError):
            parse_space([word])


@pytest.fixture
def landscape(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Put a known function of the learning rate in the place of training: best at 0.01, NaN above 0.05."""
    pytest.importorskip("optuna", reason="an extra")
    seen: list[float] = []

    def train(recipe: Any, *, out: Path, **_: Any) -> SimpleNamespace:
        rate = recipe.optimiser.lr
        seen.append(rate)
        if rate > 0.05:
            raise InputError("the loss became NaN.")
        write_json(out / "records/training.json", {"test_accuracy": 0.5})
        return SimpleNamespace(validation_accuracy=1 - abs(rate - 0.01))

    monkeypatch.setattr(module, "train", train)
    return seen


SPACE = {"optimiser.lr": Range(1e-3, 1e-1, log=True)}


def test_the_best_trial_is_told_with_the_settings_it_chose(landscape: list[float], tmp_path: Path) -> None:
    found = search("digits-cnn", {}, SPACE, trials=6, out=tmp_path / "out", quiet=True)
    fine = [rate for rate in landscape if rate <= 0.05]
    assert found.settings == {"optimiser.lr": min(fine, key=lambda rate: abs(rate - 0.01))}
    assert (found.trials, found.failed) == (len(fine), 6 - len(fine))
    with pytest.raises(InputError, match="already holds a search"):
        search("digits-cnn", {}, SPACE, trials=6, out=tmp_path / "out", quiet=True)
    with pytest.raises(InputError, match="asked something else"):
        search("digits-cnn", {"epochs": 3}, SPACE, trials=6, out=tmp_path / "out", resume=True, quiet=True)
    with pytest.raises(InputError, match="there is no key"):
        search("digits-cnn", {}, {"optimizer.lr": SPACE["optimiser.lr"]}, trials=1, out=tmp_path / "x", quiet=True)


def test_a_killed_search_goes_on_with_the_choices_of_an_unbroken_one(
    landscape: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search("digits-cnn", {}, SPACE, trials=5, out=tmp_path / "whole", quiet=True)
    whole, real = list(landscape), module.train
    landscape.clear()

    def killed(recipe: Any, *, out: Path, **rest: Any) -> Any:
        if len(landscape) == 2:
            raise KeyboardInterrupt
        return real(recipe, out=out, **rest)

    monkeypatch.setattr(module, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        search("digits-cnn", {}, SPACE, trials=5, out=tmp_path / "cut", quiet=True)
    monkeypatch.setattr(module, "train", real)
    search("digits-cnn", {}, SPACE, trials=5, out=tmp_path / "cut", resume=True, quiet=True)
    assert landscape == whole


def test_the_command_makes_runs_and_says_how_to_repeat_the_best(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optuna", reason="an extra")
    words = ["train", "digits-cnn", "--epochs", "1", "--search", "batch=256|512", "--trials", "1"]
    assert main([*words, "--out", str(tmp_path / "out"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["settings"]["batch"] in (256, 512)
    assert (tmp_path / "out/trial-0/model.safetensors").is_file()
    assert main([*words, "--out", str(tmp_path / "out"), "--resume"]) == 0
    assert f"--set batch={said['settings']['batch']}" in capsys.readouterr().out
