"""Nearest twins of the curve's sample: what is recorded of them, and that a kill in between changes nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor, nn

import faultlight as fl
import runs
from faultlight.evaluation import adaptive, curve
from faultlight.evaluation.ledger import read_ledger
from faultlight.evaluation.probing import _jobs_done
from faultlight.evaluation.rows import Attempt, ImageRow, Outcome, Status
from faultlight.threat import Threat


def image(number: int, right: bool = True, finite: bool = True) -> ImageRow:
    status = Status.STANDING if right else Status.MISCLASSIFIED
    return ImageRow(number, 0, 0 if right else 1, status, clean_margin=-1.0 if finite else None)


def attempt(number: int, probe: str, distance: float | None, threat: str = "linf:1") -> Attempt:
    outcome = Outcome.STOOD if distance is None else Outcome.BROKE
    return Attempt(number, probe, threat, 0, -1, outcome, 1.0, distance, 1, False, 30, 31, 30, 0)


IMAGES = [image(0), image(1), image(2), image(3, right=False), image(4, finite=False)]
FOUND = [
    attempt(0, curve.NEAREST, 0.2),
    attempt(1, curve.NEAREST, 0.3),
    attempt(2, curve.NEAREST, None),
    attempt(1, "pgd", 0.1, "linf:0.1"),
    attempt(0, "pgd", None, "linf:0.1"),
    attempt(0, "other", 0.01, "l2:0.1"),
]


def test_per_image_the_nearest_of_all_probes_in_the_norm_counts() -> None:
    """Images 0 and 1 have twins, 2 has none known, 3 is wrong by itself, 4 has no logits and is left out."""
    nearest = curve.nearest_twins(IMAGES, FOUND, "linf")
    assert nearest is not None
    assert nearest.distance == {0: 0.2, 1: 0.1, 2: math.inf, 3: 0.0}
    assert nearest.found_by == {0: curve.NEAREST, 1: "pgd", 2: "", 3: ""}


def test_the_record_by_hand() -> None:
    record = curve.distances_record(curve.nearest_twins(IMAGES, FOUND, "linf"))
    assert record is not None
    assert (record["n"], record["median"]) == (4, 0.1)
    assert record["values"] == [0.0, 0.1, 0.2]
    assert record["accuracy"] == [0.75, 0.5, 0.25]
    assert record["quantiles"] == {"5": 0.0, "25": 0.0, "50": 0.1, "75": 0.2, "95": None}
    assert record["found_by"] == {curve.NEAREST: 1, "pgd": 1}
    json.dumps(record, allow_nan=False)


def test_a_search_half_done_has_no_record() -> None:
    assert curve.nearest_twins(IMAGES, FOUND[1:], "linf") is None
    assert curve.nearest_twins([], [], "linf") is None
    assert curve.distances_record(None) is None


def test_a_twin_does_not_end_a_search_for_the_nearest() -> None:
    held = [attempt(0, curve.NEAREST, 0.2)]
    assert _jobs_done(held, nearest=True)(0) == 1
    assert _jobs_done(held, nearest=False)(0) > 1 << 20


def test_a_curve_is_lowered_only_once_all_of_it_can_be() -> None:
    """Images 0 to 2 are sampled. Lent gradients break image 0 at 0.1, then 0 and 1 at 0.2: not at one ε alone."""
    balls = [Threat("linf", 0.1), Threat("linf", 0.2)]
    own = [attempt(number, curve.PROBE, None, str(ball)) for ball in balls for number in range(3)]
    first = [attempt(0, curve.LENT, 0.1, "linf:0.1"), *(attempt(n, curve.LENT, None, "linf:0.1") for n in (1, 2))]
    last = [attempt(n, curve.LENT, 0.2 if n < 2 else None, "linf:0.2") for n in range(3)]
    none: list[Attempt] = []
    cases = ((none, False, [3]), (own + first, False, [3, 3, 3]), (own + first + last, True, [3, 2, 1]))
    for attempts, lent, standing in cases:
        points = [curve.curve_points(IMAGES, attempts, balls, probe) for probe in (curve.PROBE, curve.LENT)]
        record = curve.curve_record(*points, IMAGES, balls[0], None)
        assert record["lent"] is lent
        assert [point["standing"] for point in record["points"]] == standing


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("curves") / "run"
    fl.audit(runs.subject(), runs.digits(30), "linf:0.1", folder, effort="quick")
    return folder


def test_an_audit_records_the_nearest_twins(audited: Path) -> None:
    """Every sampled image breaks within the box; no twin is farther than another probe's; ε = 0 is the clean figure."""
    record = json.loads((audited / "records/curve.json").read_text())
    ledger = read_ledger(audited / "ledger.sqlite")
    attempts = [one for one in ledger.attempts() if one.distance is not None]
    right = [one.id for one in ledger.images() if one.prediction == one.label]
    least = [min(one.distance or 0.0 for one in attempts if one.id == number) for number in right]
    expected = np.sort([0.0] * (30 - len(right)) + least)
    distances = record["distances"]
    assert distances["values"] == pytest.approx(expected)
    assert distances["accuracy"][-1] == 0
    for point in record["points"]:
        implied = float((expected > point["epsilon"]).mean()) if point["epsilon"] else point["value"]
        assert implied <= point["value"]
    assert len(ledger.attempts(curve.NEAREST)) == len(right)


