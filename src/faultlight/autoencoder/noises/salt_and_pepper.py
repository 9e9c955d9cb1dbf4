"""Salt and pepper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from faultlight.autoencoder.noises._contract import Given, Pixels
from faultlight.geometry import rows


@dataclass(frozen=True)
class SaltAndPepper:
    """Some pixels become black or white, all channels together.

    Each place is hit with the chance p, the strength, and then is 0 or 1 with even odds.

    Source: Vincent et al. 2010, "Stacked denoising autoencoders", section 4.1.
    """

    limits: ClassVar[tuple[float, float]] = (0.0, 1.0)
    unit: ClassVar[str] = "share of the pixels"
    levels: ClassVar[int] = 0
    aimed: ClassVar[bool] = False

    def __call__(self, given: Given) -> Pixels:
        """Return the speckled pixels."""
        draws = given.uniform((2, 1, *given.x.shape[2:]))
        hit = draws[:, 0] < rows(given.strength)
        return given.x.where(~hit, (draws[:, 1] < 0.5).float())
