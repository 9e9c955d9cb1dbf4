"""DeepFool: closed forms of linear classifiers, its steps by hand, and no farther than Foolbox's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import faultlight as fl
import nearest_cases as cases
import toys
from faultlight.attacks.deep_fool import DeepFool
from faultlight.errors import InputError
from faultlight.models.subject import Subject

norms = pytest.mark.parametrize("norm", ["linf", "l2"])
EXACT = DeepFool(overshoot=0.001)


@norms
@cases.widths
@cases.spreads
def test_on_linear_classifiers_it_finds_the_nearest_twin(norm: str, classes: int, spread: float) -> None:
    net, images = cases.linear_case(classes, spread)
    assert cases.found(net, images, EXACT, norm) == pytest.approx(cases.closed_form(net, images, norm), rel=0.01)


@norms
@cases.slots
def test_so_it_does_for_every_batch(norm: str, slots: int) -> None:
    net, images = cases.linear_case(3, 0.5, n=5)
    assert cases.found(net, images, EXACT, norm, slots) == pytest.approx(cases.closed_form(net, images, norm), rel=0.01)


def test_one_step_is_enough_for_a_plane_and_the_image_is_done() -> None:
    net, images = cases.linear_case(10, 0.5)
    settled = toys.settle(toys.engine(Subject(net, 10), images, DeepFool(refinements=0), "l2:4"))
    assert [one.attempt.steps for one in settled] == [1] * 6
    assert [one.attempt.backwards for one in settled] == [9] * 6


class Bowl(nn.Module):
    """Two classes; class 1 wins where a² > ¼, a the first pixel."""

    def forward(self, x: Tensor) -> Tensor:
        score = x.flatten(1)[:, 0].square() - 0.25
        return torch.stack([torch.zeros_like(score), score], dim=1)


def test_its_steps_on_a_bowl_by_hand() -> None:
    """From a = 0.4, f = −0.09 and f' = 0.8: a ← 0.5125, past the boundary; from there f/f' = 0.0123 back to 0.5002."""
    x = torch.full((1, 1, 1, 2), 0.4)
    images = fl.Images(x, torch.tensor([0]), torch.tensor([3]), ("in", "out"))
    points = toys.trace(DeepFool(steps=2, overshoot=0.0), toys.problem(Subject(Bowl(), 2), images, "l2:1")).points
    assert [float(point.flatten()[0]) for point in points] == pytest.approx([0.4, 0.5125, 0.50015], abs=2e-4)
    assert bool((Bowl()(points[2]).argmax(1) == 1).all())
    assert [float(point.flatten()[1]) for point in points] == pytest.approx([0.4] * 3)


@pytest.mark.parametrize(
    ("name", "norm", "p"), [("L2DeepFoolAttack", "l2", 2), ("LinfDeepFoolAttack", "linf", torch.inf)]
)
def test_no_farther_than_foolboxs(name: str, norm: str, p: float) -> None:
    net, images = cases.digits()
    theirs = cases.foolbox_median(name, net, images, p)
    ours = fl.attack(Subject(net, 10), images, DeepFool(), {"l2": "l2:8", "linf": "linf:1"}[norm])
    assert bool(ours.broken.all())
    assert cases.median(ours.distance) <= theirs


@pytest.mark.parametrize(
    "settings", [{"steps": 0}, {"overshoot": -0.1}, {"candidates": 0}, {"refinements": -1}], ids=str
)
def test_settings_out_of_range_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(InputError, match="DeepFool needs"):
        DeepFool(**settings)
