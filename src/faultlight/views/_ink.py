"""What every part of a drawing is made of: one page in inches, words, keys, and the names along an axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

# The background is painted, not left clear, so that a drawing reads the same on a light and on a dark page.
PAPER, INK, FAINT = "#ffffff", "#1f2328", "#8c959f"
# Inches: the space between cells, a letter and a line of the small print, the mark before a key's word.
GAP, LETTER, LINE, MARK = 0.12, 0.046, 0.1, 0.14
# Names of layers and classes are cut in the middle beyond so many letters.
LONGEST_NAME = 24


def write(axes: Axes, x: float, y: float, text: str, role: str, size: float = 5.5, **style: Any) -> None:
    """Write a text; `role` says what it is, for those who look the drawing over."""
    # Class and layer names are other people's text: no line of it may be read as mathematics.
    axes.text(x, y, text, **{"size": size, "color": INK, "parse_math": False, "label": role, **style})


def number(value: float, digits: int = 3) -> str:
    """Return a number of so many digits that count, a negative one with a minus sign, not a hyphen."""
    return f"{value:.{digits}g}".replace("-", "\N{MINUS SIGN}")


def key(axes: Axes, entries: Sequence[tuple[str, dict[str, Any]]], left: float, top: float, width: float) -> float:
    """Write a key below a chart, as many words to a line as fit, and return where it ends.

    Args:
        axes: the page.
        entries: a word and the style of the mark before it; without a style, the word stands alone.
        left: where the lines begin.
        top: where the key begins.
        width: of a line.
    """
    x, y = left, top - LINE / 2
    for word, style in entries:
        word = shortened(word) if style else word
        wide = LETTER * len(word) + (MARK + 0.03 if style else 0) + 0.08
        if x > left and x + wide > left + width:
            x, y = left, y - LINE
        if style:
            ends = (x, x + MARK) if style.get("linestyle") != "none" else (x + MARK / 2,) * 2
            axes.add_line(Line2D(ends, (y, y), **{"linewidth": 1.2, **style}))
        write(axes, x + (MARK + 0.03 if style else 0), y, word, "key", va="center_baseline")
        x += wide
    return y - LINE / 2 if entries else top


def names_below(axes: Axes, names: Sequence[str], left: float, top: float, step: float) -> float:
    """Write names under places that are a step apart, upright where they do not fit, and return where they end.

    Where the places are too near for that, only every k-th name is written, and a line says so.
    """
    names = [shortened(name) for name in names]
    longest = max(map(len, names), default=0)
    if LETTER * longest < 0.95 * step:
        for place, name in enumerate(names):
            write(axes, left + (place + 0.5) * step, top - 0.03, name, "name", ha="center", va="top")
        return top - 0.03 - LINE
    every = _every(step)
    for place in range(0, len(names), every):
        x = left + (place + 0.5) * step
        write(axes, x, top - 0.03, names[place], "name", ha="center", va="top", rotation="vertical")
    bottom = top - 0.06 - LETTER * longest
    if every == 1:
        return bottom
    write(axes, left, bottom, f"{_counted(every)} name is written", "note", va="top")
    return bottom - LINE


def names_beside(axes: Axes, names: Sequence[str], left: float, top: float, step: float) -> None:
    """Write names to the left of rows that are a step apart; where rows are too near, every k-th."""
    every = _every(step)
    for row in range(0, len(names), every):
        words = shortened(names[row]) + (f" ({_counted(every)})" if every > 1 and row == 0 else "")
        write(axes, left - 0.04, top - (row + 0.5) * step, words, "name", ha="right", va="center_baseline")


def room_beside(names: Sequence[str], step: float) -> float:
    """Return how wide the names to the left of rows are."""
    note = len(" (every 10th)") if _every(step) > 1 else 0
    return 0.06 + LETTER * (max((len(shortened(name)) for name in names), default=0) + note)


def shortened(name: str) -> str:
    """Return a name, its middle left out where it is too long to be written."""
    if len(name) <= LONGEST_NAME:
        return name
    half = LONGEST_NAME // 2
    return f"{name[: half - 1]}…{name[-half:]}"


def _every(step: float) -> int:
    return math.ceil(0.9 * LINE / step)


def _counted(every: int) -> str:
    return "every " + {2: "2nd", 3: "3rd"}.get(every, f"{every}th")
