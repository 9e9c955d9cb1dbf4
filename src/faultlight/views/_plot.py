"""Charts, dots and scatters drawn into a cell of the page; their keys and the ends of their axes stand outside."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from faultlight.views._chart import Chart, Dots
from faultlight.views._ink import FAINT, INK, LINE, key, names_below, number, write
from faultlight.views._scatter import Scatter

# To the left of a chart, the ends of its vertical axis.
AXIS = 0.36
# Names in the key of a chart and of a scatter.
MOST_LABELS, MOST_CLASSES = 12, 12


def plot(axes: Axes, chart: Chart, left: float, top: float, side: float) -> float:
    """Draw curves into the square whose upper left corner is given, and return where all of it ends below."""
    bottom, width = top - side, (float(chart.x[-1]) - float(chart.x[0])) or 1.0
    _frame(axes, left, bottom, side, side, "chart")
    across = left + side * (chart.x - chart.x[0]) / width
    for index, curve in enumerate(chart.curves):
        up = bottom + side * _share(chart, curve.values)
        axes.add_line(Line2D(across, up, color=_colour(index), linewidth=1.0, label=f"curve {curve.label}"))
    _ends(axes, chart, left, bottom, side, side)
    for value, x, align in ((chart.x[0], left, "left"), (chart.x[-1], left + side, "right")):
        write(axes, x, bottom - 0.02, number(float(value), 4), "end", ha=align, va="top")
    marks: list[tuple[str, dict[str, Any]]] = [
        (curve.label, {"color": _colour(index)}) for index, curve in enumerate(chart.curves)
    ]
    return key(axes, _few(marks, MOST_LABELS), left, bottom - 0.03 - LINE, side)


def plot_dots(axes: Axes, dots: Dots, left: float, top: float, width: float, height: float) -> float:
    """Draw a dot for each name and series into a frame, the names below, and return where all of it ends."""
    bottom, step = top - height, width / len(dots.names)
    _frame(axes, left, bottom, width, height, "dots")
    middle = left + (np.arange(len(dots.names)) + 0.5) * step
    for x in middle:
        axes.add_line(Line2D((x, x), (bottom, top), color=FAINT, linewidth=0.25, alpha=0.6))
    for name, value in dots.levels:
        y = bottom + height * float(_share(dots, np.array(value)))
        axes.add_line(Line2D((left, left + width), (y, y), **_LEVEL, label=f"level {name}"))
    apart = min(0.2 * step, 0.05)
    drawn = [(index, curve) for index, curve in enumerate(dots.curves) if np.isfinite(curve.values).any()]
    for place, (index, curve) in enumerate(drawn):
        x = middle + apart * (place - (len(drawn) - 1) / 2)
        up = bottom + height * _share(dots, np.asarray(curve.values))
        axes.add_line(Line2D(x, up, **_dot(index), label=f"dots {curve.label}"))
    _ends(axes, dots, left, bottom, width, height)
    marks = [(curve.label, _dot(index)) for index, curve in drawn]
    marks += [(name, _LEVEL) for name, _ in dots.levels]
    below = names_below(axes, dots.names, left, bottom, step)
    return key(axes, marks, left, below - 0.03, max(width, 2.0))


def plot_points(axes: Axes, panel: Scatter, left: float, top: float, side: float) -> float:
    """Draw points and paths into a square, and return where its key, the classes' names, ends below."""
    bottom = top - side
    _frame(axes, left, bottom, side, side, "scatter")
    points, paths = panel.fitted(side)
    corner = np.array([left, bottom])
    shown = np.unique(panel.label)
    # Many points are small, so that those below are seen.
    size = float(np.clip(1500 / max(len(points), 1), 1.5, 12))
    for label in shown:
        x, y = (points[panel.label == label] + corner).T
        axes.scatter(x, y, s=size, color=_class_colour(int(label)), linewidths=0, alpha=0.8, label=f"class {label}")
    for start, end in paths + corner:
        axes.add_line(Line2D(*zip(start, end, strict=True), color=INK, linewidth=0.5, alpha=0.7, label="path"))
        axes.add_line(Line2D(*end[:, None], color=INK, marker="x", markersize=2.5, linewidth=0, label="path's end"))
    marks: list[tuple[str, dict[str, Any]]] = [
        (panel.names[label], {"color": _class_colour(int(label)), "marker": "o", "markersize": 3, "linestyle": "none"})
        for label in shown
    ]
    return key(axes, _few(marks, MOST_CLASSES), left, bottom - 0.03, side)


_LEVEL: dict[str, Any] = {"color": INK, "linewidth": 0.8, "linestyle": "--"}


def _dot(index: int) -> dict[str, Any]:
    return {"color": _colour(index), "marker": "osD^v"[index % 5], "markersize": 2.6, "linestyle": "none"}


def _colour(index: int) -> Any:
    return mpl.colormaps["tab10"](index) if index < 10 else mpl.colormaps["tab20b"]((index - 10) % 20)


def _class_colour(label: int) -> Any:
    return _colour(label)


def _few(marks: list[tuple[str, dict[str, Any]]], most: int) -> list[tuple[str, dict[str, Any]]]:
    return marks if len(marks) <= most else [*marks[:most], (f"and {len(marks) - most} more", {})]


def _share(chart: Chart | Dots, values: Any) -> Any:
    """Return how far up a chart values lie, cut to its ends."""
    return np.clip((values - chart.low) / ((chart.high - chart.low) or 1.0), 0, 1)


def _frame(axes: Axes, left: float, bottom: float, width: float, height: float, role: str) -> None:
    axes.add_patch(Rectangle((left, bottom), width, height, fill=False, edgecolor=FAINT, linewidth=0.5, label=role))


def _ends(axes: Axes, chart: Chart | Dots, left: float, bottom: float, width: float, height: float) -> None:
    """Write the ends of the vertical axis to the left of it, and 0 where that lies well between them."""
    zero = float(_share(chart, np.array(0.0)))
    inside = chart.low < 0 < chart.high and 0.1 < zero < 0.9
    if inside:
        y = bottom + height * zero
        axes.add_line(Line2D((left, left + width), (y, y), color=FAINT, linewidth=0.5, label="zero"))
    places = {chart.low: (bottom, "bottom"), chart.high: (bottom + height, "top")}
    for value, (y, align) in (places | ({0.0: (bottom + height * zero, "center")} if inside else {})).items():
        write(axes, left - 0.03, y, number(value), "end", ha="right", va=align)
