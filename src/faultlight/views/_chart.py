"""Curves in the place of a picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Curve:
    """One line of a chart.

    Args:
        label: what it is, in a word or two.
        values: one for each place of the chart's x; NaN breaks the line.
    """

    label: str
    values: NDArray[Any]


@dataclass(frozen=True)
class Chart:
    """Curves over one axis; charts that are compared hold the same ends.

    Args:
        title: what is seen, in a few words.
        x: the places, rising, in units that the title names.
        curves: the lines; the first ones are labelled.
        low: the value at the lower edge.
        high: the value at the upper edge.
    """

    title: str
    x: NDArray[Any]
    curves: tuple[Curve, ...]
    low: float = 0.0
    high: float = 1.0


def ends_of(*values: NDArray[Any]) -> tuple[float, float]:
    """Return the ends that charts of these values share: from 0 or the least value to the greatest."""
    finite = [part[np.isfinite(part)] for part in values]
    low = min((float(part.min()) for part in finite if part.size), default=0.0)
    high = max((float(part.max()) for part in finite if part.size), default=0.0)
    return min(low, 0.0), max(high, 0.0)
