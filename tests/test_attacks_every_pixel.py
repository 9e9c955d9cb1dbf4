"""Exhaustive search equals a plain loop."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import faultlight as fl
import toys
from faultlight.attacks.every_pixel import EveryPixel
from faultlight.errors import InputError
from faultlight.models.subject import Subject


def breakable(net: nn.Module, x: Tensor, label: int, colours: list[tuple[float, ...]]) -> bool:
    """Pixel by pixel, colour by colour."""
    tried = []
    for row in range(x.shape[1]):
        for column in range(x.shape[2]):
            for colour in colours:
                changed = x.clone()
                changed[:, row, column] = torch.tensor(colour)
                tried.append(changed)
    with torch.no_grad():
        return bool((net(torch.stack(tried)).argmax(1) != label).any())


GREY = [(0.0,), (1.0,)]
FIVE = [(0.0,), (0.25,), (0.5,), (0.75,), (1.0,)]
COLOURS = [(r, g, b) for r in (0.0, 1.0) for g in (0.0, 1.0) for b in (0.0, 1.0)]


@pytest.mark.parametrize(
    ("shape", "levels", "colours"), [((1, 6, 6), 2, GREY), ((1, 6, 6), 5, FIVE), ((3, 10, 10), 2, COLOURS)]
)
def test_it_equals_a_plain_loop(shape: tuple[int, int, int], levels: int, colours: list[tuple[float, ...]]) -> None:
    net = toys.convolutional(5, shape=shape)
    images = toys.images(net, 5, n=24, shape=shape, spread=0.5)
    result = fl.attack(Subject(net, 5), images, EveryPixel(levels=levels, batch=50), "l0:1")
    expected = [breakable(net, x, int(y), colours) for x, y in zip(images.x, images.y, strict=True)]
    assert result.broken.tolist() == expected
    assert 0 < sum(expected) < 24


def test_two_pixels_are_enumerated_by_hand() -> None:
    """Class 1 where x₁ + 2·x₂ > 2.2. From (0.1, 0.5) only x₂ → 1 gives 2.1: it stands; from (0.3, 0.5) it gives 2.3."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 2.0]]))
        net[1].bias.copy_(torch.tensor([0.0, -2.2]))
    images = fl.Images(
        torch.tensor([[0.1, 0.5], [0.3, 0.5]]).view(2, 1, 1, 2),
        torch.zeros(2).long(),
        torch.arange(2),
        ("0", "1"),
        "two",
    )
    result = fl.attack(Subject(net.eval(), 2), images, EveryPixel(batch=3), "l0:1")
    assert result.broken.tolist() == [False, True]
    assert result.x[1].flatten().tolist() == pytest.approx([0.3, 1.0])


def test_it_ends_where_the_list_does() -> None:
    """2 · 784 changes, in batches of 256: seven; the clean look and the judge's on the last are one each."""
    flat = nn.Sequential(nn.Flatten(), nn.Linear(784, 2))
    with torch.no_grad():
        flat[1].weight.zero_()
        flat[1].bias.copy_(torch.tensor([1.0, 0.0]))
    images = fl.Images(torch.rand(2, 1, 28, 28), torch.zeros(2).long(), torch.arange(2), ("0", "1"), "flat")
    result = fl.attack(Subject(flat.eval(), 2), images, EveryPixel(), "l0:1", fast=False)
    assert result.forwards.tolist() == [1 + 7 * 256 + 1] * 2


@pytest.mark.parametrize("settings", [{"levels": 1}, {"levels": 300}, {"batch": 0}])
def test_settings_out_of_range_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(InputError, match="every pixel needs"):
        EveryPixel(**settings)
