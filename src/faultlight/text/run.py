"""`text train`: one recipe, one folder, losses in columns of their own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from faultlight.text.corpus import Corpus, check_length, load_corpus
from faultlight.text.model import CharModel, build_model
from faultlight.text.recipe import TextRecipe
from faultlight.text.saved import KIND, load_text_model, save_text_model
from faultlight.text.step import Lesson, model_of, said
from faultlight.train.numerics import check_device
from faultlight.train.steps import StepPlan, StepState, build_optimiser
from faultlight.train.steps_run import StepRun, run_in_folder


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
    # Looked at before anything is written, so that a text that cannot be used leaves no folder that looks like a run.
    check_device(device)
    text = corpus or load_corpus(recipe.data, recipe.alphabet, recipe.held_out)
    check_length(text, recipe.chunk, recipe.batch if recipe.pieces == "streams" else 1)
    lesson = Lesson(recipe, text, device)

    def begin() -> StepState:
        model = build_model(text.alphabet, recipe.shape, recipe.seed).to(device)
        return StepState({"model": model}, {"model": build_optimiser(recipe.optimiser, model.parameters())})

    pace = (recipe.name, recipe.steps, recipe.seed, recipe.record_every)
    plan = StepPlan(
        *pace,
        lesson.step,
        lesson.record,
        around=lesson.working,
        say=said,
        device=device,
        quiet=quiet,
        advice="lower optimiser.lr or set clip = 1.0",
    )
    asked = StepRun(KIND, recipe, {"text": text.fingerprint}, plan, begin, _save, partial(_finish, lesson))
    record = run_in_folder(asked, Path(out), resume)
    figures = {name: record[name] for name in TextResult.__dataclass_fields__ if name != "folder"}
    return TextResult(Path(out), **figures)


def _save(state: StepState, out: Path) -> None:
    save_text_model(out, model_of(state))


def _finish(lesson: Lesson, state: StepState, _out: Path) -> dict[str, Any]:
    recipe, model, last = lesson.recipe, model_of(state), state.history[-1]
    best = min(row["batch_loss"] for row in state.history)
    target = recipe.target.model_dump() if recipe.target else None
    reached = {"batch_loss": best, "held_out_loss": last["held_out_loss"]}
    return {
        "parameters": model.parameter_count,
        "batch_loss": last["batch_loss"],
        "best_batch_loss": best,
        "train_loss": last["train_loss"],
        "held_out_loss": last["held_out_loss"],
        "held_out_bits": last["held_out_bits"],
        "held_out_count": len(lesson.corpus.held_out),
        "characters_per_second": round(state.step * recipe.batch * recipe.chunk / max(state.seconds, 1e-9), 1),
        "target": target,
        "met": reached[target["metric"]] <= target["at_most"] if target else None,
    }
