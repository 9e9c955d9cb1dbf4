"""True class against the class the twin was classified as."""

from __future__ import annotations

from collections.abc import Sequence

from faultlight.report.charts.common import Spec, figure, word
from faultlight.report.table import Flow

MATRIX_CLASSES = 16
TOP_FLOWS = 20
# No darker than this, so that ink on a cell keeps a contrast of 4.5 in both themes.
DARKEST = 0.52
_TOOLTIP = [word("true", "true class"), word("read", "twin classified as"), figure("count", "images")]


def flow_chart(flows: tuple[Flow, ...], classes: Sequence[str]) -> Spec:
    """Return a matrix of the flows, or the largest of them as bars where the classes are many."""
    values = [_value(flow, classes) for flow in flows]
    return _matrix(values, classes) if len(classes) <= MATRIX_CLASSES else _bars(values[:TOP_FLOWS])


def _value(flow: Flow, classes: Sequence[str]) -> Spec:
    names = [classes[label] if 0 <= label < len(classes) else str(label) for label in (flow.label, flow.twin)]
    return {"label": flow.label, "twin": flow.twin, "count": flow.count, "true": names[0], "read": names[1]}


def _matrix(values: list[Spec], classes: Sequence[str]) -> Spec:
    order = list(range(len(classes)))
    empty = [{"label": label, "twin": twin} for label in order for twin in order if label != twin]
    return {
        "description": "Matrix of true class against the class the twin was classified as; deeper means more images.",
        "width": "container",
        "height": 30 * len(classes),
        "params": [{"name": "names", "value": list(classes)}],
        "data": {"values": values},
        "encoding": _places(order, classes),
        "layer": [
            {"data": {"values": empty}, "mark": {"type": "rect", "color": "var(--sunk)", "cornerRadius": 3}},
            _cells(max((value["count"] for value in values), default=1)),
            _counts(),
        ],
        "config": {"scale": {"bandPaddingInner": 0.08, "bandPaddingOuter": 0.04}},
    }


def _places(order: list[int], classes: Sequence[str]) -> Spec:
    axis = {"labelExpr": "names[datum.value]", "labelLimit": 96, "ticks": False, "domain": False, "labelPadding": 8}
    # Names of more than a few letters would collide on a narrow screen, so they stand slanted.
    slant = -40 if max(map(len, classes), default=0) > 3 else 0
    across = {**axis, "labelAngle": slant, "orient": "top", "title": "twin classified as"}
    scale = {"domain": order}
    return {
        "x": {"field": "twin", "type": "ordinal", "scale": scale, "axis": across},
        "y": {"field": "label", "type": "ordinal", "scale": scale, "axis": {**axis, "title": "true class"}},
    }


def _cells(largest: int) -> Spec:
    mark = {"type": "rect", "color": "var(--accent)", "cornerRadius": 3, "cursor": "pointer"}
    scale = {"domain": [0, largest], "range": [0.05, DARKEST]}
    opacity = {"field": "count", "type": "quantitative", "scale": scale, "legend": None}
    return {"mark": mark, "encoding": {"opacity": opacity, "tooltip": _TOOLTIP}}


def _counts() -> Spec:
    mark = {"type": "text", "cursor": "pointer", "color": "var(--ink)"}
    return {"mark": mark, "encoding": {"text": {"field": "count", "type": "quantitative"}, "tooltip": _TOOLTIP}}


def _bars(values: list[Spec]) -> Spec:
    named = [{**value, "flow": f"{value['true']} → {value['read']}"} for value in values]
    axis = {"title": None, "labelLimit": 220, "ticks": False, "domain": False}
    return {
        "description": f"The {len(named)} largest flows from true class to the class the twin was classified as.",
        "width": "container",
        "height": 24 * len(named),
        "data": {"values": named},
        "mark": {"type": "bar", "color": "var(--accent)", "cursor": "pointer", "cornerRadiusEnd": 2},
        "encoding": {
            "x": {"field": "count", "type": "quantitative", "title": "images", "axis": {"tickMinStep": 1}},
            "y": {"field": "flow", "type": "nominal", "sort": None, "axis": axis},
            "tooltip": _TOOLTIP,
        },
    }
