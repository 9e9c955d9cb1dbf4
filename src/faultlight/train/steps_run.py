"""The folder of a run that counts steps: what was asked, its checkpoint, its weights, and the records it ends with."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from safetensors import torch as safetensors
from torch import nn

import faultlight
from faultlight import files, stamp
from faultlight.errors import InputError
from faultlight.models.saved import RECORD as MODEL
from faultlight.models.saved import WEIGHTS
from faultlight.models.weights import load_weights
from faultlight.runtime import lock
from faultlight.train import folder as place
from faultlight.train.numerics import check_device, steady
from faultlight.train.state import CHECKPOINT
from faultlight.train.steps import Diverged, StepPlan, StepState, fit, restore, save

SCHEMA = 1


@dataclass(frozen=True)
class StepRun:
    """What is trained, and what is left behind.

    Args:
        kind: a word for the records, such as "gan"; a folder of one kind is never taken for another.
        recipe: everything that was asked; it goes into run.toml.
        data: fingerprints of what is learnt from, by name.
        plan: how the loop goes; its `keep` is the folder's.
        start: makes the state before the first step.
        weights: writes the weights into the folder (`save_weights`): at the end, or the last ones without NaN.
        finish: writes whatever else the folder gets, and returns figures for the record.
    """

    kind: str
    recipe: BaseModel
    data: Mapping[str, Any]
    plan: StepPlan
    start: Callable[[], StepState]
    weights: Callable[[StepState, Path], None]
    finish: Callable[[StepState, Path], dict[str, Any]]


def run_in_folder(run: StepRun, out: Path, resume: bool) -> dict[str, Any]:
    """Train within a folder, and return what records/training.json holds; a finished run is only read.

    Args:
        run: what is trained.
        out: the folder; it gets run.toml, stamp.json, records/training.json and what `weights` and `finish` write.
        resume: go on with the run in the folder, from its last checkpoint; where there is none, begin.

    Raises:
        InputError: the folder holds another run or is in use, the device is not there, or a loss became NaN; the
            weights of the state kept before that are then in the folder, with "stopped_at" in model.json.
        KeyboardInterrupt: Ctrl-C was pressed; the state is kept and `resume` goes on from it.
    """
    check_device(run.plan.device)
    with lock(out):
        place.check_free(out, resume)
        place.say_anew(out, resume, run.plan.quiet)
        place.clear_leftovers(out)
        content = _agree(out, _asked(run))
        if (out / place.RECORD).exists() and not (out / CHECKPOINT).exists():
            record: dict[str, Any] = files.read_json(out / place.RECORD)
            return record
        with steady(content["numerics"]["threads"]):
            return _train(run, out)


def save_weights(folder: Path, kind: str, module: nn.Module, facts: Mapping[str, Any]) -> None:
    """Write a network into a folder, the weights first.

    Args:
        folder: where to.
        kind: what it is, such as "gan".
        module: the network.
        facts: what it must be built with before the weights fit; it goes into model.json.
    """
    weights = {key: value.detach().cpu().contiguous().clone() for key, value in module.state_dict().items()}
    files.write_bytes(folder / WEIGHTS, safetensors.save(weights))
    record = {"schema": SCHEMA, "kind": kind, **facts, "weights_sha256": files.sha256(folder / WEIGHTS)}
    files.write_json(folder / MODEL, record)


def read_facts(folder: Path, kind: str, needed: set[str]) -> dict[str, Any]:
    """Return what a network of this kind was built with.

    Raises:
        InputError: the folder holds no such network, or its weights are not those that model.json was written with.
    """
    made_by = f"`faultlight {kind} train`"
    if not (folder / MODEL).is_file():
        raise InputError(f"the folder {folder} holds no {MODEL}, so no network that {made_by} wrote; check its path.")
    record = files.read_json(folder / MODEL)
    if not isinstance(record, dict) or record.get("kind") != kind or record.get("schema") != SCHEMA:
        raise InputError(f"{folder} holds no network that {made_by} wrote; give a folder that it did.")
    lacking = needed - record.keys()
    if lacking:
        raise InputError(f"{folder / MODEL} lacks {', '.join(sorted(lacking))}; train again.")
    _check_weights(folder, str(record.get("weights_sha256")))
    return record


def fill_weights(module: nn.Module, folder: Path) -> nn.Module:
    """Put the folder's weights into a network that was built as model.json says, and return it for evaluation."""
    load_weights(module, folder / WEIGHTS)
    return module.eval()


def _check_weights(folder: Path, due: str) -> None:
    found = files.sha256(folder / WEIGHTS) if (folder / WEIGHTS).is_file() else "no file"
    if found != due:
        raise InputError(
            f"{folder / WEIGHTS} is not what {MODEL} was written with (SHA-256 {found[:12]} where {due[:12]} is due); "
            f"train again."
        )


def _asked(run: StepRun) -> dict[str, Any]:
    return {
        "schema": place.SCHEMA,
        "verb": "train",
        "faultlight": faultlight.__version__,
        "recipe": run.recipe.model_dump(exclude_none=True),
        "numerics": {"device": run.plan.device, "threads": torch.get_num_threads()},
        "data": dict(run.data),
    }


def _agree(out: Path, now: dict[str, Any]) -> dict[str, Any]:
    before = place.read_asked(out)
    if before is None:
        place.write_asked(out, now)
        return now
    place.check_same(out, before, now)
    return before


def _train(run: StepRun, out: Path) -> dict[str, Any]:
    began, state = time.monotonic(), run.start()
    restore(state, out)
    try:
        fit(replace(run.plan, keep=partial(save, folder=out)), state)
    except Diverged as error:
        raise InputError(f"{error}; {_leave_kept(run, state, out)}.") from None
    run.weights(state, out)
    record = {
        "schema": place.SCHEMA,
        "kind": run.kind,
        "recipe": run.plan.name,
        "steps": state.history,
        "seconds": round(state.seconds, 3),
        "steps_per_second": round(state.step / max(state.seconds, 1e-9), 3),
        **run.finish(state, out),
    }
    files.write_json(out / place.RECORD, record)
    _stamp(run, out, {"train": state.seconds, "all": time.monotonic() - began})
    # Last, because a run without a checkpoint but with a record is a finished one.
    (out / CHECKPOINT).unlink(missing_ok=True)
    return record


def _leave_kept(run: StepRun, state: StepState, out: Path) -> str:
    """Write the weights of the state kept last, which has no NaN in it, and return what is left of the run."""
    restore(state, out)
    if not state.step:
        return "nothing that was learnt before that was kept"
    run.weights(state, out)
    files.write_json(out / MODEL, files.read_json(out / MODEL) | {"stopped_at": state.step})
    return f"the weights of step {state.step:,}, from before that, are in {out} and can be used"


def _stamp(run: StepRun, out: Path, timings: Mapping[str, float]) -> None:
    hashes = {f"data/{name}": str(value) for name, value in run.data.items()}
    if (out / WEIGHTS).is_file():
        hashes["model"] = files.sha256(out / WEIGHTS)
    rounded = {name: round(seconds, 3) for name, seconds in timings.items()}
    record = stamp.collect(seed=run.plan.seed, device=run.plan.device, hashes=hashes, timings=rounded)
    files.write_json(out / "stamp.json", record)
