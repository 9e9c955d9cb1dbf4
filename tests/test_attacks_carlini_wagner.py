"""C&W: closed forms of linear classifiers, Adam by hand, and every image broken, no farther than Foolbox's DDN."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import faultlight as fl
import nearest_cases as cases
import toys
from faultlight.attacks.carlini_wagner import CarliniWagner, Weighing
from faultlight.errors import InputError
from faultlight.models.subject import Subject
from test_attacks_ddn import plane


@cases.widths
@cases.spreads
def test_on_linear_classifiers_it_finds_the_nearest_twin(classes: int, spread: float) -> None:
    net, images = cases.linear_case(classes, spread, n=4)
    found = cases.found(net, images, CarliniWagner(), "l2")
    assert found == pytest.approx(cases.closed_form(net, images, "l2"), rel=0.01)


@cases.slots
def test_so_it_does_for_every_batch(slots: int) -> None:
    net, images = cases.linear_case(3, 0.5, n=4)
    found = cases.found(net, images, CarliniWagner(), "l2", slots)
    assert found == pytest.approx(cases.closed_form(net, images, "l2"), rel=0.01)


# In `plane` the margin is −½ and its gradient (3, 4): the boundary is 0.1 away, and the start 5 % beyond it.
BEYOND = 0.105
FIRST_WEIGHT = 4 * BEYOND**2 / 0.5


def test_its_first_step_is_adams() -> None:
    """Beyond the boundary the distance alone pulls, and Adam's first step moves each w by 2 · 0.7 · 0.105 / √2."""
    net, images = plane()
    attack = CarliniWagner(searches=1, iterations=2)
    posed = toys.problem(Subject(net, 2), images, "l2:1", step=1)
    state = attack.start(posed)
    drawn = [math.atanh(0.98 * 2 * BEYOND * part) for part in (0.6, 0.8)]
    assert state.w.flatten().tolist() == pytest.approx(drawn, rel=1e-3)
    assert float(state.c[0]) == pytest.approx(FIRST_WEIGHT, rel=1e-3)
    stepped = attack.step(posed, state)
    length = 2 * 0.7 * BEYOND / math.sqrt(2)
    assert stepped.w.flatten().tolist() == pytest.approx([w - length for w in drawn], rel=1e-3)
    assert stepped.x.flatten().tolist() == pytest.approx([(math.tanh(w - length) + 1) / 2 for w in drawn], rel=1e-3)


def test_the_weight_is_found_by_halving() -> None:
    """A weight that found a twin is the upper end; one that found none, from the image, the lower."""
    net, images = plane()
    attack = CarliniWagner(searches=3, iterations=1)
    posed = [toys.problem(Subject(net, 2), images, "l2:1", step=step) for step in range(1, 4)]
    state = attack.step(posed[0], attack.start(posed[0]))
    assert ends(state) == pytest.approx((FIRST_WEIGHT / 2, 0, FIRST_WEIGHT), rel=1e-3)
    state = attack.step(posed[1], state)
    assert ends(state) == pytest.approx((0.75 * FIRST_WEIGHT, FIRST_WEIGHT / 2, FIRST_WEIGHT), rel=1e-3)


def test_without_an_upper_end_the_weight_grows_fivefold() -> None:
    net, images = plane()
    attack = CarliniWagner(searches=3, iterations=1)
    posed = toys.problem(Subject(net, 2), images, "l2:1", step=1)
    start = attack.start(posed)
    at_image = replace(start, x=images.x, w=torch.zeros_like(start.w))
    assert ends(attack.step(posed, at_image)) == pytest.approx((5 * FIRST_WEIGHT, FIRST_WEIGHT, math.inf), rel=1e-3)


def ends(state: Weighing) -> tuple[float, float, float]:
    return float(state.c[0]), float(state.low[0]), float(state.high[0])


def test_it_breaks_every_image_and_no_farther_than_foolboxs_ddn() -> None:
    net, images = cases.digits()
    theirs = cases.foolbox_median("DDNAttack", net, images, 2, steps=100)
    ours = fl.attack(Subject(net, 10), images, CarliniWagner(), "l2:8")
    assert bool(ours.broken.all())
    assert cases.median(ours.distance) <= theirs


@pytest.mark.parametrize(
    "settings", [{"searches": 0}, {"iterations": 0}, {"step_size": 0.0}, {"confidence": -1.0}], ids=str
)
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(InputError, match="CarliniWagner needs"):
        CarliniWagner(**settings)  # type: ignore[arg-type]


def test_black_and_white_pixels_can_move() -> None:
    """At the walls of the box the slope of x' in w is 0; from a black image the attack still finds the other class."""
    net, images = plane()
    black = fl.Images(torch.zeros_like(images.x), images.y, images.ids, images.classes)
    result = fl.attack(Subject(net, 2), black, CarliniWagner(), "l2:1.4")
    assert float(result.distance[0]) == pytest.approx(4 / 5, rel=0.01)
