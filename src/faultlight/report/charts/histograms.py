"""How near the boundary the images ended, and how far their twins lie from them."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float64

from faultlight.report.charts.common import Spec, dashed_rule, figure, norm_name
from faultlight.report.records import Verdict
from faultlight.report.table import Summary

BINS = 32


def margin_chart(summary: Summary) -> Spec | None:
    """Return the margins of standing and broken images on one axis, or None where the ledger has none."""
    kept = {status: values for status, values in summary.margins.items() if len(values)}
    if not kept:
        return None
    edges = edges_about_zero(np.concatenate(list(kept.values())))
    bars = [bar | {"fate": status} for status, values in kept.items() for bar in histogram(values, edges)]
    colours = {"domain": ["standing", "broken"], "range": ["var(--standing)", "var(--accent)"]}
    fate = {"field": "fate", "type": "nominal", "scale": colours, "legend": {"title": None, "orient": "top"}}
    chart = _bars(bars, "margin of the wrong class (logits)", "Histogram of margins of standing and broken images.")
    chart["layer"][0]["encoding"]["color"] = fate
    chart["layer"].append(dashed_rule(0.0, "boundary"))
    return chart


def distance_chart(summary: Summary, verdict: Verdict) -> Spec | None:
    """Return the twins' distances with ε marked, or None where the ledger has none or all are ε."""
    if not len(summary.distances) or at_the_edge(summary, verdict):
        return None
    reach = max(float(summary.distances.max()), verdict.epsilon) * 1.04
    bars = histogram(summary.distances, np.linspace(0.0, reach, BINS + 1))
    title = f"{norm_name(verdict.norm)} distance of the twin"
    chart = _bars(bars, title, "Histogram of the distances between images and twins.")
    chart["layer"][0]["mark"]["color"] = "var(--accent)"
    chart["layer"][0]["encoding"]["x"]["scale"] = {"domain": [0, reach], "nice": False}
    chart["layer"].append(dashed_rule(verdict.epsilon, f"ε = {verdict.threat.partition(':')[2]}", end=True))
    return chart


def at_the_edge(summary: Summary, verdict: Verdict) -> bool:
    """Return whether every twin lies as far from its image as the threat allows, so that a chart would show nothing."""
    return bool(len(summary.distances)) and float(summary.distances.min()) >= 0.99 * verdict.epsilon


def edges_about_zero(values: Float64[np.ndarray, " k"]) -> Float64[np.ndarray, " e"]:
    """Return equal bins over the values with an edge at 0, so that no bar holds margins of both signs."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    width = (high - low) / (BINS - 1) or 1.0
    first, last = np.floor(low / width), np.ceil(high / width)
    return np.arange(first, max(last, first + 1) + 1, dtype=np.float64) * width


def histogram(values: Float64[np.ndarray, " k"], edges: Float64[np.ndarray, " e"]) -> list[dict[str, Any]]:
    """Return the bars of a histogram that are not empty; each bin holds its lower edge, the last one both."""
    counts = np.histogram(values, edges)[0]
    bins = zip(edges, edges[1:], counts, strict=False)
    return [{"low": float(low), "high": float(high), "count": int(count)} for low, high, count in bins if count]


def _bars(bars: list[Spec], title: str, description: str) -> Spec:
    tooltip = [figure("low", "from", ".3~g"), figure("high", "to", ".3~g"), figure("count", "images")]
    count = {"field": "count", "type": "quantitative", "stack": "zero", "title": "images"}
    encoding = {
        "x": {
            "field": "low",
            "type": "quantitative",
            "bin": {"binned": True},
            "title": title,
            "axis": {"grid": False, "tickCount": 6},
        },
        "x2": {"field": "high"},
        "y": {**count, "axis": {"tickMinStep": 1, "tickCount": 4}},
        "tooltip": tooltip,
    }
    return {
        "description": description,
        "width": "container",
        "height": 180,
        "data": {"values": bars},
        "layer": [{"mark": {"type": "bar", "binSpacing": 1}, "encoding": encoding}],
    }
