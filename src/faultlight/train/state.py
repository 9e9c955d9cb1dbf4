"""Where a run stands, and how that is kept so that a killed run goes on as if nothing had happened."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from faultlight import files
from faultlight.errors import InputError
from faultlight.train.ranks import Ranks
from faultlight.train.recipe import Optimiser, Recipe

CHECKPOINT = "checkpoint.pt"
_PLAIN = ("epoch", "step", "seconds", "history", "guards", "good")
SCHEMA = 2
# What a group of parameters multiplies the learning rate by.
TIMES = "times"


@dataclass(frozen=True)
class Best:
    """The weights that did best on the validation images so far.

    Args:
        epoch: from 1.
        accuracy: on the validation images, in [0, 1].
        loss: mean cross-entropy there.
        merit: what was compared, see `merit`.
        weights: the state dict, on the CPU.
    """

    epoch: int
    accuracy: float
    loss: float
    merit: tuple[float, float]
    weights: dict[str, Tensor]


def merit(record: Mapping[str, Any]) -> tuple[float, float]:
    """Return what makes an epoch the best: accuracy on the validation images, of equals the lower loss.

    Both are under attack where that is measured: the accuracy on clean images still grows while robustness is lost.
    """
    kind = "validation_robust" if "validation_robust_accuracy" in record else "validation"
    return record[f"{kind}_accuracy"], -record[f"{kind}_loss"]


@dataclass
class State:
    """Everything that changes while a run goes on; the loop alone changes it.

    Args:
        model: the network that learns.
        optimiser: with its momenta.
        average: the averaged network, if the recipe has `ema` or `swa`.
        epoch: epochs finished.
        step: steps finished of the epoch under way.
        sums: of the loss and of every metric over those steps, float64.
        seconds: spent on the epoch under way.
        history: one record for each epoch finished.
        best: the best epoch so far.
        memory: what the objective keeps from step to step.
        guards: what the guards found, a record each.
        good: how everything stood at the end of the last epoch, while the guard may have to go back there.
    """

    model: nn.Module
    optimiser: torch.optim.Optimizer
    average: nn.Module | None
    epoch: int = 0
    step: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: Best | None = None
    memory: dict[str, Tensor] = field(default_factory=dict)
    guards: list[dict[str, Any]] = field(default_factory=list)
    good: dict[str, Any] | None = None

    @property
    def judged(self) -> nn.Module:
        """The network that is validated and kept: the averaged one where there is one."""
        return self.average or self.model

    def acted(self, action: str) -> bool:
        """Return whether a guard did this."""
        return any(found["action"] == action for found in self.guards)

    def is_finite(self) -> bool:
        """Return whether no loss and no weight is NaN or infinite."""
        numbers = [*self.sums.values(), *self.model.parameters()]
        return bool(torch.stack([torch.isfinite(each).all() for each in numbers]).all())


def start(model: nn.Module, recipe: Recipe) -> State:
    """Return the state before the first step of a network that is already on its device.

    Raises:
        InputError: batch norm is to learn at a rate of its own, and there is none.
    """
    average = copy.deepcopy(model).requires_grad_(False) if recipe.ema or recipe.swa else None
    return State(model, _optimiser(model, recipe), average)


def remember(state: State) -> None:
    """Keep in memory how an epoch ended, for `go_back`."""
    state.good = copy.deepcopy(_moving(state))


def go_back(state: State) -> None:
    """Undo the epoch under way: bring network, optimiser, average and memory back to where `remember` saw them."""
    assert state.good is not None, "the epoch before was remembered"
    _move(state, state.good)
    state.step, state.sums, state.seconds, state.good = 0, {}, 0.0, None


def save(state: State, folder: Path) -> None:
    """Keep the state in the folder's checkpoint; a kill while this writes leaves the older one whole."""
    files.write_bytes(folder / CHECKPOINT, _packed(state))


def share(state: State, ranks: Ranks) -> None:
    """Bring every process's fresh state to where the first one's stands."""
    content = ranks.told(_packed(state) if ranks.first and not ranks.alone else b"")
    if not ranks.first:
        _fill(state, torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))


def _packed(state: State) -> bytes:
    content = {
        "schema": SCHEMA,
        **_moving(state),
        "best": asdict(state.best) if state.best else None,
        "sums": state.sums,
        **{key: getattr(state, key) for key in _PLAIN},
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def restore(state: State, folder: Path) -> bool:
    """Bring a fresh state to where the folder's checkpoint stands; without a checkpoint it stays fresh.

    Returns:
        Whether there was one.

    Raises:
        InputError: the checkpoint is damaged, or is not one of this model.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return False
    try:
        _fill(state, torch.load(path, map_location="cpu", weights_only=True))
    except (RuntimeError, ValueError, KeyError, TypeError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise InputError(
            f"{path} is damaged ({_first_line(error)}); delete it, and --resume starts from the beginning."
        ) from None
    return True


def _optimiser(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    spec = recipe.optimiser
    weights = _groups(model, spec)
    if spec.name == "sgd":
        return torch.optim.SGD(
            weights, spec.lr, spec.momentum, weight_decay=spec.weight_decay, nesterov=spec.nesterov, fused=True
        )
    kind = torch.optim.Adam if spec.name == "adam" else torch.optim.AdamW
    return kind(weights, spec.lr, betas=(spec.momentum, 0.999), weight_decay=spec.weight_decay, fused=True)


def _groups(model: nn.Module, spec: Optimiser) -> list[dict[str, Any]]:
    """Return all parameters, those of batch norm apart where they learn at a rate of their own."""
    layers = (nn.BatchNorm1d, nn.BatchNorm2d)
    norms = [p for m in model.modules() if isinstance(m, layers) for p in m.parameters(recurse=False)]
    if spec.norm_lr == 1:
        return [{"params": list(model.parameters())}]
    if not norms:
        raise InputError("optimiser.norm_lr: the network has no batch norm that could learn at a rate of its own.")
    apart = {id(each) for each in norms}
    rest = [each for each in model.parameters() if id(each) not in apart]
    return [
        {"params": rest},
        {"params": norms, "weight_decay": spec.weight_decay / spec.norm_lr, TIMES: spec.norm_lr},
    ]


def _fill(state: State, content: Mapping[str, Any]) -> None:
    if content["schema"] != SCHEMA:
        raise ValueError(f"schema {content['schema']} where {SCHEMA} is due")
    _move(state, content)
    state.sums = _onto(state, content["sums"])
    state.best = Best(**content["best"]) if content["best"] else None
    for key in _PLAIN:
        setattr(state, key, content[key])


def _moving(state: State) -> dict[str, Any]:
    """Return what every step changes, as it stands."""
    return {
        "model": state.model.state_dict(),
        "optimiser": state.optimiser.state_dict(),
        "average": state.average.state_dict() if state.average else None,
        "memory": state.memory,
    }


def _move(state: State, content: Mapping[str, Any]) -> None:
    state.model.load_state_dict(content["model"])
    state.optimiser.load_state_dict(content["optimiser"])
    if state.average:
        state.average.load_state_dict(content["average"])
    state.memory = _onto(state, content["memory"])


def _onto(state: State, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    device = next(state.model.parameters()).device
    return {name: value.to(device) for name, value in tensors.items()}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
