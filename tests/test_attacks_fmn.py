"""FMN: closed forms of linear classifiers in all norms, and projections on ball and box together."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import faultlight as fl
import nearest_cases as cases
import toys
from faultlight.attacks._nearest import project
from faultlight.attacks.fmn import FMN
from faultlight.errors import InputError
from faultlight.models.subject import Subject
from faultlight.threat import Norm

norms = pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])


@norms
@cases.widths
@cases.spreads
def test_on_linear_classifiers_it_finds_the_nearest_twin(norm: str, classes: int, spread: float) -> None:
    net, images = cases.linear_case(classes, spread)
    found = cases.found(net, images, FMN(steps=50), norm)
    assert found == pytest.approx(cases.closed_form(net, images, norm), rel=0.01)


@norms
@cases.slots
def test_so_it_does_for_every_batch(norm: str, slots: int) -> None:
    net, images = cases.linear_case(3, 0.5, n=5)
    assert cases.found(net, images, FMN(steps=50), norm, slots) == pytest.approx(
        cases.closed_form(net, images, norm), rel=0.01
    )


def test_the_first_step_by_hand() -> None:
    """Margin −½, gradient (3, 4): ½/7 away in L∞, 0.1 in L2. The step (0.06, 0.08) is cut to the guess and γ, 0.075."""
    from test_attacks_ddn import plane

    net, images = plane()
    attack = FMN(steps=1, gamma=0.05, step_size=1.0, candidates=0)
    points = toys.trace(attack, toys.problem(Subject(net, 2), images, "linf:1")).points
    assert points[1].flatten().tolist() == pytest.approx([0.56, 0.5 + 0.5 / 7 * 1.05], abs=1e-6)


def test_no_farther_than_foolboxs() -> None:
    net, images = cases.digits()
    theirs = cases.foolbox_median("L2FMNAttack", net, images, 2, steps=100)
    ours = fl.attack(Subject(net, 10), images, FMN(), "l2:8")
    assert bool(ours.broken.all())
    assert cases.median(ours.distance) <= theirs


@norms
def test_a_projection_is_the_nearest_point_of_ball_and_box(norm: Norm) -> None:
    """No random point of both lies nearer to what was projected; and a point of both stays where it is.

    For L0 what is projected is moved into the box first: what counts is how much a pixel can change.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(8, 2, 2, 3, generator=generator)
    delta = torch.randn(8, 2, 2, 3, generator=generator)
    radius = torch.tensor([0.1, 0.3, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0], dtype=torch.float64)
    if norm == "l0":
        radius, delta = radius.ceil(), (x + delta).clamp(0, 1) - x
    point = project(delta, x, radius, norm)
    assert float(point.min()) >= 0
    assert float(point.max()) <= 1
    for row in range(8):
        assert cases.length((point - x)[row].numpy(), norm) <= float(radius[row]) * (1 + 1e-5)
    away = (point - x - delta).flatten(1).norm(dim=1)
    for _ in range(300):
        other = project(delta + 0.3 * torch.randn(8, 2, 2, 3, generator=generator), x, radius, norm)
        assert bool(((other - x - delta).flatten(1).norm(dim=1) >= away * (1 - 1e-3)).all())
    again = project(point - x, x, radius * 1.001, norm)
    assert np.allclose(again, point, atol=2e-6)


@pytest.mark.parametrize("settings", [{"steps": 0}, {"gamma": 1.0}, {"last_gamma": 0.5}, {"step_size": -1.0}], ids=str)
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(InputError, match="FMN needs"):
        FMN(**settings)  # type: ignore[arg-type]
