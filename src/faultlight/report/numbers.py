"""Numbers on the page: each shown one carries the record it came from, so that it can be held against it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from markupsafe import Markup

Kind = Literal["percent", "confidence", "count", "plain", "seconds"]
_NARROW = "\u202f"  # a narrow no-break space, between a number and its unit


@dataclass(frozen=True)
class Numbers:
    """Shows numbers of the records by their path, such as "verdict.attacked.value".

    Args:
        raw: the records as plain JSON, by name.
        digits: decimals of a percentage: what the number of images can bear.
    """

    raw: dict[str, Any]
    digits: int

    def __call__(self, path: str, kind: Kind = "plain") -> Markup:
        """Return the number as text in an element that names its record and holds the unrounded value."""
        value = look_up(self.raw, path)
        text = shown(value, kind, self.digits)
        # Not f-strings: Markup escapes what is put into it.
        return Markup('<span class="number" data-record="{}" data-value="{}" data-kind="{}">{}</span>').format(
            path, json.dumps(value), kind, text
        )


def look_up(raw: dict[str, Any], path: str) -> Any:
    """Return what stands in the records at a dotted path; a whole number picks from a list."""
    found: Any = raw
    for step in path.split("."):
        found = found[int(step)] if isinstance(found, list) else found[step]
    return found


def shown(value: int | float, kind: Kind, digits: int = 1) -> str:
    """Return a number as the page shows it."""
    if kind == "percent":
        return f"{100 * value:.{digits}f}{_NARROW}%"
    if kind == "confidence":
        return f"{100 * value:.1f}{_NARROW}%"
    if kind == "count":
        return f"{value:,}"
    if kind == "seconds":
        return f"{value:,.1f}{_NARROW}s"
    return f"{value:.3g}".replace("-", "−")


def percent_digits(n: int) -> int:
    """Return how many decimals a percentage of n images can bear: one image more must show, and no more than that."""
    return 1 if n < 1000 else 2 if n <= 10_000 else 3
