"""Small images, and recipes that learn from them in a moment."""

from __future__ import annotations

from typing import Any

import torch

from faultlight.data.images import Images
from faultlight.gan.recipe import GanRecipe
from faultlight.train.steps_recipe import parse


def images(count: int = 40, shape: tuple[int, int, int] = (1, 8, 8), classes: int = 2, split: str = "train") -> Images:
    """Images of random pixels, brighter with the class."""
    generator = torch.Generator().manual_seed(len(split))
    y = torch.arange(count) % classes
    x = (torch.rand(count, *shape, generator=generator) + y.view(-1, 1, 1, 1)) / classes
    return Images(x, y, torch.arange(count), tuple("abcdefghij"[:classes]), "toy", split)


def recipe(**changes: Any) -> GanRecipe:
    """A recipe of a few steps."""
    least = {"name": "toy", "title": "toy", "data": "toy", "steps": 6, "batch": 8, "net": "mlp", "width": 8}
    return parse(GanRecipe, least | {"latent": 5, "record_every": 3, "frames": 3} | changes)
