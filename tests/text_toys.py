"""A small text, a recipe that learns from it in a moment, and models whose losses are known in closed form."""

from __future__ import annotations

from typing import Any

import torch

from faultlight.data.text import Text
from faultlight.text.alphabet import Alphabet
from faultlight.text.corpus import Corpus, divide
from faultlight.text.model import CharModel, build_model
from faultlight.text.recipe import TextRecipe, parse_text_recipe
from faultlight.text.shape import Shape

LETTERS = Alphabet("abcd")


def corpus(repeats: int = 100) -> Corpus:
    """A text of twelve characters over and over."""
    return divide(Text("toy", "abcabdacbdab" * repeats, "0" * 64), LETTERS)


def recipe(**changes: Any) -> TextRecipe:
    """A recipe of a few steps."""
    least = {"name": "toy", "title": "toy", "data": "toy", "steps": 12, "batch": 4, "chunk": 8}
    small = {"embedding": 5, "hidden": 7, "layers": 2, "record_every": 4}
    return parse_text_recipe(least | small | changes)


def model(cell: str = "gru", layers: int = 2, seed: int = 0, alphabet: Alphabet = LETTERS) -> CharModel:
    """An untrained model, in evaluation mode."""
    return build_model(alphabet, Shape(cell, 5, 7, layers), seed).eval()  # type: ignore[arg-type]


def same_for_all(chances: list[float]) -> CharModel:
    """A model that gives each character its chance, whatever it has read."""
    found = model()
    with torch.no_grad():
        found.decoder.weight.zero_()
        found.decoder.bias.copy_(torch.tensor(chances).log())
    return found
