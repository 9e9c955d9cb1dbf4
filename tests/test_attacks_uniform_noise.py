"""Uniform noise: where its points lie, and that it is the weak control it is meant to be."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import faultlight as fl
import toys
from faultlight import rng
from faultlight.attacks.fgsm import FGSM
from faultlight.attacks.uniform_noise import UniformNoise
from faultlight.errors import InputError
from faultlight.models.subject import Subject

SHAPE = (1, 8, 8)


@pytest.fixture(scope="module")
def net() -> torch.nn.Sequential:
    return toys.linear(2, shape=SHAPE)


def test_points_are_the_generators_numbers(net: torch.nn.Sequential) -> None:
    """x + ε·(2u − 1), with u of the image and the step."""
    images = toys.images(net, 2, shape=SHAPE)
    posed = toys.problem(Subject(net, 2), images, "linf:0.125")
    points = toys.trace(UniformNoise(steps=4), posed).points
    assert len(points) == 5
    for step, point in enumerate(points):
        u = rng.uniform(posed.key, images.ids, torch.full_like(images.ids, step), SHAPE)
        assert torch.allclose(point, images.x + 0.125 * (2 * u - 1), atol=1e-7)


def test_no_two_points_are_alike(net: torch.nn.Sequential) -> None:
    """Not between steps, images, restarts or targets."""
    images = toys.images(net, 2, n=2, shape=SHAPE)
    images = replace(images, x=images.x[:1].expand(2, -1, -1, -1).contiguous())
    subject = Subject(net, 2)
    runs = [toys.problem(subject, images, "linf:0.125", target, restart) for target in (-1, 0, 1) for restart in (0, 1)]
    points = torch.cat([point for posed in runs for point in toys.trace(UniformNoise(steps=3), posed).points])
    assert len(points.flatten(1).unique(dim=0)) == len(points) == 3 * 2 * 4 * 2


def test_noise_breaks_nothing_where_fgsm_breaks_all(net: torch.nn.Sequential) -> None:
    """A random point gains ε·‖w‖₂/√3 or so, the sign step ε·‖w‖₁: here that is 1 % more than the margin."""
    images = toys.images(net, 2, shape=SHAPE, spread=0.05)
    subject = Subject(net, 2)
    weight = (net[1].weight[0] - net[1].weight[1]).detach()
    margin = (net(images.x)[:, 0] - net(images.x)[:, 1]).detach().abs()
    assert float(weight.norm()) / math.sqrt(3) < 0.2 * float(weight.abs().sum())
    for row in range(len(images)):
        threat = f"linf:{1.01 * float(margin[row] / weight.abs().sum())}"
        one = images.take(torch.tensor([row]))
        assert fl.attack(subject, one, FGSM(), threat).broken[0]
        assert not fl.attack(subject, one, UniformNoise(steps=50), threat).broken[0]


def test_noise_breaks_an_image_that_stands_on_the_boundary(net: torch.nn.Sequential) -> None:
    """Half of all directions cross a boundary that is all but touched."""
    images = toys.images(net, 2, shape=SHAPE)
    weight = (net[1].weight[1] - net[1].weight[0]).detach().view(SHAPE)
    margin = (net(images.x)[:, 1] - net(images.x)[:, 0]).detach()
    near = images.x - (0.9999 * margin / weight.square().sum()).view(-1, 1, 1, 1) * weight
    images = replace(images, x=near.clamp(0, 1))
    images = replace(images, y=net(images.x).argmax(1))
    assert fl.attack(Subject(net, 2), images, UniformNoise(steps=30), "linf:0.1").broken.all()


def test_it_uses_no_gradient(net: torch.nn.Sequential) -> None:
    result = fl.attack(Subject(net, 2), toys.images(net, 2, shape=SHAPE), UniformNoise(steps=7), "linf:0.001")
    assert result.backwards.tolist() == [0] * 8
    assert not result.broken.any()
    assert result.forwards.tolist() == [9] * 8  # the clean look, seven points, and the judge's word on the last


def test_steps_below_one_are_refused() -> None:
    with pytest.raises(InputError, match="steps"):
        UniformNoise(steps=0)
