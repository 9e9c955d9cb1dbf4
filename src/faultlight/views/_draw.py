"""Panels into a matplotlib Figure: fixed cells, one colour bar for each shared scale of a row, nothing global."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from faultlight.views._result import Panel, Scale

# Inches. The background is painted, not left clear, so that a drawing reads the same on a light and on a dark page.
TITLE, GAP, BAR = 0.4, 0.12, 0.62
PAPER, INK, FAINT = "#ffffff", "#1f2328", "#8c959f"
DOTS_PER_INCH = 110
# A map with more dots than this a side is thinned for the drawing (never in the arrays): no screen shows more.
LARGEST_SIDE = 512
# Above this many cells a side, the numbers of the predicted classes would not be legible inside their cells.
LARGEST_NUMBERED_SIDE = 16


def draw(panels: Sequence[Panel], columns: int, words: str, side: float = 1.6) -> Figure:
    """Return the drawing of the panels, row by row; without panels, the words in a fixed-width face.

    Args:
        panels: the pictures.
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
    figure = _blank(lefts[-1], height)
    for index, panel in enumerate(panels):
        row, column = divmod(index, columns)
        corner = lefts[column], height - (row + 1) * (side + TITLE)
        _paint(_axes(figure, *corner, side, side), panel, side)
        if barred[index]:
            tall = max(0.5, side * min(1.0, panel.values.shape[0] / panel.values.shape[1]))
            _bar(_axes(figure, corner[0] + side + 0.05, corner[1] + side - tall, 0.09, tall), panel.scale)
    return figure


def _ends_scale(panels: Sequence[Panel], index: int, columns: int) -> bool:
    """Whether a colour bar belongs to the right of a panel: the next one of its row has another scale, or none."""
    if panels[index].scale.kind not in ("signed", "unsigned"):
        return False
    last = (index + 1) % columns == 0 or index + 1 == len(panels)
    return last or panels[index + 1].scale != panels[index].scale


def render(figure: Figure, form: Literal["png", "svg"]) -> bytes:
    """Return a figure as the bytes of a PNG or SVG file, the same bytes each time."""
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "faultlight", "svg.fonttype": "path"}):
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


def _blank(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, facecolor=PAPER)
    FigureCanvasAgg(figure)
    return figure


def _axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    whole_width, whole_height = figure.get_size_inches()
    return figure.add_axes((left / whole_width, bottom / whole_height, width / whole_width, height / whole_height))


def _page_of_words(words: str) -> Figure:
    lines = words.splitlines() or [""]
    width, height = 0.075 * max(map(len, lines)) + 0.4, 0.16 * len(lines) + 0.4
    figure = _blank(max(width, 1.0), height)
    figure.text(0.2 / width, 1 - 0.2 / height, words, family="monospace", size=8, va="top", color=INK, parse_math=False)
    return figure


def _paint(axes: Axes, panel: Panel, side: float) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_anchor("NW")
    for spine in axes.spines.values():
        spine.set_color(FAINT)
        spine.set_linewidth(0.5)
    # Class and layer names are other people's text: no line of it may be read as mathematics.
    title = "\n".join(textwrap.wrap(panel.title, int(21 * side))[:3])
    axes.set_title(title, size=6.5, loc="left", pad=2.5, color=INK, parse_math=False)
    if panel.scale.kind == "image":
        axes.imshow(panel.values, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        return
    values = shrink(panel.values)
    axes.imshow(values, cmap=_colours(panel.scale), norm=_norm(panel.scale), interpolation="nearest")
    if panel.scale.kind == "classes":
        _write_classes(axes, values, side)
    elif not np.nan_to_num(values).any():
        style = {"boxstyle": "round", "facecolor": PAPER, "edgecolor": FAINT}
        axes.text(
            0.5, 0.5, "all zero", transform=axes.transAxes, ha="center", va="center", size=8, color=INK, bbox=style
        )


def _write_classes(axes: Axes, values: NDArray[Any], side: float) -> None:
    if max(values.shape) > LARGEST_NUMBERED_SIDE:
        return
    size = min(8, 37 * side / max(values.shape))
    for (row, column), label in np.ndenumerate(values):
        axes.text(column, row, f"{int(label)}", ha="center", va="center", size=size, color=INK)


def _colours(scale: Scale) -> Colormap:
    if scale.kind == "classes":
        # Pale, so that the class numbers written over them can be read.
        return ListedColormap([mpl.colormaps["tab20"](2 * label % 20 + 1) for label in range(len(scale.names))])
    return mpl.colormaps["RdBu_r" if scale.kind == "signed" else "viridis"]


def _norm(scale: Scale) -> Normalize:
    if scale.kind == "classes":
        return Normalize(-0.5, len(scale.names) - 0.5)
    # A scale of no width would divide by zero; its panel says "all zero".
    return Normalize(scale.low, scale.high if scale.high > scale.low else scale.low + 1)


def _bar(axes: Axes, scale: Scale) -> None:
    bar = axes.figure.colorbar(ScalarMappable(_norm(scale), _colours(scale)), cax=axes)
    bar.outline.set_visible(False)
    ticks = [scale.low, 0.0, scale.high] if scale.kind == "signed" else [scale.low, scale.high]
    bar.set_ticks(sorted(set(ticks)), labels=[f"{tick:.3g}" for tick in sorted(set(ticks))])
    bar.ax.tick_params(labelsize=6, length=2, width=0.5, pad=1.5, colors=INK)
