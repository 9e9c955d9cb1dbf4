"""Points on a plane in the place of a picture."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray


@dataclass(frozen=True)
class Scatter:
    """Points of several classes on one plane, with paths between places of it; both axes have the same unit.

    Args:
        title: what is seen, in a few words.
        points: where each is; NaN is drawn as nothing.
        label: the class of each, which is its colour.
        names: the classes' names, by label.
        paths: from where to where, drawn as lines with a cross at the end.
    """

    title: str
    points: Float[ndarray, "n 2"]
    label: Int[ndarray, " n"]
    names: tuple[str, ...]
    paths: Float[ndarray, "k 2 2"] = field(default_factory=lambda: np.empty((0, 2, 2)))

    def fitted(self, side: float) -> tuple[Float[ndarray, "n 2"], Float[ndarray, "k 2 2"]]:
        """Return points and paths moved and scaled into a square of the given side, a margin of 4 % left free."""
        ends = self.paths.reshape(-1, 2)
        every = np.concatenate([self.points, ends])
        finite = every[np.isfinite(every).all(1)]
        low, high = (finite.min(0), finite.max(0)) if len(finite) else (np.zeros(2), np.ones(2))
        width = float((high - low).max()) or 1.0
        inside = side * (0.5 + 0.92 * (every - (low + high) / 2) / width)
        return inside[: len(self.points)], inside[len(self.points) :].reshape(self.paths.shape)
