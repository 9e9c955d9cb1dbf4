"""Weighted distance: on a linear classifier the sum has one minimum, on the line along the weights."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import faultlight as fl
import toys
from faultlight.attacks.weighted_distance import WeightedDistance
from faultlight.errors import InputError
from faultlight.models.subject import Subject


def stationary(margin: float, slope: float, weight: float) -> float:
    """The s with σ(margin − s·slope)·slope = 2·b·s, by bisection: s is how far the minimum lies from the image."""
    low, high = 0.0, slope / (2 * weight)
    for _ in range(200):
        middle = (low + high) / 2
        pull = slope / (1 + math.exp(middle * slope - margin)) - 2 * weight * middle
        low, high = (middle, high) if pull > 0 else (low, middle)
    return low


@pytest.mark.parametrize("weight", [1.0, 4.0])
def test_it_ends_where_the_gradient_of_the_sum_vanishes(weight: float) -> None:
    net = toys.linear(2)
    images = toys.images(net, 2, n=20, spread=0.1)
    images = images.take(images.y == 0).first(3)
    attack = WeightedDistance(steps=400, weight=weight, step_size=0.02)
    found = toys.trace(attack, toys.problem(Subject(net, 2), images, "l2:9", target=1)).last
    direction = (net[1].weight[1] - net[1].weight[0]).detach()
    slope = float(direction.norm())
    logits = net(images.x).detach()
    for row in range(3):
        length = stationary(float(logits[row, 0] - logits[row, 1]), slope, weight)
        expected = images.x[row] + length * (direction / slope).view(1, 4, 4)
        assert torch.allclose(found[row], expected, atol=1e-3)


def test_a_dearer_distance_is_a_shorter_one() -> None:
    net = toys.linear(3)
    images = toys.images(net, 3, n=6, spread=0.1)
    lengths = []
    for weight in (0.5, 1.0, 2.0):
        attack = WeightedDistance(weight=weight, step_size=0.02)
        last = toys.trace(attack, toys.problem(Subject(net, 3), images, "l2:9", target=2)).last
        lengths.append((last - images.x).flatten(1).norm(dim=1))
    away = images.y != 2
    assert bool((lengths[0] > lengths[1])[away].all())
    assert bool((lengths[1] > lengths[2])[away].all())


def test_the_class_aimed_at_is_reached() -> None:
    net = toys.linear(4)
    images = toys.images(net, 4, n=8, spread=0.1)
    result = fl.attack(Subject(net, 4), images, WeightedDistance(step_size=0.02), "l2:2", target=3)
    assert result.prediction.tolist() == [3] * 8


@pytest.mark.parametrize("settings", [{"steps": 0}, {"weight": -1.0}, {"step_size": 0.0}, {"targets": -1}])
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        WeightedDistance(**settings)
