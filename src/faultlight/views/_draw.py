"""Panels into a matplotlib Figure: fixed cells, one colour bar for each shared scale of a row, nothing global.

All panels stand in one Axes whose unit is the inch: an Axes each would cost a hundred times a picture's own drawing.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from faultlight.views._chart import Chart
from faultlight.views._result import Drawn, Panel, Scale
from faultlight.views._scatter import Scatter

# Inches. The background is painted, not left clear, so that a drawing reads the same on a light and on a dark page.
TITLE, GAP, BAR, BAR_WIDTH, LEAST_BAR = 0.4, 0.12, 0.62, 0.09, 0.5
PAPER, INK, FAINT = "#ffffff", "#1f2328", "#8c959f"
DOTS_PER_INCH = 110
# A map with more dots than this a side is thinned for the drawing (never in the arrays): no screen shows more.
LARGEST_SIDE = 512
# Of a chart, so many curves are labelled.
MOST_LABELS = 10
# Of a scatter, so many classes are named.
MOST_CLASSES = 12
# Above this many cells a side, the numbers of the predicted classes would not be legible inside their cells.
LARGEST_NUMBERED_SIDE = 16


def draw(panels: Sequence[Drawn], columns: int, words: str, side: float = 1.6) -> Figure:
    """Return the drawing of the panels, row by row; without panels, the words in a fixed-width face.

    Args:
        panels: the pictures and charts.
        columns: how many a row holds.
        words: what is drawn when there are no pictures.
        side: the side of a picture in inches.
    """
    if not panels:
        return _page_of_words(words)
    barred = [_ends_scale(panels, index, columns) for index in range(len(panels))]
    lefts = [GAP]
    for column in range(min(columns, len(panels))):
        lefts.append(lefts[-1] + side + (BAR if any(barred[column::columns]) else GAP))
    height = -(-len(panels) // columns) * (side + TITLE) + GAP
    figure, axes = _page(lefts[-1], height)
    for index, panel in enumerate(panels):
        row, column = divmod(index, columns)
        left, top = lefts[column], height - row * (side + TITLE) - TITLE
        _write(axes, left, top + 0.04, _wrapped(panel.title, side), "title", va="bottom")
        if isinstance(panel, Chart):
            _plot(axes, panel, left, top, side)
            continue
        if isinstance(panel, Scatter):
            _scatter(axes, panel, left, top - side, side)
            continue
        bottom = _paint(axes, panel, left, top, side)
        if barred[index]:
            _bar(axes, panel.scale, left + side + 0.05, min(bottom, top - LEAST_BAR), top)
    return figure


def render(figure: Figure, form: Literal["png", "svg"]) -> bytes:
    """Return a figure as the bytes of a PNG or SVG file, the same bytes each time."""
    buffer = io.BytesIO()
    # Composed into one raster, the pictures of an SVG would lose their own resolution.
    settings: dict[Any, Any] = {"svg.hashsalt": "faultlight", "svg.fonttype": "path", "image.composite_image": False}
    with mpl.rc_context(settings):
        figure.savefig(buffer, format=form, metadata={"Date": None} if form == "svg" else {"Software": "faultlight"})
    return buffer.getvalue()


def shrink(values: NDArray[Any], limit: int = LARGEST_SIDE) -> NDArray[Any]:
    """Return a map with at most `limit` dots a side, each the value of greatest magnitude in its block, sign kept."""
    step = -(-max(values.shape) // limit)
    if step <= 1:
        return values
    rows, columns = (-(-side // step) for side in values.shape)
    padded = np.full((rows * step, columns * step), np.nan)
    padded[: values.shape[0], : values.shape[1]] = values
    blocks = padded.reshape(rows, step, columns, step).transpose(0, 2, 1, 3).reshape(rows, columns, -1)
    strongest = np.argmax(np.where(np.isnan(blocks), -1.0, np.abs(blocks)), axis=2)
    return np.take_along_axis(blocks, strongest[..., None], axis=2)[..., 0]


def _page(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, facecolor=PAPER)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    return figure, axes


def _page_of_words(words: str) -> Figure:
    lines = words.splitlines() or [""]
    width, height = 0.075 * max(map(len, lines)) + 0.4, 0.16 * len(lines) + 0.4
    figure, axes = _page(width, height)
    _write(axes, 0.2, height - 0.2, words, "words", size=8.0, family="monospace", va="top")
    return figure


def _ends_scale(panels: Sequence[Drawn], index: int, columns: int) -> bool:
    """Whether a colour bar belongs to the right of a panel: the next one of its row has another scale, or none."""
    scale = _scale(panels[index])
    if scale is None or scale.kind not in ("signed", "unsigned"):
        return False
    last = (index + 1) % columns == 0 or index + 1 == len(panels)
    return last or _scale(panels[index + 1]) != scale


def _scale(panel: Drawn) -> Scale | None:
    return panel.scale if isinstance(panel, Panel) else None


def _wrapped(title: str, side: float) -> str:
    return "\n".join(textwrap.wrap(title, int(21 * side))[:3])


def _write(axes: Axes, x: float, y: float, text: str, role: str, size: float = 6.5, **style: Any) -> None:
    # Class and layer names are other people's text: no line of it may be read as mathematics.
    axes.text(x, y, text, size=size, color=INK, parse_math=False, label=role, **style)


def _paint(axes: Axes, panel: Panel, left: float, top: float, side: float) -> float:
    """Paint a panel into the square whose upper left corner is given, and return where it ends below."""
    values = panel.values if panel.scale.kind == "image" else shrink(panel.values)
    rows, columns = values.shape[0], values.shape[1]
    cell = side / max(rows, columns)
    extent: tuple[float, float, float, float] = (left, left + cell * columns, top - cell * rows, top)
    _add_image(axes, values, panel.scale, extent, "panel")
    middle = (extent[0] + extent[1]) / 2, (extent[2] + extent[3]) / 2
    if panel.scale.kind == "classes":
        _write_classes(axes, values, left, top, cell)
    elif panel.scale.kind != "image" and not np.nan_to_num(values).any():
        box = {"boxstyle": "round", "facecolor": PAPER, "edgecolor": FAINT}
        _write(axes, *middle, "all zero", "note", size=8.0, ha="center", va="center", bbox=box)
    return extent[2]


def _plot(axes: Axes, chart: Chart, left: float, top: float, side: float) -> None:
    """Draw a chart into the square whose upper left corner is given, the ends of its axes written beside them."""
    bottom, width = top - side, (float(chart.x[-1]) - float(chart.x[0])) or 1.0
    height = (chart.high - chart.low) or 1.0
    axes.add_patch(Rectangle((left, bottom), side, side, fill=False, edgecolor=FAINT, linewidth=0.5, label="chart"))
    across = left + side * (chart.x - chart.x[0]) / width
    for index, curve in enumerate(chart.curves):
        colour = mpl.colormaps["tab10"](index % 10)
        up = bottom + side * np.clip((curve.values - chart.low) / height, 0, 1)
        axes.add_line(Line2D(across, up, color=colour, linewidth=1.0, label=f"curve {curve.label}"))
        if index < MOST_LABELS:
            place = left + side - 0.04, top - 0.04 - 0.09 * index
            axes.text(*place, curve.label, size=5.5, color=colour, parse_math=False, ha="right", va="top", label="key")
    for value, y, align in ((chart.low, bottom + 0.02, "bottom"), (chart.high, top - 0.02, "top")):
        _write(axes, left + 0.03, y, f"{value:.3g}", "end", size=5.5, va=align)
    for value, x, align in ((chart.x[0], left, "left"), (chart.x[-1], left + side, "right")):
        _write(axes, x, bottom - 0.02, f"{float(value):.4g}", "end", size=5.5, ha=align, va="top")


def _scatter(axes: Axes, panel: Scatter, left: float, bottom: float, side: float) -> None:
    """Draw points and paths into the square whose lower left corner is given; the classes' names are the key."""
    axes.add_patch(Rectangle((left, bottom), side, side, fill=False, edgecolor=FAINT, linewidth=0.5, label="scatter"))
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
    for row, label in enumerate(shown[:MOST_CLASSES]):
        place, colour = (left + side - 0.04, bottom + side - 0.04 - 0.09 * row), _class_colour(int(label))
        axes.text(
            *place, panel.names[label], size=5.5, color=colour, parse_math=False, ha="right", va="top", label="key"
        )


