"""How discriminator and generator fare against each other, and which classes are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from faultlight.report.charts.common import Spec, figure, word

Rows = Sequence[Mapping[str, Any]]

# Solid first; after the last the first comes again.
_DASHES = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [12, 4]]
_STROKES = {"title": None, "orient": "top", "symbolType": "stroke", "symbolStrokeWidth": 2, "symbolSize": 400}
_COLOURS = {"range": ["var(--standing)", "var(--accent)", "var(--ink)", "var(--ink-2)"]}


def scores_chart(runs: Mapping[str, Rows], probabilities: bool) -> Spec:
    """Return what the discriminator says of real and of drawn images, a line a run and kind.

    Args:
        runs: rows of the record by the run's name.
        probabilities: whether it says a probability of "real", or a score.
    """
    title = "probability of “real”" if probabilities else "score"
    scale = {"scale": {"domain": [0, 1]}} if probabilities else {}
    kinds = {"d_real": "real images", "d_fake": "drawn images"}
    return _lines(runs, kinds, title, scale)


def gradients_chart(runs: Mapping[str, Rows], domain: Sequence[float]) -> Spec:
    """Return the L2 norms of both gradients on a logarithmic scale; what is compared shares one `domain`."""
    kinds = {"generator_gradient": "generator", "discriminator_gradient": "discriminator"}
    scale = {"scale": {"type": "log", "domain": list(domain), "clamp": True}}
    return _lines(runs, kinds, "gradient norm (L2)", scale, floor=domain[0])


def classes_chart(runs: Mapping[str, Sequence[int]], names: Sequence[str], most: float) -> Spec:
    """Return which share of the samples falls into each class, a bar a run."""
    bars = [
        {"class": name, "run": run, "share": count / max(sum(counts), 1)}
        for run, counts in runs.items()
        for name, count in zip(names, counts, strict=True)
    ]
    return {
        "description": "Share of the samples in each class.",
        "width": "container",
        "height": 200,
        "data": {"values": bars},
        "mark": "bar",
        "encoding": {
            "x": {
                "field": "class",
                "type": "nominal",
                "sort": list(names),
                "axis": {"labelAngle": 0, "title": "class"},
            },
            "xOffset": {"field": "run", "type": "nominal"},
            "y": {
                "field": "share",
                "type": "quantitative",
                "title": "share of the samples",
                "scale": {"domain": [0, most]},
                "axis": {"format": ".0%", "tickCount": 4},
            },
            "color": {"field": "run", "type": "nominal", "scale": _COLOURS, "legend": {"title": None, "orient": "top"}},
            "tooltip": [word("run", "run"), word("class", "class"), figure("share", "share", ".1%")],
        },
    }


def _lines(
    runs: Mapping[str, Rows], kinds: Mapping[str, str], title: str, scale: Spec, floor: float | None = None
) -> Spec:
    points = [
        {"step": row["step"], "value": row[key] if floor is None else max(row[key], floor), "kind": kind, "run": run}
        for run, rows in runs.items()
        for row in rows
        for key, kind in kinds.items()
    ]
    return {
        "description": f"{title} by step.",
        "width": "container",
        "height": 200,
        "data": {"values": points},
        "mark": {"type": "line", "strokeWidth": 1.5},
        "encoding": {
            "x": {"field": "step", "type": "quantitative", "title": "step", "axis": {"grid": False, "tickCount": 5}},
            "y": {"field": "value", "type": "quantitative", "title": title, "axis": {"tickCount": 4}, **scale},
            "color": {
                "field": "kind",
                "type": "nominal",
                "scale": {"domain": list(kinds.values()), "range": _COLOURS["range"][:2]},
                "legend": _STROKES,
            },
            **_told_apart(list(runs)),
            "tooltip": [
                word("run", "run"),
                word("kind", "of"),
                figure("step", "step"),
                figure("value", title, ".3~g"),
            ],
        },
    }


def _told_apart(runs: Sequence[str]) -> Spec:
    """Return what tells the lines of one kind from each other: how they are dashed, a run each."""
    if len(runs) < 2:
        return {}
    dashes = [_DASHES[place % len(_DASHES)] for place in range(len(runs))]
    scale = {"domain": list(runs), "range": dashes}
    return {"strokeDash": {"field": "run", "type": "nominal", "scale": scale, "legend": _STROKES}}
