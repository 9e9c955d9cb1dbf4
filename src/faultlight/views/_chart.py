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


@dataclass(frozen=True)
class Dots:
    """One place for each of several names, such as the layers of a net, and a dot for each series at it.

    It has a row of the drawing to itself; a matrix whose columns are the same names stands below in line with it.

    Args:
        title: what is seen, in a few words.
        names: of the places, from left to right.
        curves: the series, one value for each name; NaN is no dot, and a series of NaN alone is left out.
        low: the value at the lower edge.
        high: the value at the upper edge.
        levels: values to compare with, dashed lines, by name.
    """

    title: str
    names: tuple[str, ...]
    curves: tuple[Curve, ...]
    low: float = 0.0
    high: float = 1.0
    levels: tuple[tuple[str, float], ...] = ()


def ends_of(*values: NDArray[Any]) -> tuple[float, float]:
    """Return the ends that charts of these values share: from 0 or the least value to the greatest."""
    finite = [part[np.isfinite(part)] for part in values]
    low = min((float(part.min()) for part in finite if part.size), default=0.0)
    high = max((float(part.max()) for part in finite if part.size), default=0.0)
    return min(low, 0.0), max(high, 0.0)
