"""Starts: output diversification in closed form on a linear classifier, and from where and how far it goes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import toys
from faultlight import rng
from faultlight.attacks._starts import diversified
from faultlight.attacks.apgd import APGD
from faultlight.attacks.pgd import PGD
from faultlight.evaluation.oracle import RecordingOracle
from faultlight.models.subject import Subject

CLASSES = 3


def weights(ids: Tensor, restart: int = 0) -> Tensor:
    """The random weights of the classes, drawn anew."""
    key = rng.key(rng.key(0, "test"), "output diversification")
    return 2 * rng.uniform(key, ids, torch.full_like(ids, restart << 32), (CLASSES,)) - 1


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("restart", [0, 3])
def test_a_step_goes_the_full_radius_along_the_weighted_rows_of_the_last_layer(norm: str, restart: int) -> None:
    """z = W·x + b, so the gradient of w·z is Wᵀ·w, whatever x is; the second step ends where the first did."""
    net = toys.linear(CLASSES)
    images = toys.images(net, CLASSES, spread=0.1)
    posed = toys.problem(Subject(net, CLASSES), images, f"{norm}:0.2", restart=restart)
    slope = weights(images.ids, restart) @ net[1].weight.detach()
    unit = slope.sign() if norm == "linf" else slope / slope.norm(dim=1, keepdim=True)
    expected = images.x + 0.2 * unit.view(images.x.shape)
    for steps in (1, 2):
        assert torch.allclose(diversified(posed, images.x, steps), expected, atol=2e-6)


@pytest.mark.parametrize("kind", [PGD, APGD])
def test_attacks_go_on_from_there(kind: type[PGD] | type[APGD]) -> None:
    net = toys.linear(CLASSES)
    images = toys.images(net, CLASSES)
    posed = toys.problem(Subject(net, CLASSES), images, "linf:0.1")
    found = kind(diversify=2, random_start=False).start(posed).x
    assert torch.equal(found, diversified(posed, images.x, 2))
    assert not torch.equal(found, images.x)
    random = kind().start(posed).x
    assert torch.equal(kind(diversify=2).start(posed).x, diversified(posed, random, 2))


def test_each_step_is_a_pass_each_way() -> None:
    net = toys.linear(CLASSES)
    images = toys.images(net, CLASSES)
    posed = toys.problem(Subject(net, CLASSES), images, "linf:0.1")
    PGD(diversify=2).start(posed)
    assert isinstance(posed.oracle, RecordingOracle)
    assert [question.backward for question in posed.oracle.questions] == [True, True]
    PGD().start(posed)
    assert len(posed.oracle.questions) == 2


def test_rows_and_restarts_go_different_ways() -> None:
    net = toys.linear(CLASSES)
    images = toys.images(net, CLASSES, spread=0.0)  # all the same image
    ways = [diversified(toys.problem(Subject(net, CLASSES), images, "l2:0.1", restart=r), images.x, 1) for r in (0, 1)]
    points = torch.cat(ways).flatten(1)
    apart = torch.cdist(points, points) + torch.eye(len(points))
    assert float(apart.min()) > 1e-3
