"""FGSM on a linear classifier, where one step is the whole truth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import faultlight as fl
import toys
from faultlight.attacks.fgsm import FGSM
from faultlight.losses import LOSSES, LossName
from faultlight.models.subject import Subject
from faultlight.threat import Threat

CLASSES = 2


@pytest.fixture(scope="module")
def net() -> torch.nn.Sequential:
    return toys.linear(CLASSES)


def difference(net: torch.nn.Sequential, y: Tensor) -> Tensor:
    """w_j − w_y of each image in float64: the gradient of the margin, everywhere the same."""
    weight = net[1].weight.detach().double()
    return weight[1 - y] - weight[y]


def critical(net: torch.nn.Sequential, x: Tensor, y: Tensor, dual: float) -> Tensor:
    """|margin| / ‖w_j − w_y‖ in the dual norm: the least ε that breaks each image, the box being out of reach."""
    weight = difference(net, y)
    bias = net[1].bias.detach().double()
    margin = (weight * x.flatten(1).double()).sum(1) + bias[1 - y] - bias[y]
    return -margin / weight.norm(p=dual, dim=1)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("epsilon", [8 / 255, 0.3, 0.6])
def test_the_point_is_the_clipped_sign_step(net: torch.nn.Sequential, loss: LossName, epsilon: float) -> None:
    """x + ε·sign(w_j − w_y), clipped to [0, 1], to the last bit of float32 and never beyond ε."""
    images = toys.images(net, CLASSES, spread=0.5)
    found = toys.trace(FGSM(loss=loss), toys.problem(Subject(net, CLASSES), images, Threat("linf", epsilon))).last
    x, sign = images.x.double().numpy(), np.sign(difference(net, images.y).numpy()).reshape(images.x.shape)
    expected = np.clip(x + epsilon * sign, 0, 1)
    assert np.abs(found.double().numpy() - expected).max() <= 2**-23
    assert np.abs(found.double().numpy() - x).max() <= epsilon


@pytest.mark.parametrize(("threat", "dual"), [("linf:0.05", 1), ("l2:0.2", 2), ("l1:0.2", torch.inf)])
def test_the_margin_gained_is_epsilon_times_the_dual_norm(net: torch.nn.Sequential, threat: str, dual: float) -> None:
    images = toys.images(net, CLASSES)
    posed = toys.problem(Subject(net, CLASSES), images, threat)
    step = toys.trace(FGSM(), posed).last.double() - images.x.double()
    weight = difference(net, images.y)
    gained = (weight * step.flatten(1)).sum(1)
    assert gained.tolist() == pytest.approx((posed.threat.epsilon * weight.norm(p=dual, dim=1)).tolist(), rel=1e-4)


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2), ("l1", torch.inf)])
@pytest.mark.parametrize("loss", LOSSES)
def test_an_image_breaks_exactly_beyond_its_distance_to_the_boundary(
    net: torch.nn.Sequential, norm: str, dual: float, loss: LossName
) -> None:
    images = toys.images(net, CLASSES, spread=0.05)
    subject = Subject(net, CLASSES)
    for row, epsilon in enumerate(critical(net, images.x, images.y, dual).tolist()):
        one = images.take(torch.tensor([row]))
        assert not fl.attack(subject, one, FGSM(loss=loss), f"{norm}:{0.99 * epsilon}").broken[0]
        beyond = fl.attack(subject, one, FGSM(loss=loss), f"{norm}:{1.01 * epsilon}")
        assert beyond.broken[0]
        assert float(beyond.distance[0]) == pytest.approx(1.01 * epsilon, rel=1e-4)


def test_one_pixel_is_the_strongest() -> None:
    """In L0 one step drives the pixel of the largest weight to its end: the margin gained is |w|·0.5 from grey."""
    net = toys.linear(CLASSES)
    images = toys.images(net, CLASSES, spread=0.0)
    images = fl.Images(images.x, net(images.x).argmax(1), images.ids, images.classes)
    step = toys.trace(FGSM(), toys.problem(Subject(net, CLASSES), images, "l0:1")).last - images.x
    weight = difference(net, images.y)
    place = weight.abs().argmax(1)
    expected = torch.zeros_like(weight).scatter_(1, place[:, None], 0.5 * weight.gather(1, place[:, None]).sign())
    assert torch.equal(step.flatten(1).double(), expected)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_target_is_walked_towards(loss: LossName) -> None:
    """Targeted, the step is that of the two-class problem of label and target, where the third class is far below."""
    net = toys.linear(3)
    with torch.no_grad():
        net[1].bias[2] -= 1000
    images = toys.images(net, 3)
    one = images.take(images.y == 0)
    found = toys.trace(FGSM(loss=loss), toys.problem(Subject(net, 3), one, "linf:0.25", target=1)).last
    weight = net[1].weight.detach()
    expected = one.x + 0.25 * (weight[1] - weight[0]).sign().view(1, *toys.SHAPE)
    assert torch.allclose(found, expected.clamp(0, 1), atol=1e-7)


def test_it_costs_one_forward_and_one_backward_pass_and_the_judge_one() -> None:
    net = toys.linear(CLASSES)
    result = fl.attack(Subject(net, CLASSES), toys.images(net, CLASSES), FGSM(), "linf:0.1")
    assert result.forwards.tolist() == [3] * 8  # the clean look, the gradient, the judge
    assert result.backwards.tolist() == [1] * 8
