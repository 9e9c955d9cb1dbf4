"""A trained autoencoder as a folder: model.json says how to build it, model.safetensors holds the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from faultlight.autoencoder.nets import Blueprint, Net, build
from faultlight.autoencoder.recipe import KIND
from faultlight.errors import InputError
from faultlight.train.steps_run import fill_weights, read_facts, save_weights


def save_autoencoder(folder: Path, net: Net, facts: Mapping[str, Any]) -> None:
    """Write a network into a folder, each file whole or not at all; `facts` go into model.json as they are."""
    save_weights(folder, KIND, net, {"blueprint": asdict(net.blueprint), **facts})


def load_autoencoder(folder: Path | str) -> Net:
    """Return the network of a folder that training wrote, in evaluation mode.

    Raises:
        InputError: the folder holds no autoencoder, or its files do not belong together.
    """
    net = build(_blueprint(Path(folder)))
    fill_weights(net, Path(folder))
    return net


def facts_of(folder: Path | str) -> dict[str, Any]:
    """Return what model.json says of an autoencoder: blueprint, recipe, data and noises.

    Raises:
        InputError: the folder holds no autoencoder.
    """
    return read_facts(Path(folder), KIND, {"blueprint", "recipe", "data", "tamper", "weights_sha256"})


def _blueprint(folder: Path) -> Blueprint:
    settings = dict(facts_of(folder)["blueprint"])
    try:
        return Blueprint(**settings | {"shape": tuple(settings["shape"])})
    except (TypeError, KeyError) as error:
        raise InputError(f"{folder / 'model.json'} describes no network ({error}); train again.") from None
