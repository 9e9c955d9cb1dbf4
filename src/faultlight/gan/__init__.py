"""Networks that draw: generators trained against a discriminator, sampled, measured, and watched for collapse.

from faultlight.gan import load_gan_recipe, train
result = train(load_gan_recipe("mnist-dcgan"), out="runs/dcgan")
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "GanRecipe": "recipe",
    "Generator": "nets",
    "draw": "sample",
    "load_gan_recipe": "recipe",
    "load_generator": "saved",
    "measure": "measuring",
    "run_study": "study",
    "train": "run",
}

__all__ = ["GanRecipe", "Generator", "draw", "load_gan_recipe", "load_generator", "measure", "run_study", "train"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'faultlight.gan' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
