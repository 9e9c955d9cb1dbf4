"""Training autoencoders: what a recipe may say, what a run leaves, and that a kill changes nothing."""

from __future__ import annotations

import json
import math
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from autoencoder_toys import recipe, splits, trained
from faultlight.autoencoder import run
from faultlight.autoencoder.recipe import load_autoencoder_recipe, names
from faultlight.autoencoder.run import load_images, rows_of, train
from faultlight.autoencoder.saved import facts_of, load_autoencoder
from faultlight.errors import InputError
from faultlight.models import zoo
from faultlight.models.saved import save_model
from faultlight.train.state import CHECKPOINT
from faultlight.train.steps import StepState, save


@pytest.mark.parametrize("name", names())
def test_a_carried_recipe_is_named_after_its_file_and_builds_its_network(name: str) -> None:
    found = load_autoencoder_recipe(name)
    assert found.name == name
    assert load_autoencoder_recipe(f"autoencoder/{name}") == found
    shape = (1, 28, 28) if found.data == "mnist" else (3, 32, 32)
    assert found.network.blueprint(shape).shape == shape


def test_the_carried_recipes_are_the_autoencoder_two_sets_of_three_depths_and_one_for_gaussian_noise() -> None:
    depths = {f"{data}-denoiser-{depth}": depth for data in ("cifar10", "mnist") for depth in (1, 2, 3)}
    assert {name: load_autoencoder_recipe(name).network.depth for name in depths} == depths
    assert set(names()) - set(depths) == {"cifar10-s12", "mnist-denoiser-gaussian"}
    assert [each.kind for each in load_autoencoder_recipe("mnist-denoiser-gaussian").tamperings()] == ["gaussian"]
    assert not load_autoencoder_recipe("cifar10-s12").tamper


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tamper": [{"kind": "fog", "low": 0.1, "high": 0.2}]}, "there is no noise named 'fog'"),
        ({"tamper": [{"kind": "gaussian", "low": 0.1, "high": 9.0}]}, r"must lie in \[0, 4\]"),
        ({"tamper": [{"kind": "adversarial", "low": 0.1, "high": 0.2}]}, "needs a classifier to aim at"),
        (
            {"classifier": "runs/net", "tamper": [{"kind": "gaussian", "low": 0.5, "high": 0.5}]},
            r"for adversarial noise alone, and the noise is gaussian; leave out classifier 'runs/net'",
        ),
        ({"classifier": "runs/net", "tamper": []}, "and the noise is none; leave out"),
        ({"loss": "bce", "network": {"residual": True}}, "ends in a sigmoid"),
        ({"loss": "huber"}, "loss should be 'mse' or 'bce'"),
        ({"network": {"dept": 1}}, r"no key 'dept' in \[network\]; did you mean 'depth'"),
        ({"steps": 0}, "steps"),
    ],
)
def test_a_recipe_that_cannot_be_is_told(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        recipe(**changes)


def test_a_run_leaves_weights_record_and_stamp(tmp_path: Path) -> None:
    found = trained(tmp_path / "run")
    record = json.loads((tmp_path / "run" / "records" / "training.json").read_text())
    assert [row["step"] for row in record["steps"]] == [5, 10, 12]
    assert {"loss", "validation_mse", "validation_mse_tampered"} <= record["steps"][-1].keys()
    assert found.test_count == 12
    assert [each["kind"] for each in found.noises] == ["gaussian", "occlusion"]
    assert tomllib.loads((tmp_path / "run" / "run.toml").read_text())["recipe"]["name"] == "toy"
    facts = facts_of(tmp_path / "run")
    assert facts["data"] == "stripes"
    assert facts["tamper"][0] == {"kind": "gaussian", "low": 0.1, "high": 0.3, "weight": 1.0}
    assert not (tmp_path / "run" / CHECKPOINT).exists()
    test = splits().test
    with torch.no_grad():
        error = (load_autoencoder(tmp_path / "run")(test.x).double() - test.x).square().mean()
    assert found.test_mse == pytest.approx(float(error), rel=1e-5)
    assert found.met is None


def test_training_lowers_the_error(tmp_path: Path) -> None:
    trained(tmp_path / "run", tamper=[], steps=120, optimiser={"lr": 0.02})
    record = json.loads((tmp_path / "run" / "records" / "training.json").read_text())["steps"]
    assert record[-1]["validation_mse"] < 0.6 * record[0]["validation_mse"]
    assert "validation_mse_tampered" not in record[-1]


def test_a_target_is_met_up_to_its_bound_and_not_beyond(tmp_path: Path) -> None:
    error = trained(tmp_path / "run", steps=3).test_mse
    assert trained(tmp_path / "at", steps=3, target={"at_most": error}).met is True
    assert trained(tmp_path / "below", steps=3, target={"at_most": math.nextafter(error, 0)}).met is False
    # Pixels on both sides lie in [0, 1], and those of the images are 0.1 and 0.9.
    assert trained(tmp_path / "far", steps=3, target={"at_most": 0.82}).met is True
    assert trained(tmp_path / "never", steps=3, target={"at_most": 1e-9}).met is False


@pytest.mark.parametrize("loss", ["mse", "bce"])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    whole = train(recipe(loss=loss), out=tmp_path / "whole", splits=splits(), quiet=True)
    step = run._step

    def killed(task: run._Task, state: StepState) -> dict[str, torch.Tensor]:
        if state.step == 7:
            raise KeyboardInterrupt
        if state.step == 6:
            save(state, tmp_path / "part")
        return step(task, state)

    monkeypatch.setattr(run, "_step", killed)
    with pytest.raises(KeyboardInterrupt):
        train(recipe(loss=loss), out=tmp_path / "part", splits=splits(), quiet=True)
    monkeypatch.setattr(run, "_step", step)
    part = train(recipe(loss=loss), out=tmp_path / "part", splits=splits(), quiet=True, resume=True)
    for one, other in zip(whole.net().parameters(), part.net().parameters(), strict=True):
        assert torch.equal(one, other)
    assert part.test_mse == whole.test_mse


def test_nan_is_caught_and_the_last_good_state_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = run._step

    def poisoned(task: run._Task, state: StepState) -> dict[str, torch.Tensor]:
        found = step(task, state)
        return {name: value * (torch.nan if state.step == 3 else 1) for name, value in found.items()}

    monkeypatch.setattr(run, "_step", poisoned)
    with pytest.raises(InputError, match="became NaN or infinite by step 5 of 12; lower optimiser"):
        trained(tmp_path / "run")
    content = torch.load(tmp_path / "run" / CHECKPOINT, weights_only=True)
    assert all(torch.isfinite(each).all() for each in content["modules"]["net"].values())


@pytest.mark.parametrize("loss", ["mse", "bce"])
def test_a_learning_rate_that_is_far_too_high_is_told(tmp_path: Path, loss: str) -> None:
    with pytest.raises(InputError, match="became NaN or infinite by step 5 of 12"):
        trained(tmp_path / "run", loss=loss, optimiser={"name": "sgd", "lr": 1e38})
    content = torch.load(tmp_path / "run" / CHECKPOINT, weights_only=True)
    assert all(torch.isfinite(each).all() for each in content["modules"]["net"].values())


def test_noise_can_be_aimed_at_a_trained_classifier(tmp_path: Path) -> None:
    family = zoo.family("mlp", classes=2, shape=(1, 8, 8))
    (tmp_path / "classifier").mkdir()
    save_model(tmp_path / "classifier", "mlp", family, zoo.build_family(family))
    tamper = [{"kind": "adversarial", "low": 0.0, "high": 0.2}]
    classifier = str(tmp_path / "classifier")
    found = trained(tmp_path / "run", tamper=tamper, classifier=classifier, steps=3)
    assert found.noises == []
    assert "classifier" in tomllib.loads((tmp_path / "run" / "run.toml").read_text())["data"]


def test_an_epoch_takes_each_image_once_and_the_next_is_shuffled_anew() -> None:
    first = torch.cat([rows_of(10, 3, 0, step) for step in range(3)])
    second = torch.cat([rows_of(10, 3, 0, step) for step in range(3, 6)])
    assert len(set(first.tolist())) == len(set(second.tolist())) == 9
    assert not torch.equal(first, second)
    assert torch.equal(rows_of(10, 3, 0, 4), second[3:6])
    assert len(rows_of(4, 100, 0, 5)) == 4


def test_images_of_the_wrong_shape_are_told_before_a_folder_is_made(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="multiples of 4, not 9×9"):
        train(
            recipe(network={"family": "convolutional"}),
            out=tmp_path / "run",
            splits=splits(shape=(1, 9, 9)),
            quiet=True,
        )
    assert not (tmp_path / "run").exists()


def test_a_class_folder_with_a_single_image_is_told(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split / "cat").mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / split / "cat" / "one.png")
    with pytest.raises(InputError, match="has a single training image, which cannot be both"):
        load_images(str(tmp_path), 0)


def test_a_folder_of_another_kind_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no model\.json"):
        load_autoencoder(tmp_path)
    (tmp_path / "model.json").write_text('{"schema": 1, "kind": "gan"}')
    with pytest.raises(InputError, match="holds no network that `faultlight autoencoder train` wrote"):
        load_autoencoder(tmp_path)
