"""How a character model is built; apart from the model, so that a recipe is read without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Shape:
    """How a model is built.

    Args:
        cell: "gru" or "lstm".
        embedding: numbers a character is turned into.
        hidden: cells a layer.
        layers: recurrent layers, one on the other.
        dropout: share of the signals dropped in training after each recurrent layer, in [0, 1).
    """

    cell: Literal["gru", "lstm"] = "gru"
    embedding: int = 100
    hidden: int = 100
    layers: int = 2
    dropout: float = 0.0
