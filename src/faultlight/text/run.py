"""`text train`: one recipe, one folder, losses in columns of their own."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

import faultlight
from faultlight import files, stamp
from faultlight.runtime import lock
from faultlight.text.corpus import Corpus, check_length, load_corpus
from faultlight.text.loop import Plan, fit
from faultlight.text.model import CharModel, build_model
from faultlight.text.recipe import TextRecipe
from faultlight.text.saved import load_text_model, save_text_model
from faultlight.text.state import TextState, restore, save, start
from faultlight.train import folder as place
from faultlight.train.numerics import check_device, steady
from faultlight.train.state import CHECKPOINT


@dataclass(frozen=True)
class TextResult:
    """What a training run on text came to; losses are in nats a character.

    Args:
        folder: where the records and the weights are.
        parameters: how many numbers were learnt.
        batch_loss: of the last batch.
        best_batch_loss: the lowest of the batches that stand in the record.
        train_loss: mean over the last steps, those since the last row but one of the record.
        held_out_loss: of the kept weights, on the part that training never saw.
        held_out_bits: the same in bits.
        held_out_count: characters held out.
        seconds: spent on training, over all resumptions.
        characters_per_second: read and learnt from.
        target: {"metric", "at_most"}, or None.
        met: whether the target was reached; None without one.
    """

    folder: Path
    parameters: int
    batch_loss: float
    best_batch_loss: float
    train_loss: float
    held_out_loss: float
    held_out_bits: float
    held_out_count: int
    seconds: float
    characters_per_second: float
    target: dict[str, Any] | None
    met: bool | None

    def model(self) -> CharModel:
        """Return the trained model, in evaluation mode."""
        return load_text_model(self.folder)


def train(
    recipe: TextRecipe,
    *,
    out: Path | str,
    corpus: Corpus | None = None,
    resume: bool = False,
    device: str = "cpu",
    quiet: bool = False,
) -> TextResult:
    """Train a character model by a recipe, and write the run's folder.

    The weights kept are those of the last step: nothing is chosen on the held-out text, so its loss is an honest one.

    Args:
        recipe: everything that is computed.
        out: the folder; it gets run.toml, stamp.json, model.json, model.safetensors and records/training.json.
        corpus: the divided text; None loads that of the recipe.
        resume: go on with the run in the folder, from its last checkpoint; where there is none, begin.
        device: "cpu", "cuda" or "cuda:1".
        quiet: show no progress.

    Raises:
        InputError: the folder holds another run or is in use, the text cannot be had or is too short, or the loss
            became NaN.
        KeyboardInterrupt: Ctrl-C was pressed; the state is kept and `resume` goes on from it.
    """
    out = Path(out)
    check_device(device)
    # Looked at before anything is written, so that a text that cannot be used leaves no folder that looks like a run.
    text = corpus or load_corpus(recipe.data, recipe.alphabet, recipe.held_out)
    check_length(text, recipe.chunk, recipe.batch if recipe.pieces == "streams" else 1)
    with lock(out):
        place.check_free(out, resume)
        place.say_anew(out, resume, quiet)
        place.clear_leftovers(out)
        content = _agree(out, _asked(recipe, text, device))
        if (out / place.RECORD).exists() and not (out / CHECKPOINT).exists():
            return _result(out, files.read_json(out / place.RECORD))
        state = start(build_model(text.alphabet, recipe.shape, recipe.seed).to(device), recipe)
        with steady(content["numerics"]["threads"]):
            return _train(Plan(recipe, text, partial(save, folder=out), device, quiet), out, state)


def _asked(recipe: TextRecipe, corpus: Corpus, device: str) -> dict[str, Any]:
    return {
        "schema": place.SCHEMA,
        "verb": "train",
        "faultlight": faultlight.__version__,
        "recipe": recipe.model_dump(exclude_none=True),
        "numerics": {"device": device, "threads": torch.get_num_threads()},
        "data": {"text": corpus.fingerprint, "characters": len(corpus.train), "held_out": len(corpus.held_out)},
    }


def _agree(out: Path, now: dict[str, Any]) -> dict[str, Any]:
    before = place.read_asked(out)
    if before is None:
        place.write_asked(out, now)
        return now
    place.check_same(out, before, now)
    return before


def _train(plan: Plan, out: Path, state: TextState) -> TextResult:
    began = time.monotonic()
    restore(state, out)
    fit(plan, state)
    save_text_model(out, state.model)
    record = _record(plan, state)
    files.write_json(out / place.RECORD, record)
    _stamp(plan, out, {"train": state.seconds, "all": time.monotonic() - began})
    # Last, because a run without a checkpoint but with a record is a finished one.
    (out / CHECKPOINT).unlink(missing_ok=True)
    return _result(out, record)


def _record(plan: Plan, state: TextState) -> dict[str, Any]:
    recipe, last = plan.recipe, state.history[-1]
    best = min(row["batch_loss"] for row in state.history)
    target = recipe.target.model_dump() if recipe.target else None
    reached = {"batch_loss": best, "held_out_loss": last["held_out_loss"]}
    return {
        "schema": place.SCHEMA,
        "kind": "text",
        "recipe": recipe.name,
        "parameters": state.model.parameter_count,
        "steps": state.history,
        "batch_loss": last["batch_loss"],
        "best_batch_loss": best,
        "train_loss": last["train_loss"],
        "held_out_loss": last["held_out_loss"],
        "held_out_bits": last["held_out_bits"],
        "held_out_count": len(plan.corpus.held_out),
        "seconds": round(state.seconds, 3),
        "characters_per_second": round(state.step * recipe.batch * recipe.chunk / max(state.seconds, 1e-9), 1),
        "target": target,
        "met": reached[target["metric"]] <= target["at_most"] if target else None,
    }


def _stamp(plan: Plan, out: Path, timings: dict[str, float]) -> None:
    hashes = {"data/text": plan.corpus.fingerprint, "model": files.sha256(out / "model.safetensors")}
    rounded = {name: round(seconds, 3) for name, seconds in timings.items()}
    record = stamp.collect(seed=plan.recipe.seed, device=plan.device, hashes=hashes, timings=rounded)
    files.write_json(out / "stamp.json", record)


def _result(out: Path, record: Mapping[str, Any]) -> TextResult:
    figures = {name: record[name] for name in TextResult.__dataclass_fields__ if name != "folder"}
    return TextResult(out, **figures)
