"""True class against predicted class."""

from __future__ import annotations

from collections.abc import Sequence

from faultlight.report.charts.common import Spec, figure, word
from faultlight.report.charts.flows import DARKEST, MATRIX_CLASSES, TOP_FLOWS

_TOOLTIP = [word("true", "true class"), word("read", "classified as"), figure("count", "images")]


def confusion_chart(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> Spec | None:
    """Return the whole matrix, or the most frequent mistakes as bars where the classes are many.

    Mistakes are shaded by their number; the diagonal, which would outshine them all, is not.
    """
    cells: list[Spec] = [
        {"label": label, "read_as": read, "count": count, "true": classes[label], "read": classes[read]}
        for label, row in enumerate(confusion)
        for read, count in enumerate(row)
    ]
    if len(classes) <= MATRIX_CLASSES:
        return _matrix(cells, classes)
    wrong = [cell for cell in cells if cell["label"] != cell["read_as"] and cell["count"]]
    return _bars(sorted(wrong, key=lambda cell: -cell["count"])[:TOP_FLOWS]) if wrong else None


def _matrix(cells: list[Spec], classes: Sequence[str]) -> Spec:
    wrong = [cell for cell in cells if cell["label"] != cell["read_as"]]
    most = max((cell["count"] for cell in wrong), default=0) or 1
    shade = {"field": "count", "type": "quantitative", "scale": {"domain": [0, most], "range": [0, DARKEST]}}
    on, off = "datum.label == datum.read_as", "datum.label != datum.read_as"
    ground = {"type": "rect", "cornerRadius": 3}
    text = {"text": {"field": "count", "type": "quantitative", "format": ","}, "tooltip": _TOOLTIP}
    return {
        "description": "Matrix of true class against predicted class; deeper means more mistakes.",
        "width": "container",
        "height": 30 * len(classes),
        "params": [{"name": "names", "value": list(classes)}],
        "data": {"values": cells},
        "encoding": _places(classes),
        "layer": [
            {"mark": {**ground, "color": "var(--sunk)"}, "encoding": {"tooltip": _TOOLTIP}},
            {
                "transform": [{"filter": off}],
                "mark": {**ground, "color": "var(--accent)"},
                "encoding": {"opacity": {**shade, "legend": None}, "tooltip": _TOOLTIP},
            },
            {"transform": [{"filter": on}], "mark": {"type": "text", "color": "var(--ink-2)"}, "encoding": text},
            {
                "transform": [{"filter": f"{off} && datum.count > 0"}],
                "mark": {"type": "text", "color": "var(--ink)"},
                "encoding": text,
            },
        ],
        "config": {"scale": {"bandPaddingInner": 0.08, "bandPaddingOuter": 0.04}},
    }


def _places(classes: Sequence[str]) -> Spec:
    order = list(range(len(classes)))
    axis = {"labelExpr": "names[datum.value]", "labelLimit": 96, "ticks": False, "domain": False, "labelPadding": 8}
    slant = -40 if max(map(len, classes), default=0) > 3 else 0
    across = {**axis, "labelAngle": slant, "orient": "top", "title": "classified as"}
    scale = {"domain": order}
    return {
        "x": {"field": "read_as", "type": "ordinal", "scale": scale, "axis": across},
        "y": {"field": "label", "type": "ordinal", "scale": scale, "axis": {**axis, "title": "true class"}},
    }


def _bars(cells: list[Spec]) -> Spec:
    named = [{**cell, "mistake": f"{cell['true']} → {cell['read']}"} for cell in cells]
    axis = {"title": None, "labelLimit": 220, "ticks": False, "domain": False}
    return {
        "description": f"The {len(named)} most frequent mistakes.",
        "width": "container",
        "height": 24 * len(named),
        "data": {"values": named},
        "mark": {"type": "bar", "color": "var(--accent)", "cornerRadiusEnd": 2},
        "encoding": {
            "x": {"field": "count", "type": "quantitative", "title": "images", "axis": {"tickMinStep": 1}},
            "y": {"field": "mistake", "type": "nominal", "sort": None, "axis": axis},
            "tooltip": _TOOLTIP,
        },
    }
