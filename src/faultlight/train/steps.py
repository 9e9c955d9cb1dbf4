"""A loop that counts steps instead of epochs, for networks that are no classifiers.

Whoever uses it says what one step does and what is measured now and then; counting, seeding, keeping, resuming,
progress and the watch for NaN are here, once.
"""

from __future__ import annotations

import io
import math
import pickle
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from faultlight import files, rng
from faultlight.errors import InputError
from faultlight.progress import Progress
from faultlight.train.interrupt import held_interrupt
from faultlight.train.recipe import Optimiser
from faultlight.train.state import CHECKPOINT

SCHEMA = 1
_SAVE_EVERY_SECONDS = 30.0
_CHECK_EVERY_STEPS = 25
_PLAIN = ("step", "since", "seconds", "history")


class Diverged(InputError):
    """A loss, a weight or a statistic became NaN or infinite; its text ends in what to do, without a full stop."""


@dataclass
class StepState:
    """Everything that changes while a run goes on; the loop and its step alone change it.

    Args:
        modules: the networks by name, averaged ones among them, each on its device.
        optimisers: by name, with their momenta.
        step: steps finished.
        seconds: spent on steps so far.
        sums: of each scalar that a step returned, since the last row of the record, float64.
        since: how many steps the sums are over.
        history: the record, one row each `record_every` steps.
        extra: any further tensors that a resumed run must have; it finds them on the CPU.
    """

    modules: dict[str, nn.Module]
    optimisers: dict[str, torch.optim.Optimizer]
    step: int = 0
    seconds: float = 0.0
    sums: dict[str, Tensor] = field(default_factory=dict)
    since: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    extra: dict[str, Tensor] = field(default_factory=dict)

    def is_finite(self) -> bool:
        """Return whether no scalar, no weight and no running statistic is NaN or infinite."""
        inside = [each for module in self.modules.values() for each in module.state_dict().values()]
        return bool(torch.stack([torch.isfinite(each).all() for each in (*self.sums.values(), *inside)]).all())


def _no_record(_state: StepState) -> dict[str, float]:
    return {}


def _keep_nothing(_state: StepState) -> None:
    return


def _means(_state: StepState, means: Mapping[str, float]) -> str:
    return " · ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in means.items())


@dataclass(frozen=True)
class StepPlan:
    """Everything that stays the same while a run goes on.

    Args:
        name: of the recipe, for the progress.
        steps: how many there are, ≥ 1.
        seed: of whatever a step draws from PyTorch's global generator.
        record_every: steps between two rows of the record; the last step has one in any case.
        step: does one step and returns scalars, each averaged over the steps of a row.
        record: returns what is measured when a row is due.
        keep: called with the state at the beginning, every half minute and on Ctrl-C; never with NaN in it.
        around: what is entered for as long as steps are taken.
        say: what the progress says, of the state and the means since the last row.
        device: "cpu", "cuda" or "cuda:1".
        quiet: show no progress.
        advice: what to do when the loss becomes NaN, such as "lower optimiser.lr".
    """

    name: str
    steps: int
    seed: int
    record_every: int
    step: Callable[[StepState], dict[str, Tensor]]
    record: Callable[[StepState], dict[str, float]] = _no_record
    keep: Callable[[StepState], None] = _keep_nothing
    around: Callable[[], AbstractContextManager[object]] = nullcontext
    say: Callable[[StepState, Mapping[str, float]], str] = _means
    device: str = "cpu"
    quiet: bool = False
    advice: str = "lower optimiser.lr"


def fit(plan: StepPlan, state: StepState) -> None:
    """Train from where the state stands to the last step, changing the state in place.

    The global generator is seeded before each step by (seed, step), so a run that goes on from a kept state computes
    the very numbers of an unbroken one.

    Raises:
        Diverged: a scalar or a weight became NaN or infinite; the state kept last is from before that.
        KeyboardInterrupt: Ctrl-C was pressed; the state was kept.
    """
    gpus = [] if plan.device == "cpu" else [plan.device]
    with (
        held_interrupt() as interrupt,
        torch.random.fork_rng(devices=gpus),
        Progress(f"train {plan.name}", plan.steps, plan.quiet) as progress,
        plan.around(),
    ):
        if not state.step:
            plan.keep(state)
        kept = time.monotonic()
        while state.step < plan.steps:
            _step(plan, state)
            _record(plan, state, progress)
            if interrupt.asked or time.monotonic() - kept > _SAVE_EVERY_SECONDS:
                _check_finite(plan, state)
                plan.keep(state)
                kept = time.monotonic()
            if interrupt.asked:
                raise KeyboardInterrupt


