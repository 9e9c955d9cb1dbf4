"""The one training loop; what is minimised comes as a function."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from faultlight import rng
from faultlight.errors import InputError
from faultlight.progress import Progress
from faultlight.train.augment import augment
from faultlight.train.average import follow, gather, gathered, renew_statistics
from faultlight.train.interrupt import Interrupt, held_interrupt
from faultlight.train.memory import Resident, shuffle
from faultlight.train.numerics import Numerics
from faultlight.train.objectives import Batch, Context, Objective, Teacher, replays
from faultlight.train.recipe import Recipe
from faultlight.train.schedule import learning_rate
from faultlight.train.state import Best, State

# Writing the state costs a few hundredths of a second for a small network and a second for a large one.
_SAVE_EVERY_SECONDS = 30.0
_CHECK_EVERY_STEPS = 50
_VALIDATION_BATCH = 500


@dataclass(frozen=True)
class Plan:
    """Everything that stays the same while a run goes on.

    Args:
        recipe: everything asked.
        objective: what is minimised.
        numerics: how it is computed.
        train: the images to learn from.
        validation: the images to choose the checkpoint on.
        keep: called with the state at the end of each epoch, every half minute within one, and on Ctrl-C.
        quiet: show no progress.
        teacher: the network that the objective learns from, if any.
    """

    recipe: Recipe
    objective: Objective
    numerics: Numerics
    train: Resident
    validation: Resident
    keep: Callable[[State], None]
    quiet: bool = False
    teacher: Teacher | None = None

    @property
    def steps(self) -> int:
        """Steps an epoch; images that fill no batch wait for the next shuffle."""
        return max(len(self.train) // self.recipe.batch, 1) * replays(self.objective)


@dataclass
class _Clock:
    """Time since the last look, and since the state was last kept."""

    last: float = field(default_factory=time.monotonic)
    kept: float = field(default_factory=time.monotonic)

    def tick(self) -> float:
        now = time.monotonic()
        passed, self.last = now - self.last, now
        return passed

    def is_due(self) -> bool:
        return self.last - self.kept > _SAVE_EVERY_SECONDS


def fit(plan: Plan, state: State) -> None:
    """Train from where the state stands to the last epoch, changing the state in place.

    Shuffles, augmentation and whatever the network draws are pure functions of (seed, epoch, step), so a run that
    goes on from a kept state computes the very numbers of an unbroken one.

    Raises:
        InputError: the loss or a weight became NaN or infinite; the state kept last is from before that.
        KeyboardInterrupt: Ctrl-C was pressed; the state was kept.
    """
    total = plan.recipe.epochs * plan.steps
    with (
        held_interrupt() as interrupt,
        torch.random.fork_rng(devices=plan.numerics.gpus()),
        Progress(f"train {plan.recipe.name}", total, plan.quiet) as progress,
    ):
        while state.epoch < plan.recipe.epochs:
            clock = _Clock()
            _epoch(plan, state, interrupt, progress, clock)
            _finish_epoch(plan, state, clock)
            plan.keep(state)
            if interrupt.asked:
                raise KeyboardInterrupt


def accuracy_and_loss(model: nn.Module, images: Resident, numerics: Numerics) -> tuple[float, float]:
    """Return the share of images classified correctly, and the mean cross-entropy, in float32 and evaluation mode."""
    model.eval()
    right, loss = 0, 0.0
    with torch.no_grad():
        for rows in torch.split(torch.arange(len(images)), _VALIDATION_BATCH):
            x, y = images.take(rows)
            logits = model(numerics.lay(x))
            right += int((logits.argmax(1) == y).sum())
            loss += float(functional.cross_entropy(logits, y, reduction="sum"))
    return right / len(images), loss / len(images)


def _epoch(plan: Plan, state: State, interrupt: Interrupt, progress: Progress, clock: _Clock) -> None:
    order = shuffle(len(plan.train), plan.recipe.seed, state.epoch)
    state.model.train()
    while state.step < plan.steps:
        _step(plan, state, order)
        state.seconds += clock.tick()
        if interrupt.asked or clock.is_due():
            _check_finite(plan, state)
            plan.keep(state)
            clock.kept = clock.last
        if interrupt.asked:
            raise KeyboardInterrupt
        if state.step % _CHECK_EVERY_STEPS == 0 or state.step == plan.steps:
            _check_finite(plan, state)
            progress.update(state.epoch * plan.steps + state.step, _note(plan, state))


def _step(plan: Plan, state: State, order: Tensor) -> None:
    recipe = plan.recipe
    turn = state.step // replays(plan.objective)
    rows = order[turn * recipe.batch : (turn + 1) * recipe.batch]
    x, y = plan.train.take(rows)
    x = plan.numerics.lay(augment(x, recipe.augment, recipe.seed, state.epoch, turn))
    # Layers that draw at random, such as dropout, do so from the global generator.
    plan.numerics.seed(rng.key(recipe.seed, "network", state.epoch, state.step) >> 1)
    place = Context(recipe, state.epoch, state.step, plan.steps, state.memory, plan.teacher)
    with plan.numerics.autocast():
        loss, metrics = plan.objective(state.model, Batch(x, y, rows.to(y.device)), place)
    loss.backward()  # type: ignore[no-untyped-call]
    _descend(plan, state)
    for name, value in {"train_loss": loss, **metrics}.items():
        state.sums[name] = state.sums.get(name, 0.0) + value.detach().double()
    state.step += 1


def _descend(plan: Plan, state: State) -> None:
    recipe = plan.recipe
    done = state.epoch * plan.steps + state.step
    rate = learning_rate(recipe.schedule, recipe.optimiser.lr, done, recipe.epochs * plan.steps)
    for group in state.optimiser.param_groups:
        group["lr"] = rate
    state.optimiser.step()
    state.optimiser.zero_grad()
    if state.average and recipe.ema:
        # The decay is small at first, or the average would remember the random start for 1/(1 − decay) steps.
        follow(state.average, state.model, min(recipe.ema, (1 + done) / (10 + done)))


def _gather(plan: Plan, state: State) -> None:
    assert state.average is not None, "swa asks for an average"
    before = gathered(plan.recipe, state.epoch)
    gather(state.average, state.model, before)
    if before:
        rows = torch.split(torch.arange(len(plan.train)), _VALIDATION_BATCH)
        renew_statistics(state.average, (plan.numerics.lay(plan.train.take(each)[0]) for each in rows))


def _finish_epoch(plan: Plan, state: State, clock: _Clock) -> None:
    if plan.recipe.swa:
        _gather(plan, state)
    accuracy, loss = accuracy_and_loss(state.judged, plan.validation, plan.numerics)
    if not math.isfinite(loss):
        raise _diverged(plan, state)
    record = {name: float(value) / plan.steps for name, value in state.sums.items()}
    record |= {"validation_loss": loss, "validation_accuracy": accuracy, "lr": state.optimiser.param_groups[0]["lr"]}
    if state.best is None or state.best.beaten_by(accuracy, loss):
        weights = {name: value.detach().cpu().clone() for name, value in state.judged.state_dict().items()}
        state.best = Best(state.epoch + 1, accuracy, loss, weights)
    state.seconds += clock.tick()
    state.history.append({"epoch": state.epoch + 1, **record, "seconds": round(state.seconds, 3)})
    state.epoch, state.step, state.sums, state.seconds = state.epoch + 1, 0, {}, 0.0


def _check_finite(plan: Plan, state: State) -> None:
    if not state.is_finite():
        raise _diverged(plan, state)


def _diverged(plan: Plan, state: State) -> InputError:
    return InputError(
        f"the loss or a weight became NaN or infinite in epoch {state.epoch + 1}, by step {state.step} of "
        f"{plan.steps}, at learning rate {state.optimiser.param_groups[0]['lr']:.3g}; lower optimiser.lr or set "
        f"precision = float32; the state kept last, from before that, stays as it is."
    )


def _note(plan: Plan, state: State) -> str:
    loss = float(state.sums["train_loss"]) / state.step
    last = f" · validation {100 * state.history[-1]['validation_accuracy']:.2f} %" if state.history else ""
    return f"epoch {state.epoch + 1}/{plan.recipe.epochs} · loss {loss:.4f}{last}"
