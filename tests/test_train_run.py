"""Whole runs on a few of the embedded digits: the folder, what is refused, and kill -9."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from faultlight import files
from faultlight.api import attack
from faultlight.attacks.pgd import PGD
from faultlight.certify.certificate import certify
from faultlight.cli import main
from faultlight.data.images import Images
from faultlight.data.load import load_data
from faultlight.errors import InputError
from faultlight.models.load import load_model
from faultlight.models.zoo.fast_cifar import whitening
from faultlight.runtime import lock
from faultlight.train import Splits, load_recipe, train
from faultlight.train import run as module_under_test
from faultlight.train.memory import load_splits
from faultlight.train.recipe import Recipe, names

QUICK: dict[str, Any] = {"epochs": 2, "batch": 32, "ema": 0.5}


def quick(**changes: Any) -> Recipe:
    return load_recipe("digits-cnn", QUICK | changes)


@pytest.fixture(scope="module")
def splits() -> Splits:
    whole = load_splits("digits", 0)
    return Splits(whole.train.first(160), whole.validation.first(40), whole.test.first(50))


@pytest.fixture(scope="module")
def finished(splits: Splits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "finished"
    train(quick(epochs=8), out=folder, data=splits, quiet=True)
    return folder


def timeless(folder: Path) -> dict[str, Any]:
    record = files.read_json(folder / "records/training.json")
    record["seconds"] = 0
    for epoch in record["epochs"]:
        epoch["seconds"] = 0
    found: dict[str, Any] = record
    return found


def test_the_record_agrees_with_the_saved_network(finished: Path, splits: Splits) -> None:
    record = files.read_json(finished / "records/training.json")
    subject = load_model(str(finished))
    found = subject(splits.test.x).argmax(1)
    confusion = [[int(((splits.test.y == i) & (found == j)).sum()) for j in range(10)] for i in range(10)]
    assert record["confusion"] == confusion
    assert record["test_count"] == 50
    assert record["test_accuracy"] == int((found == splits.test.y).sum()) / 50
    validation = int((subject(splits.validation.x).argmax(1) == splits.validation.y).sum()) / 40
    assert record["validation_accuracy"] == validation
    assert record["epochs"][record["best_epoch"] - 1]["validation_accuracy"] == validation
    assert max(epoch["validation_accuracy"] for epoch in record["epochs"]) == validation


def test_the_record_has_one_row_an_epoch_and_says_whether_the_target_was_met(finished: Path) -> None:
    record = files.read_json(finished / "records/training.json")
    assert record["schema"] == 1
    assert [epoch["epoch"] for epoch in record["epochs"]] == list(range(1, 9))
    due = {"epoch", "train_loss", "validation_loss", "validation_accuracy", "seconds", "lr"}
    assert all(set(epoch) == due for epoch in record["epochs"])
    assert record["target"] == {"metric": "test_accuracy", "at_least": 0.97}
    assert record["met"] is (record["test_accuracy"] >= 0.97)
    losses = [epoch["train_loss"] for epoch in record["epochs"]]
    assert losses[-1] < losses[0] - 0.5


def test_run_toml_holds_everything_asked_and_the_stamp_the_rest(finished: Path, splits: Splits) -> None:
    asked = tomllib.loads((finished / "run.toml").read_text(encoding="utf-8"))
    assert asked["recipe"] == quick(epochs=8).model_dump(exclude_none=True)
    assert asked["data"]["train"] == splits.train.fingerprint()
    assert asked["numerics"]["device"] == "cpu"
    stamp = files.read_json(finished / "stamp.json")
    assert stamp["seed"] == 0
    assert stamp["hashes"]["data/test"] == splits.test.fingerprint()
    assert stamp["hashes"]["model"] == files.sha256(finished / "model.safetensors")
    assert set(stamp["timings"]) == {"load", "train", "test"}


def test_a_finished_run_leaves_nothing_but_its_records(finished: Path) -> None:
    names = sorted(str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file())
    records = ["records/model.json", "records/test.json", "records/training.json"]
    due = [".lock", "arrays/test.safetensors", "model.json", "model.safetensors", *records, "run.toml", "stamp.json"]
    assert names == due


def test_the_test_images_are_looked_at_once(splits: Splits, run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    real = module_under_test.look

    def counted(subject: Any, images: Images) -> Any:
        seen.append(len(images))
        return real(subject, images)

    monkeypatch.setattr(module_under_test, "look", counted)
    nowhere = Splits(splits.train, splits.validation, Images(**{**vars(splits.test), "y": (splits.test.y + 1) % 10}))
    spoiled = train(quick(), out=run_folder, data=nowhere, quiet=True)
    monkeypatch.undo()
    right = train(quick(), out=run_folder.with_name("right"), data=splits, quiet=True)
    assert seen == [50]
    assert spoiled.best_epoch == right.best_epoch
    assert files.sha256(run_folder / "model.safetensors") == files.sha256(right.folder / "model.safetensors")


def test_the_same_recipe_twice_gives_the_same_weights_and_another_seed_does_not(splits: Splits, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(quick(seed=seed), out=tmp_path / name, data=splits, quiet=True)
    hashes = [files.sha256(tmp_path / name / "model.safetensors") for name in "abc"]
    assert hashes[0] == hashes[1] != hashes[2]
    assert timeless(tmp_path / "a") == timeless(tmp_path / "b")


def test_without_a_target_nothing_is_met(splits: Splits, run_folder: Path) -> None:
    recipe = quick(epochs=1).model_copy(update={"target": None})
    result = train(recipe, out=run_folder, data=splits, quiet=True)
    assert (result.target, result.met) == (None, None)
    assert result.subject().classes == 10


def test_a_folder_that_holds_a_run_is_refused_without_resume(finished: Path, splits: Splits) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*.*") if path.is_file() and path.name != ".lock"}
    with pytest.raises(InputError, match=r"already holds run\.toml.*--resume"):
        train(quick(epochs=8), out=finished, data=splits, quiet=True)
    assert before == {path: path.read_bytes() for path in before}


def test_a_folder_that_holds_other_files_of_these_names_is_refused_even_with_resume(
    run_folder: Path, splits: Splits
) -> None:
    files.write_text(run_folder / "model.safetensors", "precious")
    with pytest.raises(InputError, match=r"already holds model\.safetensors; choose another folder"):
        train(quick(), out=run_folder, data=splits, resume=True, quiet=True)
    assert (run_folder / "model.safetensors").read_text() == "precious"


def test_resuming_a_finished_run_returns_its_figures_and_computes_nothing(
    finished: Path, splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module_under_test, "fit", None)
    result = train(quick(epochs=8), out=finished, data=splits, resume=True, quiet=True)
    assert result.test_accuracy == timeless(finished)["test_accuracy"]


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"optimiser.lr": 0.5}, r"recipe\.optimiser\.lr was 0\.004, now 0\.5"),
        ({"seed": 7}, r"recipe\.seed was 0, now 7"),
        ({"epochs": 9, "batch": 16}, r"recipe\.epochs was 8, now 9; recipe\.batch was 32, now 16"),
        ({"layout": "contiguous"}, r"recipe\.layout was 'auto', now 'contiguous'; numerics\.channels_last was True"),
        ({"options.width": 3}, r"no option 'width'"),
    ],
)
def test_resuming_with_another_recipe_is_refused_with_the_difference(
    finished: Path, splits: Splits, changes: dict[str, Any], difference: str
) -> None:
    with pytest.raises(InputError, match=difference):
        train(quick(**{"epochs": 8} | changes), out=finished, data=splits, resume=True, quiet=True)


def test_resuming_with_other_data_is_refused(finished: Path, splits: Splits) -> None:
    other = Splits(splits.train.take(torch.arange(159)), splits.validation, splits.test)
    with pytest.raises(InputError, match=r"something else is asked now: data\.train was"):
        train(quick(epochs=8), out=finished, data=other, resume=True, quiet=True)


def test_resuming_with_another_version_is_refused(
    finished: Path, splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("faultlight.__version__", "9.9.9")
    with pytest.raises(InputError, match=r"faultlight was '.*', now '9\.9\.9'"):
        train(quick(epochs=8), out=finished, data=splits, resume=True, quiet=True)


def test_a_run_begun_before_a_setting_existed_goes_on_with_its_default(run_folder: Path, splits: Splits) -> None:
    train(quick(epochs=1), out=run_folder, data=splits, quiet=True)
    asked = run_folder / "run.toml"
    before = asked.read_text(encoding="utf-8")
    assert "norm_lr = 1.0\n" in before
    asked.write_text(before.replace("norm_lr = 1.0\n", ""), encoding="utf-8")
    train(quick(epochs=1), out=run_folder, data=splits, quiet=True, resume=True)
    with pytest.raises(InputError, match=r"recipe\.optimiser\.lr was .*, now 2\.0"):
        train(quick(epochs=1, **{"optimiser.lr": 2.0}), out=run_folder, data=splits, quiet=True, resume=True)


def test_a_second_run_in_a_folder_in_use_is_refused(run_folder: Path, splits: Splits) -> None:
    with lock(run_folder), pytest.raises(InputError, match="another run is using this folder"):
        train(quick(), out=run_folder, data=splits, quiet=True)


@pytest.mark.parametrize("changes", [{"model": "digit-cnn"}, {"data": "digit"}, {"options.width": 3}])
def test_what_cannot_start_leaves_a_folder_that_can_still_be_used(
    changes: dict[str, Any], run_folder: Path, splits: Splits
) -> None:
    given = None if "data" in changes else splits
    with pytest.raises(InputError):
        train(quick(**changes), out=run_folder, data=given, quiet=True)
    train(quick(epochs=1), out=run_folder, data=splits, quiet=True)


def test_a_run_that_diverges_says_so_and_keeps_a_finite_state(run_folder: Path, splits: Splits) -> None:
    with pytest.raises(InputError, match="NaN or infinite"):
        train(quick(**{"optimiser.name": "sgd", "optimiser.lr": 1e30}), out=run_folder, data=splits, quiet=True)
    assert not (run_folder / "model.safetensors").exists()
    checkpoint = run_folder / "checkpoint.pt"
    if checkpoint.exists():
        weights = torch.load(checkpoint, weights_only=True)["model"]
        assert all(bool(torch.isfinite(value).all()) for value in weights.values())


# The program below imports PyTorch once and forks: so a dozen processes can be killed in the time of one start. One
# thread, because a forked process has no OpenMP threads left. It prints how often it killed.
KILLER = """
import os, random, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from faultlight.train import Splits, load_recipe, loop, train
from faultlight.train.memory import load_splits

