"""FAB: closed forms of linear classifiers, one step by hand, targets, restarts, and the projection on a plane."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import faultlight as fl
import nearest_cases as cases
import toys
from faultlight.attacks._planes import reach
from faultlight.attacks.fab import FAB
from faultlight.errors import InputError
from faultlight.models.subject import Subject
from faultlight.threat import Norm

norms = pytest.mark.parametrize("norm", ["linf", "l2", "l1"])


@norms
@cases.widths
@cases.spreads
def test_on_linear_classifiers_it_finds_the_nearest_twin(norm: str, classes: int, spread: float) -> None:
    """In L1 from several starts: which class is nearest is judged without the box, and one run may follow another."""
    net, images = cases.linear_case(classes, spread)
    attack = FAB(steps=40, eta=1.005, restarts=4) if norm == "l1" else FAB(steps=15, eta=1.005)
    assert cases.found(net, images, attack, norm) == pytest.approx(cases.closed_form(net, images, norm), rel=0.01)


@norms
@cases.slots
def test_targeted_at_every_class_it_does_so_for_every_batch(norm: str, slots: int) -> None:
    net, images = cases.linear_case(3, 0.5, n=5)
    attack = FAB(steps=6, eta=1.005, targets=2)
    exact = cases.closed_form(net, images, norm)
    assert cases.found(net, images, attack, norm, slots) == pytest.approx(exact, rel=0.01)


def test_its_first_step_by_hand() -> None:
    """On the plane 3a + 4b = 4 from (½, ½): d = d₀ = (0.06, 0.08); x + 1.05·d is a twin, and 0.9 of the way is kept."""
    from test_attacks_ddn import plane

    net, images = plane()
    points = toys.trace(FAB(steps=1), toys.problem(Subject(net, 2), images, "l2:1")).points
    kept = 0.9 * 1.05
    assert points[1].flatten().tolist() == pytest.approx([0.5 + 0.06 * kept, 0.5 + 0.08 * kept], abs=1e-6)


def test_its_passes_are_those_of_autoattack() -> None:
    """Targeted, a step costs two forward passes and one backward."""
    net, images = cases.linear_case(10, 0.5)
    settled = toys.settle(toys.engine(Subject(net, 10), images, FAB(steps=10, targets=9), "linf:0.0001"))
    assert len(settled) == 9 * 6
    assert {(one.attempt.forwards, one.attempt.backwards) for one in settled} == {(20, 10)}
    assert len({one.attempt.target for one in settled if one.row == 0}) == 9


def test_restarts_begin_within_half_the_radius() -> None:
    net, images = cases.linear_case(3, 0.05)
    posed = toys.problem(Subject(net, 3), images, "linf:0.1")
    first, second, third = (FAB().start(replace(posed, restart=torch.full_like(posed.y, r))).x for r in (0, 1, 2))
    assert torch.equal(first, images.x)
    assert torch.allclose((second - images.x).flatten(1).abs().amax(1), torch.tensor(0.05), atol=1e-6)
    assert not torch.equal(second, third)


def test_at_a_fixed_radius_it_stops_at_the_first_twin_inside() -> None:
    """Broken iff the nearest twin lies within ε, where nothing else is asked; and the passes end there."""
    net, images = cases.linear_case(10, 0.5)
    exact = cases.closed_form(net, images, "linf")
    for factor, broken in ((1.02, True), (0.98, False)):
        for row in range(len(images)):
            one = images.take(torch.tensor([row]))
            threat = f"linf:{factor * exact[row]}"
            jobs = toys.settle(toys.engine(Subject(net, 10), one, FAB(steps=6, eta=1.005, targets=9), threat))
            assert jobs[-1].attempt.broke == broken
            assert jobs[-1].attempt.steps < 40 or not broken


@norms
def test_a_plane_is_reached_by_the_smallest_step_inside_the_box(norm: Norm) -> None:
    """Against the closed form in numpy; the sign of the gap does not matter; a plane out of reach gives the corner."""
    generator = torch.Generator().manual_seed(1)
    x, normal = torch.rand(20, 1, 4, 4, generator=generator), torch.randn(20, 1, 4, 4, generator=generator)
    room = torch.where(normal > 0, 1 - x, x)
    farthest = (normal.abs() * room).flatten(1).sum(1)
    gap = farthest * torch.linspace(0.05, 0.95, 20)
    for sign in (1, -1):
        step = reach(x, sign * normal, sign * gap, norm)
        assert torch.allclose((normal * step).flatten(1).sum(1), gap, rtol=1e-4)
        assert bool(((x + step >= -1e-6) & (x + step <= 1 + 1e-6)).all())
        sizes = [cases.length(one.numpy(), norm) for one in step]
        exact = [
            cases.to_plane(point.numpy(), slope.numpy(), float(value), norm)
            for point, slope, value in zip(x.flatten(1).double(), normal.flatten(1).double(), gap.double(), strict=True)
        ]
        assert np.array(sizes) == pytest.approx(np.array(exact), rel=1e-4)
    corner = reach(x, normal, 2 * farthest, norm)
    assert torch.allclose(corner, normal.sign() * room, atol=1e-6)


def test_no_farther_than_foolboxs_deep_fool() -> None:
    net, images = cases.digits()
    theirs = cases.foolbox_median("L2DeepFoolAttack", net, images, 2)
    ours = fl.attack(Subject(net, 10), images, FAB(steps=10), "l2:8")
    assert bool(ours.broken.all())
    assert cases.median(ours.distance) <= theirs


@pytest.mark.parametrize(
    "settings",
    [{"steps": 0}, {"restarts": 0}, {"targets": -1}, {"alpha_max": 2.0}, {"eta": 0.9}, {"beta": 1.0}],
    ids=str,
)
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(InputError, match="FAB needs"):
        FAB(**settings)  # type: ignore[arg-type]