def save(state: StepState, folder: Path) -> None:
    """Keep the state in the folder's checkpoint; a kill while this writes leaves the older one whole."""
    content = {
        "schema": SCHEMA,
        "modules": {name: each.state_dict() for name, each in state.modules.items()},
        "optimisers": {name: each.state_dict() for name, each in state.optimisers.items()},
        "sums": state.sums,
        "extra": state.extra,
        **{key: getattr(state, key) for key in _PLAIN},
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    files.write_bytes(folder / CHECKPOINT, buffer.getvalue())


def restore(state: StepState, folder: Path) -> bool:
    """Bring a fresh state to where the folder's checkpoint stands, and return whether there was one.

    Raises:
        InputError: the checkpoint is damaged, or is not one of these networks.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return False
    try:
        _fill(state, torch.load(path, map_location="cpu", weights_only=True))
    except (RuntimeError, ValueError, KeyError, TypeError, EOFError, OSError, pickle.UnpicklingError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"{path} is damaged ({reason}); delete it, and --resume starts from the beginning.") from None
    return True


def build_optimiser(
    spec: Optimiser, weights: Iterable[nn.Parameter], second_momentum: float = 0.999
) -> torch.optim.Optimizer:
    """Return the optimiser that a recipe names.

    Args:
        spec: the recipe's table; `momentum` is Adam's β₁.
        weights: what it moves.
        second_momentum: Adam's β₂, in [0, 1).
    """
    given = list(weights)
    if spec.name == "sgd":
        return torch.optim.SGD(
            given, spec.lr, spec.momentum, weight_decay=spec.weight_decay, nesterov=spec.nesterov, fused=True
        )
    kind = torch.optim.Adam if spec.name == "adam" else torch.optim.AdamW
    return kind(given, spec.lr, betas=(spec.momentum, second_momentum), weight_decay=spec.weight_decay, fused=True)


def _step(plan: StepPlan, state: StepState) -> None:
    began = time.monotonic()
    _seed(plan.device, rng.key(plan.seed, "network", state.step) >> 1)
    for name, value in plan.step(state).items():
        value = value.detach().double()
        state.sums[name] = state.sums[name] + value if name in state.sums else value
    state.step, state.since = state.step + 1, state.since + 1
    state.seconds += time.monotonic() - began


def _record(plan: StepPlan, state: StepState, progress: Progress) -> None:
    """Look for NaN now and then, and add a row to the record where one is due."""
    due = state.step % plan.record_every == 0 or state.step == plan.steps
    if not due and state.step % _CHECK_EVERY_STEPS:
        return
    _check_finite(plan, state)
    means = {name: float(total) / state.since for name, total in state.sums.items()}
    if due:
        measured = plan.record(state)
        if not all(map(math.isfinite, measured.values())):
            raise _diverged(plan, state)
        state.history.append({"step": state.step, **means, **measured, "seconds": round(state.seconds, 3)})
        state.sums, state.since = {}, 0
    progress.update(state.step, plan.say(state, means))


def _check_finite(plan: StepPlan, state: StepState) -> None:
    if not state.is_finite():
        raise _diverged(plan, state)


def _diverged(plan: StepPlan, state: StepState) -> Diverged:
    return Diverged(
        f"a loss or a weight became NaN or infinite by step {state.step:,} of {plan.steps:,}; {plan.advice}, and begin "
        f"again with another --out, since --resume would compute the same"
    )


def _seed(device: str, key: int) -> None:
    torch.default_generator.manual_seed(key)
    if device != "cpu":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(key)


def _fill(state: StepState, content: Mapping[str, Any]) -> None:
    if content["schema"] != SCHEMA:
        raise ValueError(f"schema {content['schema']} where {SCHEMA} is due")
    for name, module in state.modules.items():
        module.load_state_dict(content["modules"][name])
    for name, optimiser in state.optimisers.items():
        optimiser.load_state_dict(content["optimisers"][name])
    device = next(next(iter(state.modules.values())).parameters()).device
    state.sums = {name: value.to(device) for name, value in content["sums"].items()}
    state.extra = dict(content["extra"])
    for key in _PLAIN:
        setattr(state, key, content[key])
