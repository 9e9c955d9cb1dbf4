"""What every noise is given and says of itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from faultlight import rng

Pixels = Float32[Tensor, "n c h w"]


@dataclass(frozen=True)
class Given:
    """Images to be tampered with, and all that decides how.

    Args:
        x: clean pixels in [0, 1].
        y: labels, which adversarial noise is aimed away from.
        ids: one a row; with `key` they decide every random number, so neither order nor batch matters.
        strength: one a row, within the noise's limits.
        key: from `rng.key`; another one draws other noise for the same images.
        classifier: pixels to logits, for noise that is aimed at one.
    """

    x: Pixels
    y: Int64[Tensor, " n"]
    ids: Int64[Tensor, " n"]
    strength: Float32[Tensor, " n"]
    key: int
    classifier: Callable[[Tensor], Tensor] | None = None

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Return standard normal numbers of shape (n, *shape)."""
        return rng.normal(self.key, self.ids, torch.zeros_like(self.ids), shape)

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        """Return numbers uniform in [0, 1), of shape (n, *shape)."""
        return rng.uniform(self.key, self.ids, torch.zeros_like(self.ids), shape)


@runtime_checkable
class Noise(Protocol):
    """What the file of a noise defines: images in, tampered images out."""

    limits: ClassVar[tuple[float, float]]
    unit: ClassVar[str]
    # Strengths between a recipe's lowest and highest that training draws from; 0 for any number between them.
    levels: ClassVar[int]
    aimed: ClassVar[bool]

    def __call__(self, given: Given) -> Pixels:
        """Return tampered pixels in [0, 1]; strength 0 changes nothing."""
