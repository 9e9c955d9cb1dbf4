"""A trained character model as a folder: model.json says how to build it, model.safetensors holds the weights."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import torch as safetensors

from faultlight import files
from faultlight.errors import InputError
from faultlight.models.saved import RECORD, WEIGHTS
from faultlight.models.weights import load_weights
from faultlight.text.alphabet import Alphabet
from faultlight.text.model import CharModel
from faultlight.text.shape import Shape

SCHEMA = 1
KIND = "text"


def save_text_model(folder: Path, model: CharModel) -> None:
    """Write a model into a folder, each file whole or not at all, the weights first."""
    weights = {key: value.detach().cpu().contiguous().clone() for key, value in model.state_dict().items()}
    files.write_bytes(folder / WEIGHTS, safetensors.save(weights))
    record = {"schema": SCHEMA, "kind": KIND, "shape": asdict(model.shape), "alphabet": model.alphabet.characters}
    files.write_json(folder / RECORD, record | {"weights_sha256": files.sha256(folder / WEIGHTS)})


def load_text_model(folder: Path | str) -> CharModel:
    """Return the model of a folder that training wrote, in evaluation mode.

    Raises:
        InputError: the folder holds no character model, or its files do not belong together.
    """
    folder = Path(folder)
    record = _record(folder)
    due = record["weights_sha256"]
    found = files.sha256(folder / WEIGHTS) if (folder / WEIGHTS).is_file() else "no file"
    if found != due:
        raise InputError(
            f"{folder / WEIGHTS} is not what {RECORD} was written with (SHA-256 {found[:12]} where {due[:12]} is due); "
            f"train again."
        )
    model = CharModel(Alphabet(record["alphabet"]), Shape(**record["shape"]))
    load_weights(model, folder / WEIGHTS)
    return model.eval()


def _record(folder: Path) -> dict[str, Any]:
    if not (folder / RECORD).is_file():
        raise InputError(
            f"the folder {folder} holds no {RECORD}, so no model that `faultlight text train` wrote; check its path."
        )
    record = files.read_json(folder / RECORD)
    kind = record.get("kind") if isinstance(record, dict) else None
    if kind != KIND or record.get("schema") != SCHEMA:
        raise InputError(f"{folder} holds no character model; give a folder that `faultlight text train` wrote.")
    needed = {"shape", "alphabet", "weights_sha256"}
    if not needed <= record.keys():
        raise InputError(f"{folder / RECORD} lacks {', '.join(sorted(needed - record.keys()))}; train again.")
    found: dict[str, Any] = record
    return found
