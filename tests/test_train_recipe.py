"""Recipes: what they hold, how settings are laid over them, and what a typo is told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from faultlight.cli import main
from faultlight.errors import InputError
from faultlight.models import zoo
from faultlight.train.objectives import build, teacher
from faultlight.train.recipe import FOLDER, Recipe, flatten, load_recipe, names, parse_recipe, parse_settings
from faultlight.train.steps_recipe import kind_of

LEAST: dict[str, Any] = {
    "name": "x", "title": "x", "model": "digits-cnn", "data": "digits", "epochs": 1, "batch": 8,
}  # fmt: skip


@pytest.mark.parametrize("name", names())
def test_a_carried_recipe_is_named_after_its_file_trains_a_known_network_and_has_a_target(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.model in zoo.names()
    assert recipe.target is not None


@pytest.mark.parametrize("name", names())
def test_a_carried_recipe_can_be_built_and_names_a_teacher_that_is_carried(name: str) -> None:
    recipe = load_recipe(name)
    needed = teacher(build(recipe))
    assert needed is None or needed.removeprefix("runs/") in names()
    sides = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
    with torch.device("meta"):
        zoo.family(recipe.model, classes=10, shape=sides[recipe.data], **recipe.options).module()


@pytest.mark.parametrize(
    ("name", "clean", "robust"),
    [
        ("mnist-cnn-plain", 0.9753, None),
        ("mnist-cnn-bn", 0.9869, None),
        ("cnn-a-mnist", 0.969, None),
        ("mlp-mnist", 0.977, None),
        ("cnn-basic-cifar10-sgd", 0.2311, None),
        ("cnn-basic-cifar10-adam", 0.6045, None),
        ("cnn-basic-cifar10-tanh", 0.5294, None),
        ("cifar-cnn", 0.704, None),
        ("vgg16-cifar10", 0.8754, None),
        ("resnet18-cifar10-pgd-10", 0.6441, 0.4047),
        ("resnet18-cifar10-pgd-50", 0.7624, 0.4787),
        ("resnet18-cifar10-pgd-200", 0.8368, 0.449),
        ("mlp-mnist-distilled", 0.982, None),
    ],
)
def test_a_founding_experiment_has_to_reach_what_it_once_did(name: str, clean: float, robust: float | None) -> None:
    recipe = load_recipe(name)
    assert recipe.target is not None
    assert recipe.target.at_least >= clean
    assert (recipe.robust_target.at_least if recipe.robust_target else None) == robust


def test_the_founding_recipe_is_adam_5e_4_batch_64_ten_epochs_in_float32() -> None:
    recipe = load_recipe("mnist-cnn-plain")
    assert (recipe.optimiser.name, recipe.optimiser.lr, recipe.batch, recipe.epochs) == ("adam", 5e-4, 64, 10)
    assert (recipe.precision, recipe.schedule.name, recipe.augment.shift) == ("float32", "constant", 0)


def test_settings_are_read_as_toml_and_else_as_text() -> None:
    found = parse_settings(
        ["optimiser.lr=1e-2", "epochs = 3", "augment.flip=true", "data=mnist", "title=a b", "x=[1, 2]"]
    )
    assert found == {
        "optimiser.lr": 0.01,
        "epochs": 3,
        "augment.flip": True,
        "data": "mnist",
        "title": "a b",
        "x": [1, 2],
    }


def test_a_setting_cannot_smuggle_in_a_second_key() -> None:
    assert parse_settings(["epochs=1\nseed = 3"]) == {"epochs": "1\nseed = 3"}


@pytest.mark.parametrize("setting", ["epochs", "=3", "optimiser.=3", ".lr=3"])
def test_a_setting_without_key_or_value_is_refused(setting: str) -> None:
    with pytest.raises(InputError, match="--set needs key=value"):
        parse_settings([setting])


def test_settings_are_laid_over_the_file_and_the_rest_stays() -> None:
    recipe = load_recipe("mnist-cnn", {"optimiser.lr": 0.5, "epochs": 2, "options.width": 3})
    plain = load_recipe("mnist-cnn")
    assert (recipe.optimiser.lr, recipe.epochs, recipe.options) == (0.5, 2, {"width": 3})
    assert (recipe.optimiser.name, recipe.schedule, recipe.batch) == (plain.optimiser.name, plain.schedule, plain.batch)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("epoch", 3, "there is no key 'epoch'; did you mean 'epochs'"),
        ("optimizer.lr", 0.1, "there is no key 'optimizer'; did you mean 'optimiser'"),
        ("optimiser.lrr", 0.1, r"there is no key 'lrr' in \[optimiser\]; did you mean 'lr'"),
        ("target.atleast", 0.1, r"there is no key 'atleast' in \[target\]; did you mean 'at_least'"),
        ("epochs", "three", "epochs should be a valid integer, not 'three'"),
        ("epochs", 0, "epochs should be greater than or equal to 1, not 0"),
        ("epochs", True, "epochs should be a valid integer, not True"),
        ("optimiser.lr", float("nan"), "optimiser.lr should be .* not nan"),
        ("optimiser.name", "adan", "optimiser.name should be 'sgd', 'adam' or 'adamw', not 'adan'"),
        ("optimiser", 3, "optimiser should be .* not 3"),
        ("optimiser.lr.x", 3, "'optimiser.lr.x' cannot be set: 'optimiser.lr' holds a value"),
        ("optimiser.nesterov", True, "nesterov = true needs name = 'sgd'"),
        ("objective.name", "trade", r"in \[objective\], there is no objective named 'trade'; did you mean 'trades'"),
        ("objective.beta", 3.0, r"in \[objective\], the objective 'standard' has no key 'beta'"),
        ("objective.mixup", "much", r"in \[objective\], mixup should be a valid number, not 'much'"),
        ("objective.mixup", float("nan"), r"in \[objective\], mixup should be a finite number, not nan"),
        ("objective", "trades", r"objective should be .*not 'trades'"),
        (
            "robust_target",
            {"threat": "8/255", "at_least": 0.4},
            r"in \[robust_target\], threat '8/255' names no known norm",
        ),
        ("robust_target.atleast", 0.4, r"there is no key 'atleast' in \[robust_target\]; did you mean 'at_least'"),
        ("swa", 0.5, "ema and swa are two ways to average"),
        ("seed", -1, "seed should be greater than or equal to 0"),
    ],
)
def test_a_wrong_key_or_value_is_named(key: str, value: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        load_recipe("mnist-cnn", {"ema": 0.9, key: value})


def test_a_missing_key_is_named() -> None:
    with pytest.raises(InputError, match="the key 'model' is missing"):
        parse_recipe({key: value for key, value in LEAST.items() if key != "model"})


def test_an_unknown_recipe_is_told_the_nearest() -> None:
    with pytest.raises(InputError, match=r"no recipe named 'mnist-cn'.*did you mean 'mnist-cnn'"):
        load_recipe("mnist-cn")


def test_a_recipe_is_read_from_a_path_and_bad_toml_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text((FOLDER / "digits-cnn.toml").read_text(encoding="utf-8"), encoding="utf-8")
    assert load_recipe(str(path)) == load_recipe("digits-cnn")
    path.write_text("name = \n", encoding="utf-8")
    with pytest.raises(InputError, match="is not valid TOML"):
        load_recipe(str(path))
    with pytest.raises(InputError, match="cannot be read: No such file"):
        load_recipe(str(tmp_path / "absent.toml"))


def test_a_recipe_survives_being_written_out_and_read_again() -> None:
    for name in names():
        recipe = load_recipe(name)
        assert parse_recipe(recipe.model_dump(exclude_none=True)) == recipe


def test_a_recipe_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Recipe.model_validate(LEAST).epochs = 5  # type: ignore[misc]


def test_flatten_gives_dotted_keys_in_order() -> None:
    assert list(flatten({"a": 1, "b": {"c": 2, "d": {"e": 3}}}).items()) == [("a", 1), ("b.c", 2), ("b.d.e", 3)]


def test_the_listing_shows_every_recipe_with_its_target(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    printed = capsys.readouterr().out.splitlines()
    lines = {line.split()[0]: line for line in printed if line.startswith("  ")}
    assert set(lines) == {path.stem for path in FOLDER.rglob("*.toml")} > set(names())
    assert len(printed) - len(lines) == 1 + len([path for path in FOLDER.iterdir() if path.is_dir()])
    assert "batch loss ≤ 1.3436" in lines["char-rnn"]
    assert "≥ 99.1 %" in lines["mnist-cnn"]
    assert "≥ 76.24 %, PGD ≥ 47.87 %" in lines["resnet18-cifar10-pgd-50"]
    assert "certified ≥ 90 %" in lines["strided-cnn-mnist-crown-ibp"]
    assert load_recipe("mnist-cnn").title in lines["mnist-cnn"]


def test_one_recipe_is_printed_as_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "digits-cnn"]) == 0
    assert capsys.readouterr().out == (FOLDER / "digits-cnn.toml").read_text(encoding="utf-8")
    assert main(["recipes", "digit-cnn"]) == 2
    assert "did you mean 'digits-cnn'" in capsys.readouterr().err


def test_listing_does_not_load_torch() -> None:
    code = (
        "import sys; from faultlight.cli import main; main(['recipes']); "
        "print(sorted({'torch', 'numpy', 'faultlight.train'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_every_recipe_is_of_the_kind_of_its_folder(tmp_path: Path) -> None:
    for path in FOLDER.rglob("*.toml"):
        due = "classifier" if path.parent == FOLDER else path.parent.name
        assert kind_of(path.stem) == kind_of(str(path)) == due
    mine = tmp_path / "mine.toml"
    mine.write_text('kind = "gan"', encoding="utf-8")
    assert kind_of(str(mine)) == "gan"
    for nothing in ("no-such-recipe", str(tmp_path / "absent.toml"), str(tmp_path)):
        assert kind_of(nothing) == "classifier"


@pytest.mark.parametrize("name", ["mnist-dcgan", "mnist-denoiser-1", "char-rnn"])
def test_what_classifiers_alone_know_is_refused_for_other_kinds(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", name, "--epochs", "3"]) == 2
    assert "--epochs cannot be given beside a recipe of kind" in capsys.readouterr().err
