"""Accuracy against confidence: a network that knows what it knows lies on the diagonal."""

from __future__ import annotations

from typing import Any

from faultlight.report.charts.common import Spec, figure


def reliability_chart(calibration: dict[str, Any]) -> Spec:
    """Return the accuracy of each bin of confidence with its 95 % interval, sized by its images, and the diagonal."""
    share: Spec = {"type": "quantitative", "scale": {"domain": [0, 1]}, "axis": {"format": ".0%", "tickCount": 5}}
    x = {**share, "field": "confidence", "title": "mean confidence of the bin"}
    tooltip = [
        figure("from", "confidence from", ".1%"),
        figure("to", "to", ".1%"),
        figure("confidence", "mean", ".2%"),
        figure("value", "accuracy", ".2%"),
        figure("n", "images"),
    ]
    size = {"field": "n", "type": "quantitative", "scale": {"range": [40, 420]}, "legend": None}
    y = {**share, "field": "value", "title": "accuracy of the bin"}
    return {
        "description": "Reliability diagram: accuracy against confidence.",
        "width": "container",
        "height": 300,
        "data": {"values": calibration["bins"]},
        "layer": [
            {
                "data": {"values": [{"at": 0}, {"at": 1}]},
                "mark": {"type": "line", "color": "var(--ink-2)", "strokeDash": [4, 4]},
                "encoding": {"x": {**share, "field": "at", "title": x["title"]}, "y": {**share, "field": "at"}},
            },
            {
                "mark": {"type": "rule", "color": "var(--accent)", "strokeWidth": 1.5},
                "encoding": {"x": x, "y": {**share, "field": "low", "title": y["title"]}, "y2": {"field": "high"}},
            },
            {
                "mark": {"type": "point", "filled": True, "color": "var(--accent)", "opacity": 1},
                "encoding": {"x": x, "y": y, "size": size, "tooltip": tooltip},
            },
        ],
    }
