"""DDN: closed forms of linear classifiers, one step by hand, and no farther than Foolbox's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import faultlight as fl
import nearest_cases as cases
import toys
from faultlight.attacks.ddn import DDN
from faultlight.errors import InputError
from faultlight.models.subject import Subject


@cases.widths
@cases.spreads
def test_on_linear_classifiers_it_finds_the_nearest_twin(classes: int, spread: float) -> None:
    net, images = cases.linear_case(classes, spread)
    found = cases.found(net, images, DDN(steps=50), "l2")
    assert found == pytest.approx(cases.closed_form(net, images, "l2"), rel=0.01)


@cases.slots
def test_so_it_does_for_every_batch(slots: int) -> None:
    net, images = cases.linear_case(3, 0.5, n=5)
    assert cases.found(net, images, DDN(steps=50), "l2", slots) == pytest.approx(
        cases.closed_form(net, images, "l2"), rel=0.01
    )


def test_a_goal_is_reached_where_its_class_wins() -> None:
    """Of three classes; the twin of a goal beats both others, which takes at least the way past the label."""
    net, images = cases.linear_case(3, 0.05)
    images = images.take(images.y != 2)
    result = fl.attack(Subject(net, 3), images, DDN(), "l2:4", target=2)
    assert result.prediction.tolist() == [2] * len(images)
    past_label = cases.closed_form(net, images, "l2", goal=2)
    assert (result.distance.numpy() >= past_label * 0.999).all()
    assert (result.distance.numpy() <= past_label * 1.01).any()


def plane() -> tuple[nn.Sequential, fl.Images]:
    """Class 1 wins where 3·a + 4·b > 4: from (½, ½), with margin −½, it is 0.1 away along (0.6, 0.8)."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
        net[1].bias.copy_(torch.tensor([0.0, -4.0]))
    return net.eval(), fl.Images(torch.full((1, 1, 1, 2), 0.5), torch.tensor([0]), torch.tensor([7]), ("a", "b"))


def test_its_first_steps_by_hand() -> None:
    """The first radius is 5 % more than the boundary's distance, 0.1; there is a twin, so the next is 5 % less."""
    net, images = plane()
    problem = toys.problem(Subject(net, 2), images, "l2:1")
    image, *points = toys.trace(DDN(steps=4, gamma=0.05, last_gamma=0.05), problem).points
    assert image.flatten().tolist() == [0.5, 0.5]
    beyond = toys.trace(DDN(steps=3, gamma=0.05, last_gamma=0.05, candidates=1), problem).points
    assert all(torch.allclose(*pair, atol=3e-5) for pair in zip(points, beyond, strict=True))
    first = 0.1 * 1.05
    for point, radius in zip(
        points, [first, first * 0.95, first * 0.95 * 1.05, first * 0.95 * 1.05 * 0.95], strict=True
    ):
        assert point.flatten().tolist() == pytest.approx([0.5 + 0.6 * radius, 0.5 + 0.8 * radius], abs=3e-5)


def test_no_farther_than_foolboxs() -> None:
    net, images = cases.digits()
    theirs = cases.foolbox_median("DDNAttack", net, images, 2, steps=100)
    ours = fl.attack(Subject(net, 10), images, DDN(), "l2:8")
    assert bool(ours.broken.all())
    assert cases.median(ours.distance) <= theirs


@pytest.mark.parametrize(
    "settings", [{"steps": 0}, {"gamma": 1.0}, {"last_gamma": 0.5}, {"last_step_size": 3.0}], ids=str
)
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(InputError, match="DDN needs"):
        DDN(**settings)  # type: ignore[arg-type]


def test_other_norms_are_refused() -> None:
    net, images = plane()
    with pytest.raises(InputError, match="not for linf"):
        fl.attack(Subject(net, 2), images, DDN(), "linf:0.5")
