"""Panels into a matplotlib Figure: fixed cells, one colour bar for each shared scale of a row, nothing global.

All panels stand in one Axes whose unit is the inch, its vertical axis 0 at the top of the page and falling: an Axes
each would cost a hundred times a picture's own drawing.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from faultlight.views._chart import Chart, Dots
from faultlight.views._ink import FAINT, GAP, LINE, PAPER, key, names_below, names_beside, number, room_beside, write
from faultlight.views._plot import AXIS, plot, plot_dots, plot_points
from faultlight.views._result import Drawn, Panel, Scale
from faultlight.views._scatter import Scatter

# Inches: a line of a title, a colour bar with its numbers and without, the least height of one.
TITLE_LINE, BAR, BAR_WIDTH, LEAST_BAR = 0.11, 0.62, 0.09, 0.5
# What has a row to itself: the least and the greatest width, that of a column when there are few, a row's height.
NARROWEST, WIDEST, COLUMN, ROW = 2.2, 6.6, 0.34, 0.15
DOTS_PER_INCH = 110
# A map with more dots than this a side is thinned for the drawing (never in the arrays): no screen shows more.
LARGEST_SIDE = 512
MOST_TITLE_LINES = 4
# Above this many cells a side, the numbers of the predicted classes would not be legible inside their cells.
LARGEST_NUMBERED_SIDE = 16


class Cell(NamedTuple):
    """Where an item of the drawing goes: its upper left corner, and how wide it may be."""

    left: float
    top: float
    width: float


def draw(panels: Sequence[Drawn], columns: int, words: str, side: float = 1.6, caption: str = "") -> Figure:
    """Return the drawing of the panels, row by row; without panels, the words in a fixed-width face.

    Args:
        panels: the pictures and charts.
        columns: how many a row holds.
        words: what is drawn when there are no pictures.
        side: the side of a picture in inches.
        caption: what stands below.
    """
    if not panels:
        return _page_of_words(words)
    rows = _rows(panels, columns)
    lefts = _lefts(rows, side)
    figure, axes = _page()
    right, top = 0.0, 0.0
    for row in rows:
        end, top = _draw_row(axes, row, lefts, side, top)
        right = max(right, end)
    if caption:
        lines = textwrap.wrap(caption, max(40, int(19 * (right - lefts[0]))))
        write(axes, GAP, top - 0.1, "\n".join(lines), "caption", size=6.5, va="top")
        top -= 0.1 + TITLE_LINE * len(lines)
    _fit(figure, axes, right + GAP, GAP - top)
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


def _rows(panels: Sequence[Drawn], columns: int) -> list[list[Drawn]]:
    rows: list[list[Drawn]] = [[]]
    for panel in panels:
        if rows[-1] and (len(rows[-1]) == columns or _is_wide(panel) or _is_wide(rows[-1][0])):
            rows.append([])
        rows[-1].append(panel)
    return rows


def _lefts(rows: Sequence[Sequence[Drawn]], side: float) -> list[float]:
    """Return where each column begins: past the names and numbers to the left of any of its items."""
    lefts, x = [], GAP
    for column in range(max(map(len, rows))):
        own = [row for row in rows if len(row) > column]
        lefts.append(x + max(_room_left(row[column], side) for row in own))
        barred = any(_ends_scale(row, column) for row in own)
        x = lefts[-1] + side + (BAR if barred else GAP)
    return lefts


def _room_left(panel: Drawn, side: float) -> float:
    if isinstance(panel, Chart | Dots):
        return AXIS
    return room_beside(panel.rows, _cell_sides(panel, side)[1]) if isinstance(panel, Panel) and panel.rows else 0.0


def _draw_row(axes: Axes, row: Sequence[Drawn], lefts: Sequence[float], side: float, top: float) -> tuple[float, float]:
    """Draw a row of items below `top`, and return where it ends to the right and below."""
    cells = [Cell(left, 0.0, _width(panel, side)) for left, panel in zip(lefts, row, strict=False)]
    titles = [_wrapped(panel.title, cell.width) for panel, cell in zip(row, cells, strict=True)]
    top -= GAP + TITLE_LINE * max(map(len, titles)) + 0.04
    ends, right = [], 0.0
    for column, (panel, cell, title) in enumerate(zip(row, cells, titles, strict=True)):
        write(axes, cell.left, top + 0.04, "\n".join(title), "title", size=6.5, va="bottom")
        ends.append(_draw_one(axes, panel, cell._replace(top=top), side))
        right = max(right, cell.left + cell.width)
        if isinstance(panel, Panel) and _ends_scale(row, column):
            columns, rows = _cell_sides(panel, side)
            bottom = top - rows * panel.values.shape[0]
            drawn = cell.left + max(columns * panel.values.shape[1] if panel.wide else side, 0)
            bottom = min(bottom, top - LEAST_BAR)
            _bar(axes, panel.scale, drawn + 0.05, bottom, top)
            ends.append(bottom)
            right = max(right, drawn + BAR - GAP)
    return right, min(ends)


def _draw_one(axes: Axes, panel: Drawn, cell: Cell, side: float) -> float:
    """Draw one item and return where it ends below."""
    if isinstance(panel, Chart):
        return plot(axes, panel, cell.left, cell.top, cell.width)
    if isinstance(panel, Dots):
        return plot_dots(axes, panel, cell.left, cell.top, cell.width, min(side, 2.0))
    if isinstance(panel, Scatter):
        return plot_points(axes, panel, cell.left, cell.top, cell.width)
    return _paint(axes, panel, cell, side)


def _is_wide(panel: Drawn) -> bool:
    return isinstance(panel, Dots) or (isinstance(panel, Panel) and panel.wide)


def _width(panel: Drawn, side: float) -> float:
    if isinstance(panel, Dots):
        return _wide(len(panel.names))
    return _wide(panel.values.shape[1]) if isinstance(panel, Panel) and panel.wide else side


def _wide(columns: int) -> float:
    return min(WIDEST, max(NARROWEST, COLUMN * columns))


def _cell_sides(panel: Panel, side: float) -> tuple[float, float]:
    """Return the width and the height of a panel's dots: squares, but where its columns have to be in line."""
    rows, columns = panel.values.shape[:2]
    if panel.wide:
        return _wide(columns) / columns, ROW
    return (side / max(rows, columns),) * 2


