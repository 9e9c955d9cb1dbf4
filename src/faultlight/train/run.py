"""`train`: one recipe, one folder, one figure."""

from __future__ import annotations

import copy
import time
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import torch as safetensors
from torch import nn

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
from faultlight.train.flat import flat_layer, pass_straight
from faultlight.train.loop import Plan, fit
from faultlight.train.measure import withstood
from faultlight.train.memory import Splits, check_splits, load_splits, reside
from faultlight.train.numerics import Numerics, decide, steady
from faultlight.train.objectives import Objective, build, teacher
from faultlight.train.ranks import ALONE, Ranks
from faultlight.train.recipe import Recipe, flatten
from faultlight.train.result import TrainResult, record_of, result_of
from faultlight.train.state import CHECKPOINT, State, restore, save, share, start
from faultlight.train.tested import look, write_tested


def train(
    recipe: Recipe,
    *,
    out: Path | str,
    data: Splits | None = None,
    resume: bool = False,
    device: str = "cpu",
    quiet: bool = False,
    keep_epochs: Collection[int] = (),
    ranks: Ranks = ALONE,
) -> TrainResult:
    """Train a network of the zoo by a recipe, and write the run's folder.

    Args:
        recipe: everything that is computed, from `load_recipe` or built in code.
        out: the folder; it gets run.toml, stamp.json, model.json, model.safetensors, records and arrays.
        data: the three splits; None loads those of `recipe.data`.
        resume: go on with the run in the folder, from its last checkpoint; where there is none, begin.
        device: "cpu", "cuda" or "cuda:1"; of several processes "cpu" or "cuda".
        quiet: show no progress.
        keep_epochs: epochs after which the weights are kept as epochs/epoch-N.safetensors, 0 for the initial ones; it
            changes nothing of what is computed.
        ranks: the processes that share each batch, all of which call this; the first one alone writes.

    Returns:
        The figures; the test images were looked at once, after the checkpoint had been chosen on the validation images.

    Raises:
        InputError: the folder holds another run or is in use, the data or the network cannot be had, or the loss
            became NaN.
        KeyboardInterrupt: Ctrl-C was pressed; the state is kept and `resume` goes on from it.
    """
    out = Path(out)
    numerics = decide(recipe, ranks.device(device))
    with lock(out) if ranks.first else nullcontext():
        if ranks.first:
            place.check_free(out, resume)
            place.say_anew(out, resume, quiet)
            place.clear_leftovers(out)
        began = time.monotonic()
        with ranks.after_the_first():
            splits = check_splits(data) if data else load_splits(recipe.data, recipe.split_seed)
        # Built before anything is written, so that a misspelt name leaves no folder that looks like a run.
        family, objective = _family(recipe, splits.train), build(recipe)
        tutor = _tutor(objective, splits.train, numerics.device)
        module = numerics.place(_untrained(family, recipe, splits.train))
        pass_straight(module, flat_layer(objective), family.shape)
        state = start(module, recipe)
        models = {"teacher": tutor.fingerprint()} if tutor else {}
        asked = _asked(recipe, numerics, splits, models, ranks)
        content = ranks.told(_agree(out, asked) if ranks.first else {})
        record = ranks.told(_finished(out) if ranks.first else None)
        if record:
            return result_of(out, record)
        kept = frozenset(keep_epochs)
        shown = not quiet and ranks.first
        task = _Task(recipe, out, splits, numerics, family, content, not shown, kept, objective, tutor, ranks)
        with steady(_threads(content["numerics"], asked["numerics"])):
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
    ranks: Ranks


def _asked(
    recipe: Recipe, numerics: Numerics, splits: Splits, models: Mapping[str, str], ranks: Ranks
) -> dict[str, Any]:
    """Return what run.toml holds.

    Raises:
        InputError: the processes have not all been given the same.
    """
    # Each process has another GPU, but the run has them all.
    kind = numerics if ranks.alone else replace(numerics, device=numerics.device.partition(":")[0])
    now = place.asked(recipe, kind, splits.fingerprints(), torch.get_num_threads(), models)
    if not ranks.alone:
        now["numerics"]["processes"] = ranks.count
    due, found = flatten(ranks.told(now)), flatten(now)
    keys = [key for key in {**due, **found} if due.get(key) != found.get(key)]
    if keys:
        raise InputError(
            f"process {ranks.rank} differs from process 0 in {', '.join(keys)}; give all of them the same "
            f"recipe, data, kind of machine and OMP_NUM_THREADS."
        )
    return now