loop._SAVE_EVERY_SECONDS = float(sys.argv[2])
whole = load_splits("digits", 0)
splits = Splits(whole.train.first(160), whole.validation.first(40), whole.test.first(50))
recipe = load_recipe("digits-cnn", {"epochs": 3, "batch": 16, "ema": 0.9})

def child(out, resume):
    number = os.fork()
    if not number:
        try:
            train(recipe, out=out, data=splits, resume=resume, quiet=True)
        except BaseException as error:
            sys.stderr.write(f"{error!r}\\n")
            os._exit(1)
        os._exit(0)
    return number

base = Path(sys.argv[1])
began = time.monotonic()
assert os.waitpid(child(base / "whole", False), 0)[1] == 0
length = time.monotonic() - began
draw, killed = random.Random(int(sys.argv[3])), 0
while True:
    number = child(base / "killed", True)
    if killed < 6:
        time.sleep(draw.uniform(0.05, 0.45) * length)
        os.kill(number, signal.SIGKILL)
    status = os.waitpid(number, 0)[1]
    if not os.WIFSIGNALED(status):
        assert status == 0, status
        break
    killed += 1
print(killed)
"""


@pytest.mark.parametrize("save_every", ["-1", "1000"])
def test_a_run_killed_at_random_moments_and_resumed_ends_bit_for_bit_as_an_unbroken_one(
    tmp_path: Path, save_every: str
) -> None:
    """With states kept after every step (a kill falls within an epoch), and only at the ends of epochs."""
    command = [sys.executable, "-c", KILLER, str(tmp_path), save_every, "1"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 1
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert (whole / "model.safetensors").read_bytes() == (killed / "model.safetensors").read_bytes()
    assert timeless(whole) == timeless(killed)
    assert (whole / "run.toml").read_bytes() == (killed / "run.toml").read_bytes()
    assert not list(killed.rglob("*.part"))
    assert not (killed / "checkpoint.pt").exists()


def test_ctrl_c_keeps_a_checkpoint_and_exits_with_130(run_folder: Path) -> None:
    command = [sys.executable, "-c", "import sys; from faultlight.cli import main; sys.exit(main())"]
    words = ["train", "digits-cnn", "--set", "epochs=100000", "--set", "batch=512", "--out", str(run_folder)]
    process = subprocess.Popen([*command, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        limit = time.monotonic() + 120
        while not (run_folder / "checkpoint.pt").exists() and time.monotonic() < limit:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert output == ""
    assert (run_folder / "checkpoint.pt").exists()
    assert not (run_folder / "model.safetensors").exists()


def test_the_command_says_whether_the_target_was_met(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "digits-cnn", "--epochs", "1", "--seed", "3", "--out", str(run_folder)]
    assert main([*words, "--set", "target.at_least=0.05", "--json"]) == 0
    captured = capsys.readouterr()
    answer = json.loads(captured.out)
    assert captured.err == ""
    assert (answer["met"], answer["target"], answer["folder"]) == (
        answer["test_accuracy"] >= 0.05,
        0.05,
        str(run_folder),
    )
    asked = tomllib.loads((run_folder / "run.toml").read_text(encoding="utf-8"))
    assert (asked["recipe"]["epochs"], asked["recipe"]["seed"]) == (1, 3)


def test_resuming_where_there_is_no_run_says_that_it_begins(
    run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "digits-cnn", "--epochs", "1", "--out", str(run_folder), "--resume"]
    said = f"train: {run_folder} holds no run to go on with; it begins anew"
    assert main(words) == 0
    assert said in capsys.readouterr().err
    assert main(words) == 0
    assert said not in capsys.readouterr().err


def test_the_command_in_words(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "digits-cnn", "--data", "digits", "--epochs", "1", "--set", "target.at_least=1", "--out"]
    assert main([*words, str(run_folder)]) == 0
    output = capsys.readouterr().out
    assert re.search(r"test accuracy +\d+\.\d\d % \(\d+ of 360 images, float32\)", output)
    assert "at least 100.00 %: NOT met" in output
    assert re.search(r"checkpoint +epoch 1, chosen by its validation accuracy of \d+\.\d\d %\n", output)
    assert "guard  " not in output
    assert f"faultlight audit {run_folder}" in output
    assert main([*words, str(run_folder)]) == 2
    assert "already holds run.toml" in capsys.readouterr().err


SHAPES = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "cifar10": (3, 32, 32)}


def noise(shape: tuple[int, int, int], split: str) -> Images:
    count = torch.arange(20)
    x = torch.rand(20, *shape, generator=torch.Generator().manual_seed(len(split)))
    return Images(x, count % 10, count, tuple("0123456789"), "noise", split)


@pytest.mark.parametrize("name", names())
def test_every_carried_recipe_runs_from_start_to_end_and_can_be_loaded(name: str, run_folder: Path) -> None:
    short = {"epochs": 1, "batch": 10} | ({"options.width": 2} if "resnet" in name else {})
    recipe = load_recipe(name, short)
    made = Splits(*(noise(SHAPES[recipe.data], split) for split in ("train", "validation", "test")))
    if teacher := getattr(recipe.objective, "teacher", ""):
        folder = run_folder.with_name("teacher")
        train(load_recipe(Path(teacher).name, short), out=folder, data=made, quiet=True)
        recipe = load_recipe(name, short | {"objective.teacher": str(folder)})
    result = train(recipe, out=run_folder, data=made, quiet=True)
    logits = result.subject()(made.test.x)
    assert int((logits.argmax(1) == made.test.y).sum()) == round(result.test_accuracy * 20)


def test_the_digits_recipe_reaches_its_target(run_folder: Path) -> None:
    result = train(load_recipe("digits-cnn"), out=run_folder, quiet=True)
    assert result.test_count == len(load_data("digits"))
    assert result.test_accuracy >= 0.97


@pytest.mark.slow
@pytest.mark.usefixtures("real_data")
def test_the_mnist_recipe_reaches_its_target(run_folder: Path) -> None:
    result = train(load_recipe("mnist-cnn"), out=run_folder, quiet=True)
    assert result.test_count == 10_000
    assert result.test_accuracy >= 0.989


def test_a_student_learns_from_the_folder_of_its_teacher(finished: Path, splits: Splits, tmp_path: Path) -> None:
    asked = load_recipe("digits-cnn", QUICK | {"objective.name": "distillation", "objective.teacher": str(finished)})
    result = train(asked, out=tmp_path / "student", data=splits, quiet=True)
    asked_of_it = tomllib.loads((result.folder / "run.toml").read_text(encoding="utf-8"))
    assert asked_of_it["models"]["teacher"] == load_model(str(finished)).fingerprint()
    assert asked_of_it["recipe"]["objective"] == {"name": "distillation", "teacher": str(finished)}
    assert "soft_loss" in timeless(result.folder)["epochs"][0]
    assert files.read_json(result.folder / "stamp.json")["hashes"]["teacher"] == asked_of_it["models"]["teacher"]


def test_another_teacher_is_another_run(finished: Path, splits: Splits, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    train(quick(epochs=1), out=teacher, data=splits, quiet=True)
    changes = QUICK | {"objective.name": "distillation", "objective.teacher": str(teacher)}
    train(load_recipe("digits-cnn", changes), out=tmp_path / "student", data=splits, quiet=True)
    shutil.rmtree(teacher)
    shutil.copytree(finished, teacher)
    with pytest.raises(InputError, match=r"cannot be resumed.*models\.teacher was"):
        train(load_recipe("digits-cnn", changes), out=tmp_path / "student", data=splits, resume=True, quiet=True)


@pytest.mark.parametrize(
    ("teacher", "sentence"),
    [("", "Distillation learns from a trained network"), ("nowhere", "the teacher 'nowhere' is no folder")],
)
def test_a_teacher_that_is_not_there_leaves_no_run(
    teacher: str, sentence: str, splits: Splits, run_folder: Path
) -> None:
    asked = load_recipe("digits-cnn", {"objective.name": "distillation", "objective.teacher": teacher})
    with pytest.raises(InputError, match=sentence):
        train(asked, out=run_folder, data=splits, quiet=True)
    assert not (run_folder / "run.toml").exists()


@pytest.mark.parametrize("by", ["pgd", "certificate"])
def test_a_robust_target_is_measured_on_the_first_test_images(by: str, splits: Splits, tmp_path: Path) -> None:
    due = {"threat": "linf:0.01", "at_least": 0.0, "by": by, "images": 20, "steps": 3}
    asked = load_recipe("digits-cnn", QUICK | {"robust_target": due})
    result = train(asked, out=tmp_path / "run", data=splits, quiet=True)
    record = timeless(result.folder)["robust_target"]
    assert (record["by"], record["count"]) == (by, 20)
    subject, first = result.subject(), splits.test.first(20)
    if by == "certificate":
        stood = certify(subject, first.x, first.y, "linf:0.01").certified
    else:
        found = attack(subject, first, PGD(steps=3, step_size=0.25), threat="linf:0.01").broken
        stood = ~found
    assert abs(record["accuracy"] - float(stood.float().mean())) <= 0.05
    assert result.robust_accuracy == record["accuracy"]
    assert result.met is (result.test_accuracy >= 0.97)


def test_a_robust_target_missed_is_a_target_missed(splits: Splits, tmp_path: Path) -> None:
    due = {"threat": "linf:0.5", "at_least": 1.0, "images": 20, "steps": 2}
    asked = load_recipe("digits-cnn", QUICK | {"robust_target": due, "target.at_least": 0.0})
    assert train(asked, out=tmp_path / "run", data=splits, quiet=True).met is False


def test_a_network_that_wants_to_see_the_images_first_is_shown_them(splits: Splits, tmp_path: Path) -> None:
    asked = load_recipe("digits-cnn", QUICK | {"model": "fast-cifar", "epochs": 1})
    wide = [functional.interpolate(each.x, scale_factor=2.0) for each in (splits.train, splits.validation, splits.test)]
    parts = zip((splits.train, splits.validation, splits.test), wide, strict=True)
    data = Splits(*(replace(part, x=x) for part, x in parts))
    result = train(asked, out=tmp_path / "run", data=data, quiet=True)
    weight = result.subject().module.get_parameter("whiten.weight")
    torch.testing.assert_close(weight[:4], whitening(data.train.x))