def _fit(figure: Figure, axes: Axes, width: float, height: float) -> None:
    figure.set_size_inches(width, height)
    axes.set_xlim(0, width)
    axes.set_ylim(-height, 0)


def _page() -> tuple[Figure, Axes]:
    figure = Figure(dpi=DOTS_PER_INCH, facecolor=PAPER)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    return figure, axes


def _page_of_words(words: str) -> Figure:
    lines = words.splitlines() or [""]
    figure, axes = _page()
    write(axes, 0.2, -0.2, words, "words", size=8.0, family="monospace", va="top")
    _fit(figure, axes, 0.075 * max(map(len, lines)) + 0.4, 0.16 * len(lines) + 0.4)
    return figure


def _ends_scale(row: Sequence[Drawn], column: int) -> bool:
    """Whether a colour bar belongs to the right of a panel: the next one of its row has another scale, or none."""
    scale = _scale(row[column])
    if scale is None or scale.kind not in ("signed", "unsigned"):
        return False
    return column + 1 == len(row) or _scale(row[column + 1]) != scale


def _scale(panel: Drawn) -> Scale | None:
    return panel.scale if isinstance(panel, Panel) else None


def _wrapped(title: str, width: float) -> list[str]:
    return textwrap.wrap(title, int(20.5 * width), max_lines=MOST_TITLE_LINES, placeholder=" …")


def _paint(axes: Axes, panel: Panel, cell: Cell, side: float) -> float:
    """Paint a panel, names and key with it, and return where it ends below."""
    if not panel.title and np.isnan(panel.values).all():
        return cell.top
    (wide, high), (rows, columns) = _cell_sides(panel, side), panel.values.shape[:2]
    left, top, right, bottom = cell.left, cell.top, cell.left + wide * columns, cell.top - high * rows
    values = panel.values if panel.scale.kind == "image" else shrink(panel.values)
    _add_image(axes, values, panel.scale, (left, right, bottom, top), "panel")
    middle = (left + right) / 2, (top + bottom) / 2
    if panel.scale.kind == "classes":
        _write_classes(axes, values, left, top, wide)
    elif panel.scale.kind != "image" and not np.nan_to_num(values).any():
        box = {"boxstyle": "round", "facecolor": PAPER, "edgecolor": FAINT}
        write(axes, *middle, "all zero", "note", size=8.0, ha="center", va="center", bbox=box)
    names_beside(axes, panel.rows, left, top, high)
    below = names_below(axes, panel.columns, left, bottom, wide) if panel.columns else bottom
    if not panel.absent or not np.isnan(panel.values).any():
        return below
    _hatch(axes, panel.values, left, top, wide, high)
    axes.add_patch(_hatched(left, below - 0.04 - LINE, 0.14, LINE))
    return key(axes, [(panel.absent, {})], left + 0.18, below - 0.04, side)


def _hatch(axes: Axes, values: NDArray[Any], left: float, top: float, wide: float, high: float) -> None:
    """Hatch what is absent, run by run of each row."""
    for row, absent in enumerate(np.isnan(values)):
        edges = np.flatnonzero(np.diff(np.concatenate([[False], absent, [False]]).astype(int)))
        for start, end in edges.reshape(-1, 2).tolist():
            axes.add_patch(_hatched(left + wide * start, top - high * (row + 1), wide * (end - start), high))


def _hatched(left: float, bottom: float, width: float, height: float) -> Rectangle:
    return Rectangle((left, bottom), width, height, fill=False, edgecolor=FAINT, hatch="//////", lw=0, label="absent")


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
        write(axes, x, y, f"{int(label)}", "cell", size=min(8.0, 37 * cell), ha="center", va="center")


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
        write(axes, left + BAR_WIDTH + 0.03, y, number(tick), "end", size=6.0, va="center")
