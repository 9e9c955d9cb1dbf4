"""A trained network of the zoo as a folder: model.json says how to build it, model.safetensors holds the weights."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import torch as safetensors
from torch import nn

from faultlight import files
from faultlight.errors import InputError
from faultlight.models import zoo
from faultlight.models.weights import load_weights

SCHEMA = 1
RECORD = "model.json"
WEIGHTS = "model.safetensors"
# What looks into folders whose record is of another kind.
_OTHERS = {"autoencoder": "autoencoder page", "gan": "gan page", "text": "text view"}


def save_model(folder: Path, name: str, family: zoo.Family, module: nn.Module) -> None:
    """Write a network of the zoo into a folder, each file whole or not at all.

    Args:
        folder: where to; older files of the same names are replaced, the weights first.
        name: the zoo's name of the network, such as "mnist-cnn".
        family: the settings that it was built with (`zoo.family`).
        module: the network; its weights are written as they are.

    Raises:
        InputError: the folder cannot be written to.
    """
    state = {key: value.detach().cpu().contiguous().clone() for key, value in module.state_dict().items()}
    files.write_bytes(folder / WEIGHTS, safetensors.save(state))
    record = {"schema": SCHEMA, "zoo": name, **asdict(family), "weights_sha256": files.sha256(folder / WEIGHTS)}  # type: ignore[call-overload]
    files.write_json(folder / RECORD, record)


def read_saved(folder: Path) -> tuple[str, zoo.Family, nn.Module]:
    """Return name, settings and network of a folder that `save_model` wrote.

    Raises:
        InputError: a file is missing or damaged, the record is of a newer schema, or the weights are not those that
            the record was written with.
    """
    record = _record(folder)
    name, due = record["zoo"], record["weights_sha256"]
    family = zoo.family(name, **_settings(name, record))
    found = files.sha256(folder / WEIGHTS) if (folder / WEIGHTS).is_file() else "no file"
    if found != due:
        raise InputError(
            f"{folder / WEIGHTS} is not what {RECORD} was written with (SHA-256 {found[:12]} where {due[:12]} is due); "
            f"train again, or name the network and give the file by --weights."
        )
    module = zoo.build_family(family)
    load_weights(module, folder / WEIGHTS)
    return name, family, module


def no_classifier(folder: Path, kind: str) -> InputError:
    """Return the error that names the verb for a folder that holds a network of another kind."""
    return InputError(f"{folder} holds no classifier; look into it with `faultlight {_OTHERS[kind]} {folder}`.")


def _settings(name: str, record: dict[str, Any]) -> dict[str, Any]:
    known = zoo.options(name)
    return {key: tuple(value) if isinstance(value, list) else value for key, value in record.items() if key in known}


def _record(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    if not path.is_file():
        raise InputError(
            f"the folder {folder} holds no {RECORD}, so no model that `faultlight train` wrote; check its path."
        )
    record = files.read_json(path)
    schema = record.pop("schema", None) if isinstance(record, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        raise InputError(f"{path} has schema {schema}, and this version reads up to {SCHEMA}; use a newer Faultlight.")
    if isinstance(record, dict) and record.get("kind") in _OTHERS:
        raise no_classifier(folder, record["kind"])
    if schema != SCHEMA or not isinstance(record.get("zoo"), str) or not isinstance(record.get("weights_sha256"), str):
        raise InputError(f"{path} is no record of a model: it needs schema, zoo and weights_sha256; train again.")
    found: dict[str, Any] = record
    return found
