"""Gaussian noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from faultlight.autoencoder.noises._contract import Given, Pixels
from faultlight.geometry import rows


@dataclass(frozen=True)
class Gaussian:
    """Every value of every pixel gets noise of its own.

    x' = clip(x + σ·n, 0, 1), n ~ N(0, 1); the strength is σ.

    Source: Vincent et al. 2010, "Stacked denoising autoencoders", section 4.1; the clipping is ours, for pixels end at
    0 and 1.
    """

    limits: ClassVar[tuple[float, float]] = (0.0, 4.0)
    unit: ClassVar[str] = "σ"
    levels: ClassVar[int] = 0
    aimed: ClassVar[bool] = False

    def __call__(self, given: Given) -> Pixels:
        """Return the noisy pixels."""
        noise = given.normal(tuple(given.x.shape[1:]))
        return (given.x + rows(given.strength) * noise).clamp(0, 1)