def _class_colour(label: int) -> tuple[float, float, float, float]:
    return mpl.colormaps["tab10" if label < 10 else "tab20b"](label % 10 if label < 10 else (label - 10) % 20)


def _add_image(
    axes: Axes, values: NDArray[Any], scale: Scale, extent: tuple[float, float, float, float], role: str
) -> None:
    image = AxesImage(
        axes, cmap=_colours(scale), norm=_norm(scale), interpolation="nearest", extent=extent, origin="upper"
    )
    image.set_data(values)
    image.set_label(role)
    axes.add_image(image)
    corner, width, height = (extent[0], extent[2]), extent[1] - extent[0], extent[3] - extent[2]
    axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=FAINT, linewidth=0.5))


def _write_classes(axes: Axes, values: NDArray[Any], left: float, top: float, cell: float) -> None:
    if max(values.shape) > LARGEST_NUMBERED_SIDE:
        return
    for (row, column), label in np.ndenumerate(values):
        x, y = left + (column + 0.5) * cell, top - (row + 0.5) * cell
        _write(axes, x, y, f"{int(label)}", "cell", size=min(8.0, 37 * cell), ha="center", va="center")


def _colours(scale: Scale) -> Colormap:
    if scale.kind == "classes":
        # Pale, so that the class numbers written over them can be read.
        return ListedColormap([mpl.colormaps["tab20"](2 * label % 20 + 1) for label in range(len(scale.names))])
    return mpl.colormaps[{"image": "gray", "signed": "RdBu_r", "unsigned": "viridis"}[scale.kind]]


def _norm(scale: Scale) -> Normalize:
    if scale.kind == "classes":
        return Normalize(-0.5, len(scale.names) - 0.5)
    # A scale of no width would divide by zero; its panel says "all zero".
    return Normalize(scale.low, scale.high if scale.high > scale.low else scale.low + 1)


def _bar(axes: Axes, scale: Scale, left: float, bottom: float, top: float) -> None:
    ramp = np.linspace(scale.high, scale.low, 256)[:, None]
    _add_image(axes, ramp, scale, (left, left + BAR_WIDTH, bottom, top), "scale")
    ticks = {scale.low: 0.0, scale.high: 1.0} | ({0.0: 0.5} if scale.kind == "signed" else {})
    for tick, place in sorted(ticks.items()):
        y = bottom + 0.05 + place * (top - bottom - 0.1)
        _write(axes, left + BAR_WIDTH + 0.03, y, f"{tick:.3g}", "end", size=6.0, va="center")