def test_the_nearest_twins_do_not_decide_the_verdict(audited: Path) -> None:
    """Most of them lie outside the audited ball."""
    rows = read_ledger(audited / "ledger.sqlite").images()
    assert all((row.distance or 0.0) <= 0.1 * (1 + 1e-6) for row in rows)
    assert any(row.status == Status.STANDING for row in rows)
    assert curve.NEAREST not in {row.broken_by for row in rows}


class Rounded(nn.Module):
    """The fixed classifier behind a rounding to five grey values: its gradient is zero everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = runs.templates()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner((x * 4).round() / 4)


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("masked") / "run"
    fl.audit(runs.subject(Rounded()), runs.digits(20), "linf:0.2", folder, effort="quick")
    return folder


def test_where_gradients_are_hidden_the_curve_follows_lent_ones(masked: Path) -> None:
    """The model's own gradients break nothing at any ε; the curve drawn falls, to nothing where all can be grey."""
    record = json.loads((masked / "records/curve.json").read_text())
    attempts = read_ledger(masked / "ledger.sqlite").attempts()
    assert not any(one.broke for one in attempts if one.probe == curve.PROBE)
    assert record["lent"]
    standing = [point["standing"] for point in record["points"]]
    assert standing == sorted(standing, reverse=True)
    assert standing[-1] == 0 < standing[0]
    for point in record["points"][1:]:
        broke = {one.id for one in attempts if one.probe == curve.LENT and one.threat == f"linf:{point['text']}"}
        assert len(broke) == standing[0]
    assert record["distances"]["found_by"][curve.NEAREST_LENT] > 0
    assert record["distances"]["median"] < 0.5


def test_a_cross_check_that_borrows_gradients_draws_the_curve_with_them_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Symptoms are measured on a sample and can miss what only the cross-check then finds."""
    monkeypatch.setattr(adaptive, "adaptive_stages", lambda *_: ())
    fl.audit(runs.subject(Rounded()), runs.digits(10), "linf:0.2", tmp_path / "run", effort="quick")
    assert json.loads((tmp_path / "run/records/curve.json").read_text())["lent"]


def test_the_check_still_says_that_own_gradients_fail(masked: Path) -> None:
    verdict = json.loads((masked / "verdict.json").read_text())
    assert "curve-not-reaching-zero" in {finding["check"] for finding in verdict["findings"]}


def test_sound_gradients_draw_the_curve_once(audited: Path) -> None:
    assert not json.loads((audited / "records/curve.json").read_text())["lent"]
    probes = {one.probe for one in read_ledger(audited / "ledger.sqlite").attempts()}
    assert not {curve.LENT, curve.NEAREST_LENT} & probes
