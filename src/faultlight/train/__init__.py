"""One training loop; objectives are functions; recipes say what is asked and which figure is due.

from faultlight.train import load_recipe, train
result = train(load_recipe("mnist-cnn"), out="runs/mnist")
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "Recipe": "recipe",
    "load_recipe": "recipe",
    "Splits": "memory",
    "TrainResult": "result",
    "train": "run",
}

__all__ = ["Recipe", "Splits", "TrainResult", "load_recipe", "train"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'faultlight.train' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
