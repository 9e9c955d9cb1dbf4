"""Everything that the page on a text shows: activations, guesses, gates, cells, and a map of the states."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from safetensors import numpy as safetensors
from torch import Tensor

from faultlight import files
from faultlight.errors import InputError
from faultlight.text.cells import CellSearch, find_cells
from faultlight.text.model import CharModel
from faultlight.text.unroll import Saturation, saturation, unroll

RECORD, ARRAYS = "text.json", "text.safetensors"
SCHEMA = 1
_GUESSES = 5
_POINTS = 600


@dataclass(frozen=True)
class Look:
    """What a model did while it read a text.

    Args:
        text: the characters shown, t of them.
        hidden: the output of each cell at each of them, in [−1, 1].
        guesses: the five likeliest next characters after each, the likeliest first.
        chances: their probabilities.
        surprise: −log₂ p of each character given those before it, in bits; of the first 0, since nothing precedes it.
        saturation: of each gate over the long text.
        search: cells that keep track of something, found on the long text.
        maps: two numbers a character of `map_ids`, by method.
        map_ids: places in the text shown.
        read: characters of the long text.
    """

    text: str
    hidden: Float[Tensor, "layers t hidden"]
    guesses: Int64[Tensor, "t k"]
    chances: Float[Tensor, "t k"]
    surprise: Float[Tensor, " t"]
    saturation: Saturation
    search: CellSearch
    maps: dict[str, NDArray[np.float32]]
    map_ids: Int64[Tensor, " p"]
    read: int


def look(model: CharModel, numbers: Int64[Tensor, " n"], shown: int = 1500, seed: int = 0) -> Look:
    """Return what a model does while it reads a text; cells and gates are judged on all of it, the start is shown.

    Args:
        model: in evaluation mode.
        numbers: the text; at least 250 characters, and some ten thousand for cells worth believing.
        shown: characters to show.
        seed: of the shifts that chance is measured by, and of t-SNE.
    """
    if len(numbers) < 2:
        raise InputError(f"a text of {len(numbers)} characters shows nothing; give at least 250.")
    gates = unroll(model, numbers)
    with torch.no_grad():
        chances = torch.softmax(model.decoder(gates.hidden[-1]).double(), 1)
    taken = chances[torch.arange(len(numbers) - 1), numbers[1:]]
    top = chances[:shown].topk(min(_GUESSES, chances.shape[1]))
    surprise = torch.cat([torch.zeros(1, dtype=torch.float64), -taken.log2()])
    ids = torch.linspace(0, min(shown, len(numbers)) - 1, min(_POINTS, shown, len(numbers))).long().unique()  # type: ignore[no-untyped-call]
    return Look(
        text=model.alphabet.decode(numbers[:shown]),
        hidden=gates.hidden[:, :shown],
        guesses=top.indices,
        chances=top.values.float(),
        surprise=surprise[:shown].float(),
        saturation=saturation(gates),
        search=find_cells(gates.hidden, model.alphabet.decode(numbers), seed=seed),
        maps=state_maps(gates.hidden[-1][ids], seed),
        map_ids=ids,
        read=len(numbers),
    )


def state_maps(states: Float[Tensor, "p hidden"], seed: int) -> dict[str, NDArray[np.float32]]:
    """Return states laid out in two dimensions by PCA, and by t-SNE of at most 50 principal components.

    Source: van der Maaten & Hinton 2008, "Visualizing Data using t-SNE", section 3, by scikit-learn.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    values = states.numpy().astype(np.float64)
    components = PCA(min(50, *values.shape), random_state=seed % 2**32, svd_solver="full").fit_transform(values)
    if components.shape[1] == 1:  # a single cell, which lies on a line
        components = np.pad(components, ((0, 0), (0, 1)))
    perplexity = min(30.0, (len(values) - 1) / 3)
    spread = TSNE(2, perplexity=perplexity, init="pca", random_state=seed % 2**32).fit_transform(components)
    return {"PCA": components[:, :2].astype(np.float32), "t-SNE": np.asarray(spread, dtype=np.float32)}


def save_look(found: Look, model: CharModel, folder: Path, name: str, source: str) -> None:
    """Write a look as text.json, numbers that a page is made from, and text.safetensors, its arrays."""
    arrays = {
        "hidden": found.hidden.numpy(),
        "guesses": found.guesses.numpy().astype(np.int32),
        "chances": found.chances.numpy(),
        "surprise": found.surprise.numpy(),
        "map_ids": found.map_ids.numpy().astype(np.int32),
        **{f"map/{key}": values for key, values in found.maps.items()},
        **{f"left/{key}": values.numpy() for key, values in found.saturation.left.items()},
        **{f"right/{key}": values.numpy() for key, values in found.saturation.right.items()},
    }
    plain = {key: np.ascontiguousarray(values) for key, values in arrays.items()}
    files.write_bytes(folder / ARRAYS, safetensors.save(plain))
    files.write_json(folder / RECORD, record(found, model, name, source))


def record(found: Look, model: CharModel, name: str, source: str) -> dict[str, Any]:
    """Return what text.json holds.

    Args:
        found: the look.
        model: that read.
        name: of the model, such as its folder's.
        source: what was read, in words.
    """
    return {
        "schema": SCHEMA,
        "model": name,
        "source": source,
        "shape": asdict(model.shape),
        "parameters": model.parameter_count,
        "alphabet": model.alphabet.characters,
        "text": found.text,
        "read": found.read,
        "bits": float(found.surprise[1:].double().mean()) if len(found.surprise) > 1 else 0.0,
        "cells": asdict(found.search),
    }
