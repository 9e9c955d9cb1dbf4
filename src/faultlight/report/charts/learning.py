"""Learning curves, of one run or of two on one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from faultlight.report.charts.common import Spec, figure, word

# One colour a run; the second is as strong in both themes.
COLOURS = ("var(--accent)", "var(--warn)")
_DASHES = ([1, 0], [6, 3], [2, 3], [9, 3, 2, 3])
Rows = Sequence[Mapping[str, Any]]


def learning_chart(
    runs: Mapping[str, Rows], keys: Sequence[str], title: str, best: Mapping[str, int], form: str = ".4~f"
) -> Spec | None:
    """Return curves over the epochs, or None where no run has any of the keys.

    Args:
        runs: the rows of one or two runs, by name.
        keys: what to draw: a line each, dashed differently.
        title: of the vertical axis.
        best: the epoch that each run kept, marked by a dot.
        form: of the numbers.
    """
    values = [
        {
            "run": name,
            "series": _spoken(key),
            "epoch": row["epoch"],
            "value": row[key],
            "kept": row["epoch"] == best[name],
        }
        for name, rows in runs.items()
        for row in rows
        for key in keys
        if isinstance(row.get(key), int | float)
    ]
    if not values:
        return None
    tooltip = [word("run", "run"), word("series", "figure"), figure("epoch", "epoch"), figure("value", "value", form)]
    axis = {"format": form, "tickCount": 5} if form.endswith("%") else {"tickCount": 5}
    encoding: Spec = {
        "x": {"field": "epoch", "type": "quantitative", "title": "epoch", "axis": {"grid": False, "tickMinStep": 1}},
        "y": {"field": "value", "type": "quantitative", "title": title, "scale": {"zero": False}, "axis": axis},
        "color": _colour(list(runs)),
        "strokeDash": _dash([_spoken(key) for key in keys if any(each["series"] == _spoken(key) for each in values)]),
    }
    kept = {"type": "point", "filled": True, "size": 70, "opacity": 1}
    return {
        "description": f"{title} against epoch.",
        "width": "container",
        "height": 240,
        "data": {"values": values},
        "encoding": encoding,
        "layer": [
            {"mark": {"type": "line", "strokeWidth": 2.2}},
            {"mark": {"type": "point", "size": 90, "opacity": 0}, "encoding": {"tooltip": tooltip}},
            {"transform": [{"filter": "datum.kept"}], "mark": kept, "encoding": {"tooltip": tooltip}},
        ],
    }


def _colour(names: list[str]) -> Spec:
    legend = (
        {"title": None, "orient": "top", "symbolType": "stroke", "symbolStrokeWidth": 3} if len(names) > 1 else None
    )
    scale = {"domain": names, "range": list(COLOURS[: len(names)])}
    return {"field": "run", "type": "nominal", "scale": scale, "legend": legend}


def _dash(series: list[str]) -> Spec:
    shape = {"title": None, "orient": "top", "symbolType": "stroke", "symbolStrokeWidth": 2}
    scale = {"domain": series, "range": [_DASHES[place % len(_DASHES)] for place in range(len(series))]}
    return {"field": "series", "type": "nominal", "scale": scale, "legend": shape if len(series) > 1 else None}


def _spoken(key: str) -> str:
    return key.replace("_", " ")
