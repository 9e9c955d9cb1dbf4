"""Noises: what they do to pixels, in numbers that can be worked out, and that nothing but seed and id decides it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from faultlight.autoencoder.noises._contract import Given
from faultlight.autoencoder.noises.adversarial import Adversarial
from faultlight.autoencoder.tampering import (
    Tampering,
    kinds,
    noise_named,
    parse_tampering,
    tamper,
    tamper_batch,
)
from faultlight.data.images import Images
from faultlight.errors import InputError
from toys import linear


def grey(n: int = 8, shape: tuple[int, int, int] = (3, 16, 16), value: float = 0.5) -> Images:
    y = torch.zeros(n, dtype=torch.int64)
    return Images(torch.full((n, *shape), value), y, torch.arange(n) * 7 + 3, ("a", "b"), "grey")


def test_the_noises_are_those_of_the_folder() -> None:
    assert kinds() == ("adversarial", "gaussian", "occlusion", "salt-and-pepper")


@pytest.mark.parametrize("kind", kinds())
def test_neither_order_nor_batch_changes_a_pixel_and_another_seed_does(kind: str) -> None:
    images, net = grey(8, (1, 4, 4), 0.4), linear()
    whole = tamper(images, kind, 0.25, 5, net)
    assert whole.x.min() >= 0
    assert whole.x.max() <= 1
    turned = torch.tensor([6, 1, 4])
    assert torch.equal(tamper(images.take(turned), kind, 0.25, 5, net).x, whole.x[turned])
    # From wherever it starts, an attack on a linear net ends in the same corner.
    assert torch.equal(tamper(images, kind, 0.25, 6, net).x, whole.x) == (kind == "adversarial")
    assert torch.equal(whole.y, images.y)


@pytest.mark.parametrize("kind", kinds())
def test_no_strength_changes_nothing(kind: str) -> None:
    images = grey(4, (1, 4, 4), 0.3)
    assert torch.equal(tamper(images, kind, 0.0, 0, linear()).x, images.x)


def test_gaussian_noise_has_the_mean_and_deviation_asked_for() -> None:
    found = tamper(grey(64), "gaussian", 0.1, 0).x - 0.5
    count = found.numel()
    assert abs(float(found.mean())) < 4 * 0.1 / math.sqrt(count)
    assert float(found.std()) == pytest.approx(0.1, rel=4 / math.sqrt(2 * count))
    # Grey lies 5 σ from the ends, so that next to nothing is clipped; at σ = 0.5 a sixth is, on either side.
    clipped = tamper(grey(64), "gaussian", 0.5, 0).x
    assert float((clipped == 1).float().mean()) == pytest.approx(0.1587, abs=0.005)


def test_salt_and_pepper_hits_the_share_of_places_with_even_odds_and_all_channels_alike() -> None:
    found = tamper(grey(64), "salt-and-pepper", 0.3, 0).x
    hit = found != 0.5
    places = hit.numel() / 3
    assert float(hit.float().mean()) == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / places))
    assert float(found[hit].mean()) == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(0.3 * places))
    assert set(found.unique().tolist()) == {0.0, 0.5, 1.0}
    assert torch.equal(found[:, 0], found[:, 2])


def test_occlusion_covers_one_whole_square_of_the_side_asked_for() -> None:
    found = tamper(grey(200, (1, 8, 12), 0.0), "occlusion", 0.5, 0).x
    covered = found == 0.5
    assert (covered.sum((1, 2, 3)) == 16).all()
    down, across = covered.any(3)[:, 0], covered.any(2)[:, 0]
    assert (down.sum(1) == 4).all()
    assert (across.sum(1) == 4).all()
    # Each of the places is taken by some image, the outermost too.
    assert set(down.float().argmax(1).tolist()) == set(range(5))
    assert set(across.float().argmax(1).tolist()) == set(range(9))


def test_one_step_against_a_linear_classifier_is_the_sign_of_its_weights() -> None:
    net = linear()
    x = torch.full((3, 1, 4, 4), 0.5)
    y, ids = torch.tensor([0, 1, 0]), torch.arange(3)
    given = Given(x, y, ids, torch.tensor([0.1, 0.2, 0.0]), 0, net)
    weight = net[1].weight.detach().view(2, 1, 4, 4)  # type: ignore[operator]
    away = (weight[1] - weight[0]).sign()
    due = torch.stack([0.5 + 0.1 * away, 0.5 - 0.2 * away, x[2]])
    assert torch.allclose(Adversarial(steps=1)(given), due, atol=1e-6)


def test_adversarial_noise_stays_within_its_radius_and_lowers_the_margin() -> None:
    net, images = linear(), grey(6, (1, 4, 4))
    found = tamper(images, "adversarial", 0.1, 0, net).x
    assert float((found.double() - images.x.double()).abs().max()) <= 0.1
    margin = [float((net(x)[:, 0] - net(x)[:, 1]).min().detach()) for x in (images.x, found)]
    assert margin[1] < margin[0]


def test_a_batch_draws_kinds_by_weight_and_strengths_within_their_range() -> None:
    images = grey(600, (1, 8, 8))
    chosen = [Tampering("salt-and-pepper", 0.5, 0.5, 1.0), Tampering("occlusion", 0.25, 0.5, 2.0)]
    found = tamper_batch(images.x, images.y, images.ids, chosen, 9)
    speckled = (found == 1).any((1, 2, 3)).flatten()
    assert float(speckled.float().mean()) == pytest.approx(1 / 3, abs=0.08)
    # Grey squares on grey are not seen: the others are as they were.
    assert torch.equal(found[~speckled], images.x[~speckled])
    again = tamper_batch(images.x[5:9], images.y[5:9], images.ids[5:9], chosen, 9)
    assert torch.equal(again, found[5:9])
    assert torch.equal(tamper_batch(images.x, images.y, images.ids, [], 9), images.x)


def test_strengths_reach_both_ends_of_their_range() -> None:
    images = grey(300, (1, 16, 16), 0.0)
    found = tamper_batch(images.x, images.y, images.ids, [Tampering("occlusion", 0.25, 0.5)], 1)
    sides = (found == 0.5).any(3)[:, 0].sum(1)
    assert set(sides.tolist()) == {4, 5, 6, 7, 8}


def test_strengths_of_an_attack_are_four_levels() -> None:
    images, net = grey(64, (1, 4, 4)), linear()
    found = tamper_batch(images.x, images.y, images.ids, [Tampering("adversarial", 0.1, 0.4)], 1, net)
    distances = (found - images.x).abs().amax((1, 2, 3))
    assert {round(value, 4) for value in distances.tolist()} == {0.1, 0.2, 0.3, 0.4}
    page = Path(__file__).parent.parent / "docs" / "autoencoders.md"
    assert "noise is one of four levels" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gausian:0.5", "there is no noise named 'gausian'; did you mean 'gaussian'?"),
        ("gaussian", "has no strength that is a number; write it like gaussian:0.5"),
        ("gaussian:loud", "has no strength that is a number"),
        ("salt-and-pepper:1.5", r"must lie in \[0, 1\], the lower one first, not 1.5 … 1.5"),
        ("gaussian:-1", "has no strength that is a number"),
        ("gaussian:nan", "must lie in"),
        ("occlusion:0.5-0.2", "the lower one first"),
    ],
)
def test_a_noise_that_cannot_be_is_told(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        parse_tampering(text)


def test_strengths_are_read_as_numbers_fractions_and_ranges() -> None:
    assert parse_tampering("adversarial:8/255") == Tampering("adversarial", 8 / 255, 8 / 255)
    assert parse_tampering("occlusion:0.2-0.5") == Tampering("occlusion", 0.2, 0.5)
    assert str(parse_tampering("gaussian:0.5")) == "gaussian 0.5"
    assert noise_named("gaussian").unit == "σ"


def test_aimed_noise_needs_something_to_aim_at() -> None:
    with pytest.raises(InputError, match="aimed at a classifier, and none was given"):
        tamper(grey(2), "adversarial", 0.1, 0)
    with pytest.raises(InputError, match="at least 1 step"):
        Adversarial(steps=0)
