"""Differential evolution: the parents of a child, painting by hand, and an optimum that it must find."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import faultlight as fl
import toys
from faultlight.attacks._pixels import paint, palette
from faultlight.attacks.one_pixel import OnePixel, _others, _paint
from faultlight.errors import InputError
from faultlight.models.subject import Subject

SHAPE = (3, 5, 7)


class OneSpot(nn.Module):
    """Class 1 where the pixel at row 2, column 5 comes within 0.1 of a colour, by the largest channel."""

    colour = (0.9, 0.2, 0.6)

    def forward(self, x: Tensor) -> Tensor:
        off = (x[:, :, 2, 5] - torch.tensor(self.colour)).abs().amax(1)
        return torch.stack([torch.zeros_like(off), 0.1 - off], 1)


def grey(n: int = 6) -> fl.Images:
    return fl.Images(torch.full((n, *SHAPE), 0.5), torch.zeros(n).long(), torch.arange(n), ("0", "1"), "grey")


def test_the_last_of_equal_places_counts() -> None:
    x = torch.zeros(2, 2, 2, 3)
    places = torch.tensor([[1, 1], [5, 0]])
    colours = torch.tensor([[[0.1, 0.2], [0.3, 0.4]], [[0.5, 0.6], [0.7, 0.8]]])
    expected = torch.zeros(2, 2, 2, 3)
    expected[0, :, 0, 1] = torch.tensor([0.3, 0.4])
    expected[1, :, 1, 2] = torch.tensor([0.5, 0.6])
    expected[1, :, 0, 0] = torch.tensor([0.7, 0.8])
    assert torch.equal(paint(x, places, colours), expected)


def test_a_palette_holds_every_colour_once() -> None:
    assert palette(1).tolist() == [[0], [1]]
    assert palette(1, 5).flatten().tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert len(palette(3).unique(dim=0)) == 8


def test_places_are_shares_of_the_sides() -> None:
    """Of 5 rows and 7 columns: 0.4·5 = 2 and 0.72·7 = 5.04; a share of 1 is the last."""
    painted = _paint(torch.zeros(2, 3, 5, 7), torch.tensor([[[0.4, 0.72, 0.1, 0.2, 0.3]], [[1.0, 1.0, 0.4, 0.5, 0.6]]]))
    assert painted[0, :, 2, 5].tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert painted[1, :, 4, 6].tolist() == pytest.approx([0.4, 0.5, 0.6])
    assert int((painted != 0).any(1).sum()) == 2


def test_the_three_parents_differ_and_are_all_alike_in_chance() -> None:
    """Of 5 agents each has 4·3·2 = 24 ordered choices of three others; 4,800 draws give each 200, ± 5 deviations."""
    first, second, third = _others(torch.rand(4800, 3, 5, generator=torch.Generator().manual_seed(0)))
    own = torch.arange(5).expand_as(first)
    for one, other in ((own, first), (own, second), (own, third), (first, second), (first, third), (second, third)):
        assert not bool((one == other).any())
    for agent in range(5):
        counts = (first * 25 + second * 5 + third)[:, agent].unique(return_counts=True)[1]
        assert len(counts) == 24
        assert (counts - 200).abs().max() < 5 * 200**0.5


def test_a_child_is_made_of_three_parents_and_takes_the_place_of_a_less_fit_one() -> None:
    net = toys.convolutional(3, shape=(3, 6, 6))
    images = toys.images(net, 3, shape=(3, 6, 6), n=4)
    attack = OnePixel(steps=5, population=9)
    posed = toys.problem(Subject(net, 3), images, "l0:2")
    state = attack.start(posed)
    assert state.parents.shape == (4, 9, 2, 5)
    for step in range(1, 6):
        at = replace(posed, step=torch.full_like(posed.step, step))
        before, state = state, attack.step(at, state)
        points = _paint(images.x.repeat_interleave(9, 0), before.children.flatten(0, 1))
        margin = posed.margin(posed.logits(points)).view(4, 9)
        assert torch.equal(state.fitness, torch.maximum(before.fitness, margin))
        born = margin > before.fitness
        assert torch.equal(state.parents[born], before.children[born])
        assert torch.equal(state.parents[~born], before.parents[~born])
        one, two, three = _others(at.uniform((3, 9)))
        child = state.parents[2, one[2, 4]] + 0.5 * (state.parents[2, two[2, 4]] - state.parents[2, three[2, 4]])
        assert torch.equal(state.children[2, 4], child.clamp(0, 1))
        changed = (state.x != images.x).any(1).flatten(1).sum(1)
        assert int(changed.max()) <= 2


def test_the_first_population_is_drawn_as_in_the_paper() -> None:
    """Places uniform; colours normal about 128/255 with deviation 127/255: 15.7 % of them at each end when clipped."""
    posed = toys.problem(Subject(OneSpot(), 2), grey(8), "l0:3")
    genes = OnePixel().start(posed).parents.flatten(0, 2)
    assert genes.shape == (8 * 400 * 3, 5)
    assert float(genes[:, :2].mean()) == pytest.approx(0.5, abs=0.01)
    assert float(genes[:, :2].std()) == pytest.approx(12**-0.5, abs=0.01)
    assert float((genes[:, 2:] == 0).float().mean()) == pytest.approx(0.157, abs=0.01)
    assert float((genes[:, 2:] == 1).float().mean()) == pytest.approx(0.159, abs=0.01)


def test_it_finds_the_one_pixel_and_its_colour() -> None:
    """A random pixel and colour does it with a chance of 1/35 · 0.2³: one in 4,400 if colours were uniform."""
    result = fl.attack(Subject(OneSpot(), 2), grey(), OnePixel(steps=60, population=100), "l0:1")
    assert result.broken.all()
    assert result.distance.tolist() == [1] * 6
    assert torch.allclose(result.x[:, :, 2, 5], torch.tensor(OneSpot.colour).expand(6, 3), atol=0.1)
    assert int(result.forwards.max()) < 60 * 100


def test_it_breaks_what_one_pixel_can_break_in_a_linear_classifier() -> None:
    """Pixel p brings at most Σ_c max(w_c·(1 − x_c), −w_c·x_c); the search knows nothing of it."""
    net = toys.linear(2, shape=(3, 6, 6))
    images = toys.images(net, 2, n=24, shape=(3, 6, 6))
    weight = net[1].weight.detach()  # type: ignore[index, union-attr]
    with torch.no_grad():
        logits = net(images.x)
    rows = torch.arange(24)
    slope = (weight[1 - images.y] - weight[images.y]).view_as(images.x)
    gain = torch.maximum(slope * (1 - images.x), -slope * images.x).sum(1).flatten(1).amax(1)
    breakable = gain > (logits[rows, images.y] - logits[rows, 1 - images.y])
    result = fl.attack(Subject(net, 2), images, OnePixel(steps=40, population=60), "l0:1")
    assert 0 < int(breakable.sum()) < 24
    assert torch.equal(result.broken, breakable)


def test_a_goal_is_reached_or_nothing_is() -> None:
    net = toys.convolutional(5, shape=(3, 6, 6))
    images = toys.images(net, 5, n=12, shape=(3, 6, 6))
    result = fl.attack(Subject(net, 5), images, OnePixel(steps=20, population=40), "l0:3", target=1)
    assert set(result.prediction[result.broken].tolist()) == {1}


@pytest.mark.parametrize("settings", [{"steps": 0}, {"population": 3}, {"weight": 0.0}, {"weight": 2.5}])
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(InputError, match="one pixel needs"):
        OnePixel(**settings)  # type: ignore[arg-type]
