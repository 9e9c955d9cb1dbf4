"""The beam over corners: exhaustive for one pixel, optimal on linear classifiers, near a plain loop for two."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, product

import pytest
import torch
from torch import Tensor, nn

import faultlight as fl
import toys
from faultlight.attacks.corner_beam import CornerBeam
from faultlight.attacks.every_pixel import EveryPixel
from faultlight.errors import InputError
from faultlight.models.subject import Subject

SHAPE = (3, 6, 6)


def scene(classes: int = 5, n: int = 24, shape: tuple[int, int, int] = SHAPE) -> tuple[Subject, fl.Images]:
    """Images of which the net is rather sure; else one pixel would break them all."""
    net = toys.convolutional(classes, shape=shape)
    many = toys.images(net, classes, n=20 * n, shape=shape, spread=0.5)
    with torch.no_grad():
        lead = net(many.x).topk(2, dim=1).values
    return Subject(net, classes), many.take((lead[:, 0] - lead[:, 1]).topk(n).indices)


def fewest(net: nn.Sequential, images: fl.Images) -> Tensor:
    """How many pixels change a linear classifier's mind: for each class, the largest contributions first."""
    weight = net[1].weight.detach()  # type: ignore[union-attr]
    found = []
    for x, y in zip(images.x, images.y, strict=True):
        with torch.no_grad():
            logits = net(x[None])[0]
        counts = []
        for other in range(len(logits)):
            slope = (weight[other] - weight[y]).view_as(x)
            gain = torch.maximum(slope * (1 - x), -slope * x).sum(0).flatten().sort(descending=True).values
            counts.append(1 + int((gain.cumsum(0) <= logits[y] - logits[other]).sum()) if other != y else 99)
        found.append(min(counts))
    return torch.tensor(found)


def test_one_pixel_is_exhausted() -> None:
    subject, images = scene()
    ours = fl.attack(subject, images, CornerBeam(batch=32), "l0:1", fast=False)
    every = fl.attack(subject, images, EveryPixel(), "l0:1", fast=False)
    assert torch.equal(ours.broken, every.broken)
    assert 0 < int(ours.broken.sum()) < 24
    # 288 changes are 9 batches of 32; besides them the gradient, the clean look and the judge's last.
    assert set(ours.forwards[~ours.broken].tolist()) == {1 + 1 + 9 * 32 + 1}
    assert float(ours.forwards[ours.broken].double().mean()) < float(every.forwards[every.broken].double().mean())


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("pixels", [1, 2, 3])
def test_on_a_linear_classifier_it_breaks_all_that_so_many_pixels_can(classes: int, pixels: int) -> None:
    net = toys.linear(classes, shape=(3, 8, 8))
    images = toys.images(net, classes, n=32, shape=(3, 8, 8), spread=0.3)
    result = fl.attack(Subject(net, classes), images, CornerBeam(batch=32), f"l0:{pixels}")
    assert torch.equal(result.broken, fewest(net, images) <= pixels)
    assert int(result.distance.max()) <= pixels


def bent() -> nn.Sequential:
    """A net of 16 grey pixels that sees class 0 in most images."""
    generator = torch.Generator().manual_seed(1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 2))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        net[3].bias.copy_(torch.tensor([4.5, 0.0]))
    return net.eval()


def test_two_pixels_by_brute_force() -> None:
    """All pairs of pixels and corners by a plain loop; the beam grows pixel by pixel, so it might miss one."""
    subject = Subject(bent(), 2)
    images = toys.images(subject.module, 2, n=40, shape=(1, 4, 4), spread=0.5)
    pairs = list(product(combinations(range(16), 2), product((0.0, 1.0), repeat=2)))
    expected = []
    for x, y in zip(images.x, images.y, strict=True):
        changed = x.repeat(len(pairs), 1, 1, 1)
        for candidate, ((one, other), (first, second)) in zip(changed.view(len(pairs), 16), pairs, strict=True):
            candidate[one], candidate[other] = first, second
        expected.append(bool((subject(changed).argmax(1) != y).any()))
    ours = fl.attack(subject, images, CornerBeam(batch=16), "l0:2").broken
    assert not bool((ours & ~torch.tensor(expected)).any())
    assert 10 < sum(expected) < 30
    assert int(ours.sum()) >= sum(expected) - 1


class Both(nn.Module):
    """Class 1 where the pixels 3 and 11 of a grey image are both above 0.9; one alone helps a little."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        score = 0.1 * (flat[:, 3] + flat[:, 11]) + torch.minimum(flat[:, 3], flat[:, 11])
        return torch.stack([torch.full_like(score, 1.1), score], 1)


def test_two_pixels_that_only_help_together() -> None:
    images = fl.Images(torch.full((3, 1, 4, 4), 0.2), torch.zeros(3).long(), torch.arange(3), ("0", "1"), "both")
    result = fl.attack(Subject(Both(), 2), images, CornerBeam(batch=8), "l0:2")
    assert result.broken.all()
    expected = torch.full((16,), 0.2)
    expected[[3, 11]] = 1.0
    assert torch.equal(result.x.view(3, 16), expected.expand(3, 16))
    assert not fl.attack(Subject(Both(), 2), images, CornerBeam(batch=8), "l0:1").broken.any()


def test_each_image_of_the_beam_begins_with_another_pixel() -> None:
    subject, images = scene(n=4)
    posed = toys.problem(subject, images, "l0:3")
    attack = CornerBeam(batch=40)
    state = attack.step(replace(posed, step=torch.ones_like(posed.step)), attack.start(posed))
    changed = (state.beam != images.x[:, None]).any(2).flatten(2)
    assert bool((changed.sum(2) <= 1).all())
    assert bool((changed.sum(1) <= 1).all()), "no pixel twice"
    margins = torch.stack([posed.margin(subject(state.beam[:, i])) for i in range(4)], 1)
    assert torch.equal(margins, margins.sort(dim=1, descending=True).values)


def test_rounds_begin_with_other_pixels() -> None:
    """Two steps make a round at k = 2; the pixels that begin the first four rounds' beams are all different."""
    subject, images = scene(n=4)
    posed = toys.problem(subject, images, "l0:2")
    attack, begun = CornerBeam(batch=20), []
    state = attack.start(posed)
    for step in range(1, 9):
        state = attack.step(replace(posed, step=torch.full_like(posed.step, step)), state)
        if step % 2:
            begun.append((state.beam != images.x[:, None]).any(2).flatten(2).sum(1))
        else:
            assert torch.equal(state.beam, images.x[:, None].expand_as(state.beam))
    assert int(torch.stack(begun).sum(0).max()) == 1


def test_a_goal_is_reached_or_nothing_is() -> None:
    subject, images = scene(n=12)
    result = fl.attack(subject, images, CornerBeam(steps=12, batch=64), "l0:3", target=1)
    assert result.broken.any()
    assert set(result.prediction[result.broken].tolist()) == {1}


@pytest.mark.parametrize("settings", [{"steps": 0}, {"batch": 0}, {"batch": 10}, {"width": 0}])
def test_settings_out_of_range_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(InputError, match="corner beam needs"):
        CornerBeam(**settings)
