"""`train`: one recipe, one folder, one figure."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import torch as safetensors
from torch import Tensor, nn

from faultlight import files, stamp
from faultlight.data.images import Images
from faultlight.errors import InputError
from faultlight.models import zoo
from faultlight.models.load import load_model
from faultlight.models.saved import RECORD as MODEL
from faultlight.models.saved import save_model
from faultlight.models.subject import Subject
from faultlight.runtime import lock
from faultlight.train import folder as place
from faultlight.train.loop import Plan, fit
from faultlight.train.measure import withstood
from faultlight.train.memory import Splits, check_splits, load_splits, reside
from faultlight.train.numerics import Numerics, decide, steady
from faultlight.train.objectives import Objective, build, teacher
from faultlight.train.recipe import Recipe
from faultlight.train.state import CHECKPOINT, State, restore, save, start
from faultlight.train.tested import look, write_tested


@dataclass(frozen=True)
class TrainResult:
    """What a training run came to.

    Args:
        folder: where the records and the weights are.
        test_accuracy: share of the test images classified correctly, in float32.
        test_count: how many test images there are.
        best_epoch: the epoch, from 1, whose weights were kept.
        validation_accuracy: of that epoch.
        seconds: spent on training, over all resumptions.
        target: the figure the recipe has to reach, or None.
        met: whether every target was reached; None without one.
        robust_accuracy: share of the first test images that withstood what the robust target asks, if there is one.
        robust_target: the figure the recipe has to reach there, or None.
    """

    folder: Path
    test_accuracy: float
    test_count: int
    best_epoch: int
    validation_accuracy: float
    seconds: float
    target: float | None
    met: bool | None
    robust_accuracy: float | None = None
    robust_target: float | None = None

    def subject(self) -> Subject:
        """Return the trained network, ready to be tested."""
        return load_model(str(self.folder))


def train(
    recipe: Recipe,
    *,
    out: Path | str,
    data: Splits | None = None,
    resume: bool = False,
    device: str = "cpu",
    quiet: bool = False,
    keep_epochs: Collection[int] = (),
) -> TrainResult:
    """Train a network of the zoo by a recipe, and write the run's folder.

    Args:
        recipe: everything that is computed, from `load_recipe` or built in code.
        out: the folder; it gets run.toml, stamp.json, model.json, model.safetensors, records and arrays.
        data: the three splits; None loads those of `recipe.data`.
        resume: go on with the run in the folder, from its last checkpoint; where there is none, begin.
        device: "cpu", "cuda" or "cuda:1".
        quiet: show no progress.
        keep_epochs: epochs after which the weights are kept as epochs/epoch-N.safetensors, 0 for the initial ones; it
            changes nothing of what is computed.

    Returns:
        The figures; the test images were looked at once, after the checkpoint had been chosen on the validation images.

    Raises:
        InputError: the folder holds another run or is in use, the data or the network cannot be had, or the loss
            became NaN.
        KeyboardInterrupt: Ctrl-C was pressed; the state is kept and `resume` goes on from it.
    """
    out = Path(out)
    numerics = decide(recipe, device)
    with lock(out):
        place.check_free(out, resume)
        place.clear_leftovers(out)
        began = time.monotonic()
        splits = check_splits(data) if data else load_splits(recipe.data, recipe.split_seed)
        # Built before anything is written, so that a misspelt name leaves no folder that looks like a run.
        family, objective = _family(recipe, splits.train), build(recipe)
        tutor = _tutor(objective, splits.train, device)
        state = start(numerics.place(_untrained(family, recipe, splits.train)), recipe)
        models = {"teacher": tutor.fingerprint()} if tutor else {}
        now = place.asked(recipe, numerics, splits.fingerprints(), torch.get_num_threads(), models)
        content = _agree(out, now)
        if (out / place.RECORD).exists() and not (out / CHECKPOINT).exists():
            return _result(out, files.read_json(out / place.RECORD))
        task = _Task(recipe, out, splits, numerics, family, content, quiet, frozenset(keep_epochs), objective, tutor)
        with steady(content["numerics"]["threads"]):
            return _train(task, state, time.monotonic() - began)


@dataclass(frozen=True)
class _Task:
    recipe: Recipe
    out: Path
    splits: Splits
    numerics: Numerics
    family: zoo.Family
    asked: dict[str, Any]
    quiet: bool
    keep_epochs: frozenset[int]
    objective: Objective
    tutor: Subject | None


def _agree(out: Path, now: dict[str, Any]) -> dict[str, Any]:
    before = place.read_asked(out)
    if before is None:
        place.write_asked(out, now)
        return now
    place.check_same(out, before, now)
    return before


def _train(task: _Task, state: State, loading: float) -> TrainResult:
    restore(state, task.out)
    _keep_epoch(task, state)
    fit(_plan(task), state)
    began = time.monotonic()
    module = _chosen(task.family, state)
    subject = Subject(module, len(task.splits.test.classes), device=task.numerics.device)
    tested = look(subject, task.splits.test)
    record = _record(task.recipe, state, tested.confusion, _robustness(subject, task))
    save_model(task.out, task.recipe.model, task.family, module)
    write_tested(task.out, tested, subject, task.splits.test, len(task.splits.validation))
    files.write_json(task.out / place.RECORD, record)
    _stamp(task, {"load": loading, "train": record["seconds"], "test": time.monotonic() - began})
    (task.out / place.HISTORY).unlink(missing_ok=True)
    # Last, because a run without a checkpoint but with a record is a finished one.
    (task.out / CHECKPOINT).unlink()
    return _result(task.out, record)


def _plan(task: _Task) -> Plan:
    device = task.numerics.device
    return Plan(
        recipe=task.recipe,
        objective=task.objective,
        numerics=task.numerics,
        train=reside(task.splits.train, device),
        validation=reside(task.splits.validation, device),
        keep=partial(_keep, task),
        quiet=task.quiet,
        teacher=task.tutor,
    )


def _keep(task: _Task, state: State) -> None:
    _keep_epoch(task, state)
    save(state, task.out)
    if state.step == 0:
        # For whoever watches a run that goes on; the state is what it goes on from.
        files.write_json(task.out / place.HISTORY, {"schema": place.SCHEMA, "epochs": state.history})


def _keep_epoch(task: _Task, state: State) -> None:
    """Write the weights of an epoch that has just ended, or of the start, where they are to be kept."""
    if state.step == 0 and state.epoch in task.keep_epochs:
        weights = {name: value.detach().cpu().contiguous().clone() for name, value in state.judged.state_dict().items()}
        files.write_bytes(task.out / place.EPOCHS / f"epoch-{state.epoch:04}.safetensors", safetensors.save(weights))


def _family(recipe: Recipe, images: Images) -> zoo.Family:
    channels, height, width = images.x.shape[1:]
    return zoo.family(recipe.model, classes=len(images.classes), shape=(channels, height, width), **recipe.options)


def _untrained(family: zoo.Family, recipe: Recipe, images: Images) -> nn.Module:
    module = zoo.build_family(family, recipe.seed)
    prepare = getattr(family, "prepare", None)
    if prepare:
        prepare(module, images.x)
    return module


def _tutor(objective: Objective, images: Images, device: str) -> Subject | None:
    """Return the teacher that an objective names, once it has taken two images."""
    folder = teacher(objective)
    if folder is None:
        return None
    if not Path(folder).is_dir():
        raise InputError(
            f"the teacher {folder!r} is no folder made by `faultlight train`; train one, or mend its path."
        )
    found = load_model(folder, classes=len(images.classes), device=device)
    with torch.no_grad():
        found(images.x[:2].to(device))
    return found


def _chosen(family: zoo.Family, state: State) -> nn.Module:
    assert state.best is not None, "no epoch was finished"
    module = zoo.build_family(family)
    module.load_state_dict(state.best.weights)
    return module.eval()


def _robustness(subject: Subject, task: _Task) -> dict[str, Any] | None:
    target = task.recipe.robust_target
    if target is None:
        return None
    stood = withstood(subject, task.splits.test, target, task.recipe.seed)
    return {**target.model_dump(), "accuracy": int(stood.sum()) / len(stood), "count": len(stood)}


def _record(recipe: Recipe, state: State, confusion: Tensor, robustness: dict[str, Any] | None) -> dict[str, Any]:
    assert state.best is not None, "no epoch was finished"
    accuracy = int(confusion.diagonal().sum()) / int(confusion.sum())
    return {
        "schema": place.SCHEMA,
        "recipe": recipe.name,
        "epochs": state.history,
        "guards": state.guards,
        "best_epoch": state.best.epoch,
        "validation_accuracy": state.best.accuracy,
        "seconds": round(sum(part["seconds"] for part in [*state.history, *state.guards]), 3),
        "test_accuracy": accuracy,
        "test_count": int(confusion.sum()),
        "target": recipe.target.model_dump() if recipe.target else None,
        "robust_target": robustness,
        "met": _met(recipe, accuracy, robustness),
        "confusion": confusion.tolist(),
    }


def _met(recipe: Recipe, accuracy: float, robustness: Mapping[str, Any] | None) -> bool | None:
    reached = [accuracy >= recipe.target.at_least] if recipe.target else []
    reached += [robustness["accuracy"] >= robustness["at_least"]] if robustness else []
    return all(reached) if reached else None


def _stamp(task: _Task, timings: dict[str, float]) -> None:
    hashes = {f"data/{name}": value for name, value in task.asked["data"].items()}
    hashes |= task.asked["models"]
    hashes["model"] = files.read_json(task.out / MODEL)["weights_sha256"]
    rounded = {name: round(seconds, 3) for name, seconds in timings.items()}
    record = stamp.collect(seed=task.recipe.seed, device=task.numerics.device, hashes=hashes, timings=rounded)
    files.write_json(task.out / "stamp.json", record)


def _result(out: Path, record: Mapping[str, Any]) -> TrainResult:
    target = record["target"]["at_least"] if record["target"] else None
    figures = {name: record[name] for name in ("test_accuracy", "test_count", "best_epoch", "validation_accuracy")}
    robust = record.get("robust_target") or {"accuracy": None, "at_least": None}
    return TrainResult(
        out,
        **figures,
        seconds=record["seconds"],
        target=target,
        met=record["met"],
        robust_accuracy=robust["accuracy"],
        robust_target=robust["at_least"],
    )
