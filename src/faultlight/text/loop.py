"""The loop that trains a character model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from faultlight import rng
from faultlight.errors import InputError
from faultlight.progress import Progress
from faultlight.text.corpus import Corpus, random_chunks, stream_chunks
from faultlight.text.measure import bits, held_out_loss
from faultlight.text.recipe import TextRecipe
from faultlight.text.shards import Shards, shards
from faultlight.text.state import TextState
from faultlight.train.interrupt import Interrupt, held_interrupt
from faultlight.train.schedule import learning_rate

_SAVE_EVERY_SECONDS = 30.0
_CHECK_EVERY_STEPS = 25


@dataclass(frozen=True)
class Plan:
    """Everything that stays the same while a run goes on.

    Args:
        recipe: everything asked.
        corpus: the divided text.
        keep: called with the state at the beginning, every half minute and on Ctrl-C; never with NaN in it.
        device: "cpu", "cuda" or "cuda:1".
        quiet: show no progress.
    """

    recipe: TextRecipe
    corpus: Corpus
    keep: Callable[[TextState], None]
    device: str = "cpu"
    quiet: bool = False


def fit(plan: Plan, state: TextState) -> None:
    """Train from where the state stands to the last step, changing the state in place.

    Pieces, noise and dropout are pure functions of (seed, step), so a run that goes on from a kept state computes the
    very numbers of an unbroken one.

    Raises:
        InputError: the loss or a weight became NaN or infinite; the state kept last is from before that.
        KeyboardInterrupt: Ctrl-C was pressed; the state was kept.
    """
    recipe = plan.recipe
    gpus = [] if plan.device == "cpu" else [plan.device]
    with (
        held_interrupt() as interrupt,
        torch.random.fork_rng(devices=gpus),
        Progress(f"train {recipe.name}", recipe.steps, plan.quiet) as progress,
        shards(torch.get_num_threads(), plan.device, recipe.shape) as workers,
    ):
        if not state.step:
            plan.keep(state)
        kept = time.monotonic()
        state.model.train()
        while state.step < recipe.steps:
            began = time.monotonic()
            _step(plan, state, workers)
            state.seconds += time.monotonic() - began
            _record(plan, state, progress)
            if interrupt.asked or time.monotonic() - kept > _SAVE_EVERY_SECONDS:
                _keep(plan, state, interrupt)
                kept = time.monotonic()


def noisy(
    x: Int64[Tensor, "b t"], rate: float, used: Int64[Tensor, " u"], seed: int, step: int
) -> Int64[Tensor, "b t"]:
    """Return characters of which a share was replaced by others, drawn evenly from those in use.

    Args:
        x: characters as numbers.
        rate: the chance that a character is drawn anew, in [0, 1); what is drawn may be the same character.
        used: the numbers to draw from.
        seed: with `step`, decides every draw.
        step: of the run.
    """
    if not rate:
        return x
    rows, steps = torch.arange(len(x)), torch.full((len(x),), step)
    chance = rng.uniform(rng.key(seed, "noise"), rows, steps, (2, x.shape[1]))
    drawn = used[(chance[:, 1] * len(used)).long()]
    return torch.where(chance[:, 0] < rate, drawn, x)


def _step(plan: Plan, state: TextState, workers: Shards) -> None:
    recipe, step = plan.recipe, state.step
    piece = _piece(plan, state)
    given = noisy(piece[:, :-1], recipe.noise, plan.corpus.used, recipe.seed, step).to(plan.device)
    _seed(plan.device, rng.key(recipe.seed, "network", step) >> 1)
    loss, after = workers.gradient(state.model, given, piece[:, 1:].to(plan.device), state.carried or None)
    _descend(recipe, state)
    if recipe.pieces == "streams":
        state.carried = after
    state.batch_loss = loss
    state.total += state.batch_loss.double()
    state.step, state.since = step + 1, state.since + 1


def _piece(plan: Plan, state: TextState) -> Tensor:
    recipe, numbers = plan.recipe, plan.corpus.train
    if recipe.pieces == "random":
        return random_chunks(numbers, recipe.batch, recipe.chunk, recipe.seed, state.step)
    piece, begins = stream_chunks(numbers, recipe.batch, recipe.chunk, recipe.seed, state.step)
    if begins:
        state.carried = ()
    return piece


def _descend(recipe: TextRecipe, state: TextState) -> None:
    rate = learning_rate(recipe.schedule, recipe.optimiser.lr, state.step, recipe.steps)
    for group in state.optimiser.param_groups:
        group["lr"] = rate
    if recipe.clip:
        nn.utils.clip_grad_norm_(state.model.parameters(), recipe.clip)
    state.optimiser.step()
    state.optimiser.zero_grad()


def _record(plan: Plan, state: TextState, progress: Progress) -> None:
    """Look at the loss now and then, and add a row to the record where one is due."""
    recipe = plan.recipe
    due = state.step % recipe.record_every == 0 or state.step == recipe.steps
    if not due and state.step % _CHECK_EVERY_STEPS:
        return
    _check_finite(state, recipe)
    batch = float(state.batch_loss)
    if due:
        held_out = held_out_loss(state.model, plan.corpus.held_out)
        if not math.isfinite(held_out):
            raise _diverged(state, recipe)
        row = {"step": state.step, "batch_loss": batch, "train_loss": float(state.total) / state.since}
        row |= {"held_out_loss": held_out, "held_out_bits": bits(held_out)}
        row |= {"lr": state.optimiser.param_groups[0]["lr"], "seconds": round(state.seconds, 3)}
        state.history.append(row)
        state.total, state.since = torch.zeros_like(state.total), 0
    last = state.history[-1] if state.history else None
    seen = f" · held out {last['held_out_loss']:.4f} nats ({last['held_out_bits']:.3f} bits)" if last else ""
    progress.update(state.step, f"batch {batch:.4f} nats{seen}")


def _keep(plan: Plan, state: TextState, interrupt: Interrupt) -> None:
    _check_finite(state, plan.recipe)
    plan.keep(state)
    if interrupt.asked:
        raise KeyboardInterrupt


def _check_finite(state: TextState, recipe: TextRecipe) -> None:
    if not state.is_finite():
        raise _diverged(state, recipe)


def _diverged(state: TextState, recipe: TextRecipe) -> InputError:
    return InputError(
        f"the loss or a weight became NaN or infinite by step {state.step:,} of {recipe.steps:,}, at learning rate "
        f"{state.optimiser.param_groups[0]['lr']:.3g}; lower optimiser.lr or set clip = 1.0; the state kept last, from "
        f"before that, stays as it is."
    )


def _seed(device: str, key: int) -> None:
    torch.default_generator.manual_seed(key)
    if device != "cpu":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(key)
