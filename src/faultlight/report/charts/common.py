"""What every chart shares: the shape of a specification, names of norms, and how a radius is written."""

from __future__ import annotations

from typing import Any

Spec = dict[str, Any]
NORMS = {"linf": "L∞", "l2": "L2", "l1": "L1", "l0": "L0"}


def norm_name(norm: str) -> str:
    """Return a norm as people write it: "linf" → "L∞"."""
    return NORMS.get(norm, norm)


def radius_text(epsilon: float, asked: str) -> str:
    """Return ε as the audit was asked for it: in 255ths where it was, and else as a short decimal."""
    steps = epsilon * 255
    if asked.endswith("/255") and abs(steps - round(steps)) < 1e-3:
        return f"{round(steps)}/255" if epsilon else "0"
    return f"{epsilon:.3g}"


def figure(field: str, title: str, form: str = "") -> Spec:
    """Return a line of a tooltip: a field of the data, named, as a number in the given form."""
    return {"field": field, "type": "quantitative", "title": title} | ({"format": form} if form else {})


def word(field: str, title: str) -> Spec:
    """Return a line of a tooltip that holds text."""
    return {"field": field, "type": "nominal", "title": title}


def dashed_rule(at: float, text: str, end: bool = False) -> Spec:
    """Return a layer that marks one place of the horizontal axis by a dashed line with a label over it.

    The label is centred on the line, or ends at it where `end` says that the line stands near the chart's edge.
    """
    side = {"align": "right", "dx": 4} if end else {"align": "center"}
    label = {"type": "text", "baseline": "bottom", "y": -5, "color": "var(--ink-2)", **side}
    return {
        "data": {"values": [{"at": at, "text": text}]},
        "encoding": {"x": {"field": "at", "type": "quantitative"}},
        "layer": [
            {"mark": {"type": "rule", "color": "var(--ink-2)", "strokeDash": [4, 4]}},
            {"mark": label, "encoding": {"text": {"field": "text", "type": "nominal"}}},
        ],
    }
