"""Accuracy against ε."""

from __future__ import annotations

from faultlight.report.charts.common import Spec, dashed_rule, figure, norm_name, radius_text, word
from faultlight.report.records import Curve, Distances, Rate, Verdict

# Beyond this ratio of the largest ε to the smallest, a linear axis would press the small ones into one line.
_WIDE = 60
_SHARE: Spec = {
    "type": "quantitative",
    "title": "images still classified correctly",
    "scale": {"domain": [0, 1]},
    "axis": {"format": ".0%", "tickCount": 5},
}


def curve_chart(curve: Curve, verdict: Verdict) -> Spec:
    """Return the curve with its 95 % band, the nearest twins' steps, the audited ε marked, and the audit's figure."""
    asked = verdict.threat.partition(":")[2]
    texts = [radius_text(point.epsilon, asked) for point in curve.points]
    points = [vars(point) | {"text": text} for point, text in zip(curve.points, texts, strict=True)]
    steps = (
        [_steps(curve.distances, curve.points[0].value, curve.points[-1].epsilon)] if curve.distances and points else []
    )
    whole = [_whole(verdict.attacked, curve.audit_epsilon, verdict.n)] if verdict.attacked else []
    return {
        "description": f"Accuracy against epsilon at {len(points)} radii.",
        "width": "container",
        "height": 320,
        "params": [
            {"name": "tickValues", "value": [point.epsilon for point in curve.points]},
            {"name": "tickTexts", "value": texts},
        ],
        "data": {"values": points},
        "encoding": {"x": _axis(curve)},
        "layer": [_band(), _line(), _audited(curve, asked), *whole, *steps],
    }


def _axis(curve: Curve) -> Spec:
    radii = [point.epsilon for point in curve.points]
    wide = _is_wide(radii)
    axis = {
        "values": radii,
        "labelExpr": "tickTexts[indexof(tickValues, datum.value)]",
        "labelOverlap": "greedy",
        "labelSeparation": 8,
        "grid": False,
        "title": f"ε ({norm_name(curve.norm)}{', square-root scale' if wide else ''})",
    }
    scale = {"type": "sqrt" if wide else "linear", "domain": [0, max(radii, default=1.0)], "nice": False}
    return {"field": "epsilon", "type": "quantitative", "axis": axis, "scale": scale}


def _is_wide(radii: list[float]) -> bool:
    positive = [radius for radius in radii if radius > 0]
    return bool(positive) and max(positive) / min(positive) > _WIDE


def _band() -> Spec:
    encoding = {"y": {**_SHARE, "field": "low"}, "y2": {"field": "high"}}
    return {"mark": {"type": "area", "color": "var(--accent)", "opacity": 0.16}, "encoding": encoding}


def _line() -> Spec:
    point = {"filled": True, "size": 60, "fill": "var(--accent)", "stroke": "var(--panel)", "strokeWidth": 1.5}
    mark = {"type": "line", "color": "var(--accent)", "strokeWidth": 2.5, "point": point}
    ends = [figure("value", "accuracy", ".2%"), figure("low", "from", ".2%"), figure("high", "to", ".2%")]
    tooltip = [word("text", "ε"), *ends, figure("standing", "standing"), figure("n", "of")]
    return {"mark": mark, "encoding": {"y": {**_SHARE, "field": "value"}, "tooltip": tooltip}}


def _steps(distances: Distances, clean: float, largest: float) -> Spec:
    """Return the accuracy that the nearest known twins imply: it falls by one image at each of their distances."""
    known = [(0.0, clean), *zip(distances.values, distances.accuracy, strict=True)]
    shown = [pair for pair in known if pair[0] <= largest]
    values = [{"epsilon": epsilon, "value": value} for epsilon, value in [*shown, (largest, shown[-1][1])]]
    mark = {"type": "line", "interpolate": "step-after", "color": "var(--ink-2)", "strokeWidth": 1.5}
    return {"data": {"values": values}, "mark": mark, "encoding": {"y": {**_SHARE, "field": "value"}}}


def _audited(curve: Curve, asked: str) -> Spec:
    largest = max((point.epsilon for point in curve.points), default=0.0)
    return dashed_rule(curve.audit_epsilon, f"audited ε = {asked}", end=curve.audit_epsilon > 0.9 * largest)


def _whole(attacked: Rate, epsilon: float, n: int) -> Spec:
    tooltip = [
        figure("value", "whole audit", ".2%"),
        figure("low", "from", ".2%"),
        figure("high", "to", ".2%"),
        figure("n", "images"),
    ]
    bar = {"type": "rule", "color": "var(--ink)", "strokeWidth": 1.5}
    point = {"type": "point", "shape": "diamond", "filled": True, "size": 110, "color": "var(--ink)", "opacity": 1}
    return {
        "data": {"values": [{"epsilon": epsilon, "n": n} | vars(attacked)]},
        "layer": [
            {"mark": bar, "encoding": {"y": {**_SHARE, "field": "low"}, "y2": {"field": "high"}}},
            {"mark": point, "encoding": {"y": {**_SHARE, "field": "value"}, "tooltip": tooltip}},
        ],
    }