def _threads(before: Mapping[str, Any], now: Mapping[str, Any]) -> int:
    """Return those that the run began with, if as many processes share the machine now as then."""
    same = before.get("processes") == now.get("processes")
    return int((before if same else now)["threads"])


def _finished(out: Path) -> dict[str, Any] | None:
    if (out / CHECKPOINT).exists() or not (out / place.RECORD).exists():
        return None
    record: dict[str, Any] = files.read_json(out / place.RECORD)
    return record


def _agree(out: Path, now: dict[str, Any]) -> dict[str, Any]:
    before = place.read_asked(out)
    if before is None:
        place.write_asked(out, now)
        return now
    place.check_same(out, before, now)
    return before


def _train(task: _Task, state: State, loading: float) -> TrainResult:
    if task.ranks.first:
        restore(state, task.out)
    share(state, task.ranks)
    _keep_epoch(task, state)
    fit(_plan(task), state)
    # The others wait here while the first one tests.
    return result_of(task.out, task.ranks.told(_end(task, state, loading) if task.ranks.first else {}))


def _end(task: _Task, state: State, loading: float) -> dict[str, Any]:
    """Write what the run ends with, and return its record."""
    began = time.monotonic()
    module = _chosen(task.family, state)
    subject = Subject(module, len(task.splits.test.classes), device=task.numerics.device)
    tested = look(subject, task.splits.test)
    record = record_of(task.recipe, state, tested.confusion, _robustness(module, task))
    record |= {} if task.ranks.alone else {"processes": task.ranks.count}
    save_model(task.out, task.recipe.model, task.family, module)
    write_tested(task.out, tested, subject, task.splits.test, len(task.splits.validation))
    files.write_json(task.out / place.RECORD, record)
    _stamp(task, {"load": loading, "train": record["seconds"], "test": time.monotonic() - began})
    (task.out / place.HISTORY).unlink(missing_ok=True)
    # Last, because a run without a checkpoint but with a record is a finished one.
    (task.out / CHECKPOINT).unlink()
    return record


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
        ranks=task.ranks,
    )


def _keep(task: _Task, state: State) -> None:
    if not task.ranks.first:
        return
    _keep_epoch(task, state)
    save(state, task.out)
    if state.step == 0:
        # For whoever watches a run that goes on; the state is what it goes on from.
        files.write_json(task.out / place.HISTORY, {"schema": place.SCHEMA, "epochs": state.history})


def _keep_epoch(task: _Task, state: State) -> None:
    """Write the weights of an epoch that has just ended, or of the start, where they are to be kept."""
    if task.ranks.first and state.step == 0 and state.epoch in task.keep_epochs:
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


def _robustness(module: nn.Module, task: _Task) -> dict[str, Any] | None:
    target = task.recipe.robust_target
    if target is None:
        return None
    lent, flat = copy.deepcopy(module), flat_layer(task.objective)
    pass_straight(lent, flat, task.family.shape)
    subject = Subject(lent, task.family.classes, device=task.numerics.device)
    stood = withstood(subject, task.splits.test, target, task.recipe.seed)
    found = {"accuracy": int(stood.sum()) / len(stood), "count": len(stood)}
    return {**target.model_dump(), **found, "straight_through": flat}


def _stamp(task: _Task, timings: dict[str, float]) -> None:
    hashes = {f"data/{name}": value for name, value in task.asked["data"].items()}
    hashes |= task.asked["models"]
    hashes["model"] = files.read_json(task.out / MODEL)["weights_sha256"]
    rounded = {name: round(seconds, 3) for name, seconds in timings.items()}
    record = stamp.collect(seed=task.recipe.seed, device=task.numerics.device, hashes=hashes, timings=rounded)
    record |= {} if task.ranks.alone else {"processes": task.ranks.count}
    files.write_json(task.out / "stamp.json", record)
