"""The charts' specifications: bins by hand, radii as they were asked, colours that follow the theme."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from faultlight.report.charts.common import radius_text
from faultlight.report.charts.curve import curve_chart
from faultlight.report.charts.flows import flow_chart
from faultlight.report.charts.histograms import BINS, distance_chart, edges_about_zero, histogram, margin_chart
from faultlight.report.numbers import look_up, percent_digits, shown
from faultlight.report.records import Cost, Curve, Data, Model, Point, Rate, Verdict
from faultlight.report.table import Flow, Summary

VERDICT = Verdict(
    status="sound",
    sentence="",
    complete=True,
    n=50,
    threat="linf:8/255",
    norm="linf",
    epsilon=8 / 255,
    data=Data("d", "test", ["a", "b"]),
    model=Model("m"),
    cost=Cost(1, 1, 1.0),
    invalid=0,
    fragile=0,
    attacked=Rate(0.5, 0.4, 0.6, 25),
)


def summary(standing: list[float], broken: list[float], distances: list[float]) -> Summary:
    margins = {"standing": np.array(standing, dtype=np.float64), "broken": np.array(broken, dtype=np.float64)}
    return Summary({}, (), margins, np.array(distances, dtype=np.float64))


def curve(*radii: float) -> Curve:
    points = [Point(radius, f"{radius:g}", 5, 10, 0.5, 0.2, 0.8) for radius in radii]
    return Curve("linf", 10, "pgd", points, 8 / 255)


@pytest.mark.parametrize(
    ("epsilon", "asked", "text"),
    [
        (0.0, "8/255", "0"),
        (8 / 255, "8/255", "8/255"),
        (0.0039215689, "8/255", "1/255"),
        (0.5, "8/255", "0.5"),
        (1.5 / 255, "8/255", "0.00588"),
        (0.1, "0.1", "0.1"),
        (8 / 255, "0.03", "0.0314"),
        (0.0, "0.1", "0"),
        (3.0, "1", "3"),
    ],
)
def test_a_radius_is_written_as_it_was_asked(epsilon: float, asked: str, text: str) -> None:
    assert radius_text(epsilon, asked) == text


def test_a_histogram_by_hand() -> None:
    bars = histogram(np.array([0.0, 0.5, 1.0, 2.5, 3.0]), np.array([0.0, 1.0, 2.0, 3.0]))
    assert bars == [
        {"low": 0.0, "high": 1.0, "count": 2},
        {"low": 1.0, "high": 2.0, "count": 1},
        {"low": 2.0, "high": 3.0, "count": 2},
    ]


@pytest.mark.parametrize("values", [[-3.0, 5.0], [0.2, 9.0], [-4.0, -1.0], [0.0], [7.0], [-1e-9, 1e6]])
def test_bins_have_an_edge_at_zero_and_hold_everything(values: list[float]) -> None:
    edges = edges_about_zero(np.array(values))
    assert 0.0 in edges
    assert edges[0] <= min(values)
    assert edges[-1] >= max(values)
    assert np.all(np.diff(edges) > 0)
    assert len(edges) <= BINS + 3


def test_margins_of_both_kinds_are_counted_apart() -> None:
    chart = margin_chart(summary([-2.0, -1.0, -1.0], [0.5], []))
    assert chart is not None
    bars = chart["data"]["values"]
    counts = {fate: sum(bar["count"] for bar in bars if bar["fate"] == fate) for fate in ("standing", "broken")}
    assert counts == {"standing": 3, "broken": 1}


def test_no_data_is_no_chart() -> None:
    assert margin_chart(summary([], [], [])) is None
    assert distance_chart(summary([], [], []), VERDICT) is None


def test_distances_that_are_all_the_radius_make_no_chart() -> None:
    assert distance_chart(summary([], [], [8 / 255] * 9), VERDICT) is None


def test_a_distance_of_the_radius_falls_at_the_mark() -> None:
    chart = distance_chart(summary([], [], [0.0] + [8 / 255] * 9), VERDICT)
    assert chart is not None
    first, last = chart["data"]["values"]
    assert (first["count"], last["count"]) == (1, 9)
    assert last["low"] <= 8 / 255 <= last["high"]


@pytest.mark.parametrize(("radii", "scale"), [((0.0, 0.01, 0.1), "linear"), ((0.0, 0.001, 0.5), "sqrt")])
def test_a_wide_range_of_radii_is_drawn_on_a_square_root_scale_that_says_so(
    radii: tuple[float, ...], scale: str
) -> None:
    axis = curve_chart(curve(*radii), VERDICT)["encoding"]["x"]
    assert axis["scale"]["type"] == scale
    assert ("square-root" in axis["axis"]["title"]) == (scale == "sqrt")


def test_a_withheld_figure_is_not_drawn() -> None:
    withheld = Verdict(**{**vars(VERDICT), "attacked": None})
    shown_layers = [len(curve_chart(curve(0.0, 0.1), verdict)["layer"]) for verdict in (VERDICT, withheld)]
    assert shown_layers == [4, 3]


def test_few_classes_make_a_matrix_and_many_make_bars() -> None:
    flows = tuple(Flow(i, i + 1, 50 - i) for i in range(30))
    assert "layer" in flow_chart(flows[:3], list("abcdef"))
    bars = flow_chart(flows, [f"c{i}" for i in range(40)])
    assert [value["flow"] for value in bars["data"]["values"]][:2] == ["c0 → c1", "c1 → c2"]
    assert len(bars["data"]["values"]) == 20


def colours(spec: Any) -> list[str]:
    if isinstance(spec, list):
        return [colour for part in spec for colour in colours(part)]
    if not isinstance(spec, dict):
        return []
    here = [spec[key] for key in ("color", "fill", "stroke") if isinstance(spec.get(key), str)]
    return here + [colour for part in spec.values() for colour in colours(part)]


def test_every_colour_is_a_variable_of_the_theme() -> None:
    specs = [
        curve_chart(curve(0.0, 0.1), VERDICT),
        flow_chart((Flow(0, 1, 2),), ["a", "b"]),
        margin_chart(summary([-1.0], [1.0], [])),
        distance_chart(summary([], [], [0.01]), VERDICT),
    ]
    found = colours(specs)
    assert len(found) > 10
    assert all(colour.startswith("var(--") for colour in found)
    assert "#" not in json.dumps(specs)


@pytest.mark.parametrize(
    ("value", "kind", "digits", "text"),
    [
        (0.55, "percent", 1, "55.0\u202f%"),
        (0.9820, "percent", 2, "98.20\u202f%"),
        (0.98765, "confidence", 2, "98.8\u202f%"),
        (1234567, "count", 1, "1,234,567"),
        (-1.2345, "plain", 1, "−1.23"),
        (2.5e-05, "plain", 1, "2.5e−05"),
        (1803.27, "seconds", 1, "1,803.3\u202fs"),
    ],
)
def test_numbers_are_written_for_reading(value: float, kind: Any, digits: int, text: str) -> None:
    assert shown(value, kind, digits) == text


def test_percentages_carry_the_digits_their_images_can_bear() -> None:
    assert [percent_digits(n) for n in (10, 999, 1000, 10_000, 10_001)] == [1, 1, 2, 2, 3]


def test_a_path_leads_into_objects_and_lists() -> None:
    assert look_up({"a": {"b": [10, {"c": 3}]}}, "a.b.1.c") == 3
