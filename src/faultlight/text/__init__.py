"""Networks that write, character by character: trained, sampled, looked into and attacked.

from faultlight.text import load_text_recipe, train
result = train(load_text_recipe("char-rnn"), out="runs/char-rnn")
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "Alphabet": "alphabet",
    "CharModel": "model",
    "Corpus": "corpus",
    "TextRecipe": "recipe",
    "load_corpus": "corpus",
    "load_text_model": "saved",
    "load_text_recipe": "recipe",
    "sample": "writing",
    "train": "run",
}

__all__ = [
    "Alphabet",
    "CharModel",
    "Corpus",
    "TextRecipe",
    "load_corpus",
    "load_text_model",
    "load_text_recipe",
    "sample",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'faultlight.text' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
