"""Networks that give back an image: autoencoders and denoisers, trained, measured, looked into, put before classifiers.

from faultlight.autoencoder import load_autoencoder_recipe, train
result = train(load_autoencoder_recipe("mnist-denoiser-2"), out="runs/denoiser")
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "AutoencoderRecipe": "recipe",
    "Blueprint": "nets",
    "Denoised": "defence",
    "Tampering": "tampering",
    "compare": "measure",
    "load_autoencoder": "saved",
    "load_autoencoder_recipe": "recipe",
    "load_denoised": "defence",
    "tamper": "tampering",
    "train": "run",
}

__all__ = [
    "AutoencoderRecipe",
    "Blueprint",
    "Denoised",
    "Tampering",
    "compare",
    "load_autoencoder",
    "load_autoencoder_recipe",
    "load_denoised",
    "tamper",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'faultlight.autoencoder' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
