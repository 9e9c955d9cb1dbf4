"""The map of features in the gallery: a net whose features are known, and how the report draws it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import faultlight as fl
import runs
from faultlight.evaluation.feature_map import AROUND, STOPS, feature_map
from faultlight.models.subject import Subject
from faultlight.report.plane import Plane, dots, path_of, plane_of
from faultlight.report.records import FeatureMap, Gallery, Item


def plain() -> Subject:
    """The features are the two pixels themselves."""
    return Subject(nn.Sequential(nn.Flatten(), nn.Identity(), nn.Linear(2, 2)), 2)


def images(*pixels: tuple[float, float]) -> fl.Images:
    x = torch.tensor(pixels).view(-1, 1, 1, 2)
    return fl.Images(x, torch.zeros(len(x), dtype=torch.int64), torch.arange(len(x)), ("a", "b"), name="pairs")


def test_the_plane_and_a_path_of_a_net_that_does_nothing() -> None:
    """Components are those of the pixels, and the path is a straight line of even steps of the true length."""
    around = images((0.1, 0.1), (0.9, 0.9), (0.5, 0.6), (0.6, 0.5))
    start = images((0.2, 0.2))
    record, (path,) = feature_map(plain(), around, start, torch.tensor([0.8, 0.8]).view(1, 1, 1, 2))
    assert record is not None
    points = np.array(record["points"])
    assert np.abs(points[:, 0]).max() == pytest.approx(0.4 * 2**0.5 + 0.025 * 2**0.5, abs=0.05)
    assert record["explained"][0] > 0.9
    assert record["labels"] == [0, 0, 0, 0]
    steps = np.diff(np.array(path), axis=0)
    assert len(path) == STOPS
    assert np.linalg.norm(steps, axis=1) == pytest.approx(np.full(STOPS - 1, 0.6 * 2**0.5 / (STOPS - 1)), abs=1e-3)


def test_features_that_never_vary_make_no_map() -> None:
    same = images((0.5, 0.5), (0.5, 0.5), (0.5, 0.5))
    assert feature_map(plain(), same, same, same.x) == (None, [])


def test_an_audit_records_a_path_for_each_failure_shown(tmp_path: Path) -> None:
    fl.audit(runs.subject(), runs.digits(30), "linf:0.2", tmp_path / "run", effort="quick")
    gallery = json.loads((tmp_path / "run" / "records" / "gallery.json").read_text())
    assert gallery["items"]
    assert {len(item["path"]) for item in gallery["items"]} == {STOPS}
    assert len(gallery["map"]["points"]) == min(30, AROUND)
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("<polyline") == len(gallery["items"])


def a_gallery() -> Gallery:
    item = Item(0, 0, 0, 1, "pgd", [1.0, 0.0], [0.0, 1.0], path=[(0.0, 0.0), (3.0, 1.0)])
    return Gallery([item], map=FeatureMap("fc", [0.9, 0.1], [(-1.0, 0.0), (1.0, 2.0)], [0, 1]))


def test_everything_lies_on_one_scale() -> None:
    """From −1 to 3 is the longer side: 4 units fill the 92 between the margins, and up is up."""
    gallery = a_gallery()
    assert plane_of(gallery) == Plane(-1.0, 2.0, 23.0)
    assert [(dot.x, dot.y, dot.label) for dot in dots(gallery)] == [(4.0, 50.0, 0), (50.0, 4.0, 1)]
    assert path_of(plane_of(gallery), gallery.items[0]) == [(27.0, 50.0), (96.0, 27.0)]


def test_a_run_without_a_map_draws_none() -> None:
    gallery = Gallery([Item(0, 0, 0, 1, "pgd", [1.0], [1.0])])
    assert plane_of(gallery) is None
    assert list(dots(gallery)) == []
    assert path_of(plane_of(gallery), gallery.items[0]) == []
