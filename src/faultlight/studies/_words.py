"""What studies say: tables, shares, pictures, and the result that holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from faultlight.evaluation.verdict import percent, share
from faultlight.views._result import Panel, ViewResult


def table(corner: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    """Return the lines of a table, its columns flush right."""
    cells = [(corner, *columns), *((name, *values) for name, values in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in cells
    ]


def spoken(count: int, n: int) -> str:
    """Return "12 of 50 (24.0 %, 95 % interval 13.1 % to 38.2 %)"."""
    found = share(count, n)
    return f"{count} of {n} ({percent(found.value)}, 95 % interval {percent(found.low)} to {percent(found.high)})"


def array(values: Tensor) -> NDArray[Any]:
    """Return a tensor as numpy holds it."""
    return np.asarray(values.detach().cpu().numpy())


def picture(x: Tensor) -> NDArray[Any]:
    """Return pixels (c, h, w) as a panel shows them: (h, w), or (h, w, 3) for three channels."""
    values = array(x)
    return values.transpose(1, 2, 0) if len(values) == 3 else values.mean(0)


def study_result(
    name: str,
    arrays: Mapping[str, Tensor | NDArray[Any]],
    words: Sequence[str],
    panels: Sequence[Panel],
    facts: dict[str, Any],
    columns: int,
    side: float = 1.6,
) -> ViewResult:
    """Return the result of a study: see `ViewResult`."""
    numbers = {key: array(values) if isinstance(values, Tensor) else values for key, values in arrays.items()}
    return ViewResult(name, numbers, "\n".join(words), tuple(panels), columns, side, facts, kind="study")
