"""The one training loop; what is minimised comes as a function."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from faultlight import rng
from faultlight.errors import InputError
from faultlight.progress import Progress
from faultlight.train import guards
from faultlight.train.augment import augment
from faultlight.train.average import follow, gather, gathered, renew_statistics
from faultlight.train.heldout import HeldOut, counted, held_out, judge, watched
from faultlight.train.interrupt import Interrupt, held_interrupt
from faultlight.train.memory import Resident, shuffle
from faultlight.train.numerics import Numerics
from faultlight.train.objectives import Batch, Context, Objective, Teacher, remedy, replays
from faultlight.train.ranks import ALONE, Ranks
from faultlight.train.recipe import Recipe
from faultlight.train.schedule import learning_rate
from faultlight.train.shared_layers import as_one_batch
from faultlight.train.state import TIMES, Best, State, go_back, merit, remember

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
        ranks: the processes that share each batch.
    """

    recipe: Recipe
    objective: Objective
    numerics: Numerics
    train: Resident
    validation: Resident
    keep: Callable[[State], None]
    quiet: bool = False
    teacher: Teacher | None = None
    ranks: Ranks = ALONE

    @property
    def steps(self) -> int:
        """Steps an epoch; images that fill no batch wait for the next shuffle."""
        return max(len(self.train) // self.recipe.batch, 1) * replays(self.objective)

    @cached_property
    def held_out(self) -> HeldOut | None:
        """What the network is asked under attack at the end of each epoch."""
        return held_out(self.recipe, self.objective)

    @property
    def remedy(self) -> Objective | None:
        """What to go on with after catastrophic overfitting, if the recipe and the objective want it so."""
        return remedy(self.objective) if self.recipe.robust_validation.on_collapse == "switch" else None


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
        while state.epoch < plan.recipe.epochs and not state.acted("stop"):
            clock = _Clock()
            _epoch(plan, state, interrupt, progress, clock)
            _finish_epoch(plan, state, progress, clock)
            plan.keep(state)
            if any(plan.ranks.any(interrupt.asked)):
                raise KeyboardInterrupt
        _look_back(plan, state, progress)


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
        leaving, due = plan.ranks.any(interrupt.asked, clock.is_due())
        if leaving or due:
            _check_finite(plan, state)
            plan.keep(state)
            clock.kept = clock.last
        if leaving:
            raise KeyboardInterrupt
        if state.step % _CHECK_EVERY_STEPS == 0 or state.step == plan.steps:
            _check_finite(plan, state)
            progress.update(state.epoch * plan.steps + state.step, _note(plan, state))


def _step(plan: Plan, state: State, order: Tensor) -> None:
    recipe = plan.recipe
    turn = state.step // replays(plan.objective)
    rows = order[turn * recipe.batch : (turn + 1) * recipe.batch]
    share = plan.ranks.share(len(rows))
    rows = share.own(rows)
    x, y = plan.train.take(rows)
    x = plan.numerics.lay(augment(x, recipe.augment, recipe.seed, state.epoch, turn, share, rows))
    # Layers that draw at random, such as dropout, do so from the global generator.
    plan.numerics.seed(rng.key(recipe.seed, "network", state.epoch, state.step) >> 1)
    memory = {name: share.own(value) for name, value in state.memory.items()}
    place = Context(recipe, state.epoch, state.step, plan.steps, memory, plan.teacher, share)
    objective = (plan.remedy if state.acted("switch") else None) or plan.objective
    with plan.numerics.autocast(), as_one_batch(share):
        loss, metrics = objective(state.model, Batch(x, y, rows.to(y.device)), place)
    share.weigh(loss).backward()  # type: ignore[no-untyped-call]
    metrics = share.sum_gradients(list(state.model.parameters()), {"train_loss": loss, **metrics})
    state.memory = {name: share.whole(value) for name, value in memory.items()}
    _descend(plan, state)
    for name, value in metrics.items():
        state.sums[name] = state.sums.get(name, 0.0) + value.detach().double()
    state.step += 1


def _descend(plan: Plan, state: State) -> None:
    recipe = plan.recipe
    done = state.epoch * plan.steps + state.step
    rate = learning_rate(recipe.schedule, recipe.optimiser.lr, done, recipe.epochs * plan.steps)
    for group in state.optimiser.param_groups:
        group["lr"] = rate * group.get(TIMES, 1.0)
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


def _finish_epoch(plan: Plan, state: State, progress: Progress, clock: _Clock) -> None:
    if plan.recipe.swa:
        _gather(plan, state)
    means = {name: float(value) / plan.steps for name, value in state.sums.items()}
    # Decided by the first process for all, lest another's last bits lead it elsewhere.
    figures = plan.ranks.told(_judge(plan, state) if plan.ranks.first else {})
    if not all(map(math.isfinite, figures.values())):
        raise _diverged(plan, state)
    record = {"epoch": state.epoch + 1, **means, **figures, "lr": state.optimiser.param_groups[0]["lr"]}
    state.seconds += clock.tick()
    record["seconds"] = round(state.seconds, 3)
    if _guard(plan, state, record, progress) == "switch":
        go_back(state)
    else:
        _accept(plan, state, record)


def _judge(plan: Plan, state: State) -> dict[str, float]:
    """Return how the epoch did on validation images, and under attack there."""
    accuracy, loss = accuracy_and_loss(state.judged, plan.validation, plan.numerics)
    figures = {"validation_loss": loss, "validation_accuracy": accuracy}
    if plan.held_out:
        figures |= judge(state.judged, state.model, plan.validation, plan.held_out, plan.numerics)
    return figures


def _guard(plan: Plan, state: State, record: dict[str, Any], progress: Progress) -> str | None:
    """Return what is done about a collapse, having written it down; None where there is none."""
    asked = plan.held_out
    if asked is None or asked.by == "certificate":
        return None
    count = counted(plan.validation, watched(asked, plan.validation, averaged=bool(state.average)))
    if not guards.has_collapsed(state.history, record, count, 1 / (1 + int(plan.validation.labels.max()))):
        return None
    action: str = plan.recipe.robust_validation.on_collapse
    if action == "switch" and (plan.remedy is None or state.good is None):
        action = "note"
    found = guards.evidence(state.history[-1], record, count, action)
    state.guards.append(found)
    progress.say(found["text"])
    return action


def _accept(plan: Plan, state: State, record: dict[str, Any]) -> None:
    if state.best is None or merit(record) > state.best.merit:
        weights = {name: value.detach().cpu().clone() for name, value in state.judged.state_dict().items()}
        figures = record["validation_accuracy"], record["validation_loss"], merit(record)
        state.best = Best(state.epoch + 1, *figures, weights)
    state.history.append(record)
    state.epoch, state.step, state.sums, state.seconds = state.epoch + 1, 0, {}, 0.0
    if plan.held_out and plan.remedy and not state.acted("switch"):
        remember(state)


def _look_back(plan: Plan, state: State, progress: Progress) -> None:
    if plan.held_out is None or state.best is None:
        return
    # Not kept in a checkpoint: it is found anew where a finished run is resumed.
    for found in guards.overfitting(state.history, state.best.epoch, counted(plan.validation, plan.held_out)):
        state.guards.append(found)
        progress.say(found["text"])


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
    last = state.history[-1] if state.history else {}
    shown = {"validation": "validation_accuracy", "under attack": "validation_robust_accuracy"}
    figures = [f" · {name} {100 * last[key]:.2f} %" for name, key in shown.items() if key in last]
    return f"epoch {state.epoch + 1}/{plan.recipe.epochs} · loss {loss:.4f}{''.join(figures)}"
