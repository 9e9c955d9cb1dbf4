"""Where a run on text stands, and how that is kept so that a killed run goes on as if nothing had happened."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from faultlight import files
from faultlight.errors import InputError
from faultlight.text.model import CharModel
from faultlight.text.recipe import TextRecipe
from faultlight.train.state import CHECKPOINT

SCHEMA = 1
_PLAIN = ("step", "since", "seconds", "history")


@dataclass
class TextState:
    """Everything that changes while a run goes on; the loop alone changes it.

    Args:
        model: the network that learns.
        optimiser: with its momenta.
        step: steps finished.
        total: sum of the batch losses since the last row of the record, float64.
        batch_loss: of the last batch.
        since: how many the sum is over.
        carried: the recurrent state that streams hand on; empty at a start.
        seconds: spent so far.
        history: one row each `record_every` steps.
    """

    model: CharModel
    optimiser: torch.optim.Optimizer
    total: Tensor
    batch_loss: Tensor
    step: int = 0
    since: int = 0
    carried: tuple[Tensor, ...] = ()
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)

    def is_finite(self) -> bool:
        """Return whether no loss and no weight is NaN or infinite."""
        return bool(torch.stack([torch.isfinite(each).all() for each in (self.total, *self.model.parameters())]).all())


def start(model: CharModel, recipe: TextRecipe) -> TextState:
    """Return the state before the first step of a model that is already on its device."""
    spec, weights = recipe.optimiser, list(model.parameters())
    if spec.name == "sgd":
        optimiser: torch.optim.Optimizer = torch.optim.SGD(
            weights, spec.lr, spec.momentum, weight_decay=spec.weight_decay, nesterov=spec.nesterov, fused=True
        )
    else:
        kind = torch.optim.Adam if spec.name == "adam" else torch.optim.AdamW
        betas = (spec.momentum, 0.999)
        optimiser = kind(weights, spec.lr, betas=betas, weight_decay=spec.weight_decay, fused=True)
    device = weights[0].device
    return TextState(
        model, optimiser, torch.zeros((), dtype=torch.float64, device=device), torch.zeros((), device=device)
    )


def save(state: TextState, folder: Path) -> None:
    """Keep the state in the folder's checkpoint; a kill while this writes leaves the older one whole."""
    content = {
        "schema": SCHEMA,
        "model": state.model.state_dict(),
        "optimiser": state.optimiser.state_dict(),
        "total": state.total,
        "batch_loss": state.batch_loss,
        "carried": list(state.carried),
        **{key: getattr(state, key) for key in _PLAIN},
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    files.write_bytes(folder / CHECKPOINT, buffer.getvalue())


def restore(state: TextState, folder: Path) -> bool:
    """Bring a fresh state to where the folder's checkpoint stands, and return whether there was one.

    Raises:
        InputError: the checkpoint is damaged, or is not one of this model.
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


def _fill(state: TextState, content: Mapping[str, Any]) -> None:
    if content["schema"] != SCHEMA:
        raise ValueError(f"schema {content['schema']} where {SCHEMA} is due")
    state.model.load_state_dict(content["model"])
    state.optimiser.load_state_dict(content["optimiser"])
    device = state.total.device
    state.total, state.batch_loss = content["total"].to(device), content["batch_loss"].to(device)
    state.carried = tuple(each.to(device) for each in content["carried"])
    for key in _PLAIN:
        setattr(state, key, content[key])
