"""Small images, recipes and runs for the tests of autoencoders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from faultlight.autoencoder.recipe import AutoencoderRecipe, parse_autoencoder_recipe
from faultlight.autoencoder.run import AutoencoderResult, train
from faultlight.data.images import Images
from faultlight.models import zoo
from faultlight.models.saved import save_model
from faultlight.train.memory import Splits

SHAPE = (1, 8, 8)


def stripes(n: int, shape: tuple[int, int, int] = SHAPE, seed: int = 0, split: str = "test") -> Images:
    """Images of two classes: bright stripes across, and bright stripes down, each at a random place."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    place = torch.randint(shape[1], (n,), generator=generator)
    x = torch.full((n, *shape), 0.1)
    for row in range(n):
        if y[row]:
            x[row, :, :, int(place[row])] = 0.9
        else:
            x[row, :, int(place[row])] = 0.9
    return Images(x, y, torch.arange(n) * 2 + 1, ("across", "down"), "stripes", split)


def splits(n: int = 24, shape: tuple[int, int, int] = SHAPE) -> Splits:
    """Three splits of stripes."""
    return Splits(stripes(n, shape, 0, "train"), stripes(8, shape, 1, "validation"), stripes(12, shape, 2, "test"))


def recipe(**changes: Any) -> AutoencoderRecipe:
    """A recipe of twelve steps."""
    content: dict[str, Any] = {
        "name": "toy",
        "title": "toy",
        "data": "stripes",
        "network": {"depth": 1, "width": 2},
        "tamper": [{"kind": "gaussian", "low": 0.1, "high": 0.3}, {"kind": "occlusion", "low": 0.2, "high": 0.4}],
        "steps": 12,
        "batch": 8,
        "record_every": 5,
    }
    return parse_autoencoder_recipe(content | changes)


def trained(folder: Path, shape: tuple[int, int, int] = SHAPE, **changes: Any) -> AutoencoderResult:
    """A run of a few steps."""
    return train(recipe(**changes), out=folder, splits=splits(shape=shape), quiet=True)


def classifier(folder: Path, shape: tuple[int, int, int] = SHAPE) -> Path:
    """A folder with an untrained classifier of stripes."""
    folder.mkdir()
    family = zoo.family("mlp", classes=2, shape=shape)
    save_model(folder, "mlp", family, zoo.build_family(family))
    return folder
