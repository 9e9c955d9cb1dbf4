"""σ-zero: the fewest pixels of a linear classifier, and its first steps by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import faultlight as fl
import toys
from faultlight.attacks.sigma_zero import SigmaZero, Sparse
from faultlight.errors import InputError
from faultlight.models.subject import Subject
from test_attacks_corner_beam import fewest


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("shape", [(1, 6, 6), (3, 6, 6)])
def test_it_finds_the_fewest_pixels_of_a_linear_classifier(classes: int, shape: tuple[int, int, int]) -> None:
    """By sorted contributions; it may miss by one, and seldom does."""
    net = toys.linear(classes, shape=shape)
    images = toys.images(net, classes, n=24, shape=shape, spread=0.05)
    expected = fewest(net, images)
    result = fl.attack(Subject(net, classes), images, SigmaZero(steps=200), "l0:36")
    assert result.broken.all()
    excess = result.distance - expected
    assert float(excess.min()) >= 0
    assert float(excess.max()) <= 1
    assert int((excess == 0).sum()) >= 22


def test_within_a_ball_it_breaks_what_it_can() -> None:
    net = toys.linear(2, shape=(3, 6, 6))
    images = toys.images(net, 2, n=24, shape=(3, 6, 6), spread=0.3)
    result = fl.attack(Subject(net, 2), images, SigmaZero(steps=200), "l0:1")
    expected = fewest(net, images) <= 1
    assert 0 < int(expected.sum()) < 24
    assert not bool((result.broken & ~expected).any())
    assert int((expected & ~result.broken).sum()) <= 1


def posed() -> tuple[SigmaZero, fl.Images, Subject]:
    """Two grey pixels; class 1 where 0.5·x₁ + 0.2·x₂ > 0.5. Of (0.4, 0.5) the margin is −0.2."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[0.0, 0.0], [0.5, 0.2]]))
        net[1].bias.copy_(torch.tensor([0.0, -0.5]))
    x = torch.tensor([0.4, 0.5]).view(1, 1, 1, 2)
    return SigmaZero(steps=10), fl.Images(x, torch.zeros(1).long(), torch.arange(1), ("0", "1"), "two"), Subject(net, 2)


def test_the_first_two_steps_by_hand() -> None:
    """The first goes along −∇/‖∇‖_∞ = (1, 0.4) to (1.4, 0.9), clipped to (1, 0.9): both moves exceed τ = 0.3.

    There the margin is 0.18, so τ grows by 0.01·η, η = ½(1 + cos 0.1π) = 0.97553, to 0.30976. The count's slopes
    δ/(δ² + σ)² at δ = 0.6 and 0.4 are as 0.2984 to 1: the second pixel falls by η, to 0 when clipped, 0.5 from the
    image; the first by 0.2984·η to 0.7089, 0.3089 from the image, which is less than τ and undone.
    """
    attack, images, subject = posed()
    problem = toys.problem(subject, images, "l0:2")
    one = attack.step(replace(problem, step=torch.tensor([1])), attack.start(problem))
    assert one.x.flatten().tolist() == pytest.approx([1.0, 0.9])
    assert float(one.threshold) == pytest.approx(0.3)
    two = attack.step(replace(problem, step=torch.tensor([2])), one)
    assert float(two.threshold) == pytest.approx(0.3 + 0.0097553)
    assert two.x.flatten().tolist() == pytest.approx([0.4, 0.0])
    before = replace(one, threshold=torch.tensor([0.29]))
    kept = attack.step(replace(problem, step=torch.tensor([2])), before)
    assert kept.x.flatten().tolist() == pytest.approx([0.7089, 0.0], abs=1e-4)


def test_pixels_below_the_threshold_are_undone_with_all_their_channels() -> None:
    net = toys.linear(2, shape=(3, 4, 4))
    images = toys.images(net, 2, n=6, shape=(3, 4, 4))
    problem = toys.problem(Subject(net, 2), images, "l0:16", step=5)
    attack = SigmaZero(steps=50)
    after = attack.step(problem, Sparse(images.x, torch.full((6,), 0.5)))
    moved = (after.x - images.x).abs().amax(1)
    assert bool(((moved == 0) | (moved >= 0.49)).all())
    assert bool((moved == 0).any())
    assert bool((moved > 0).any())
    small = ((after.x - images.x).abs() < 0.4) & (moved > 0)[:, None]
    assert bool(small.any()), "a channel may move by less where another moves by enough"


@pytest.mark.parametrize("settings", [{"steps": 0}, {"sigma": 0.0}, {"threshold": -1.0}, {"step_size": 0.0}])
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(InputError, match="σ-zero needs"):
        SigmaZero(**settings)  # type: ignore[arg-type]
