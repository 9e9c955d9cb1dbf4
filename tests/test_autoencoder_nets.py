"""Autoencoders: parameters counted by hand, sizes that come back, and what a residual net does."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from faultlight.autoencoder.nets import Blueprint, build, parameters_of
from faultlight.errors import InputError

RGB, GREY = (3, 32, 32), (1, 28, 28)


def conv(few: int, many: int, side: int = 3) -> int:
    return few * many * side**2 + many


def test_the_convolutional_autoencoder_has_1_495_parameters_and_4_maps_of_8_by_8() -> None:
    net = build(Blueprint("convolutional", RGB))
    assert parameters_of(net) == conv(3, 16) + conv(16, 4) + conv(4, 16, 2) + conv(16, 3, 2) == 1495
    x = torch.rand(2, *RGB)
    assert net.encoder(x).shape == (2, 4, 8, 8)  # type: ignore[operator]
    found = net(x)
    assert found.shape == x.shape
    assert 0 < found.min() < found.max() < 1


@pytest.mark.parametrize(("depth", "due"), [(1, 9_569), (2, 46_529), (3, 194_177)])
def test_encoder_decoders_have_the_parameters_of_their_layers(depth: int, due: int) -> None:
    net = build(Blueprint("encoder-decoder", GREY, depth, 16))
    widths = [16 * 2**level for level in range(depth + 1)]
    steps = [conv(few, many) + conv(many, few) for few, many in pairwise(widths)]
    assert parameters_of(net) == conv(1, 16) + sum(steps) + conv(16, 1) == due


@pytest.mark.parametrize("skips", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("shape", [GREY, (3, 9, 14)])
def test_images_come_back_in_their_own_size_odd_or_even(
    shape: tuple[int, int, int], residual: bool, skips: bool
) -> None:
    net = build(Blueprint("encoder-decoder", shape, 3, 2, skips, residual)).eval()
    found = net(torch.rand(2, *shape))
    assert found.shape == (2, *shape)
    assert found.min() >= 0
    assert found.max() <= 1


def test_a_residual_net_takes_away_what_its_head_says() -> None:
    net = build(Blueprint("encoder-decoder", (1, 4, 4), 1, 2, residual=True))
    with torch.no_grad():
        net.head.weight.zero_()  # type: ignore[union-attr]
        net.head.bias.fill_(0.25)  # type: ignore[union-attr]
    x = torch.tensor([0.1, 0.5, 0.9, 1.0]).repeat(4).view(1, 1, 4, 4)
    assert torch.allclose(net.train()(x), x - 0.25)
    assert torch.allclose(net.eval()(x), (x - 0.25).clamp(0, 1))


def test_skips_change_the_answer_and_add_no_parameters() -> None:
    plain, skipping = (build(Blueprint("encoder-decoder", GREY, 2, 4, skips)) for skips in (False, True))
    assert parameters_of(plain) == parameters_of(skipping)
    x = torch.rand(1, *GREY)
    assert not torch.allclose(plain(x), skipping(x))


def test_weights_are_a_function_of_the_seed() -> None:
    one, same, other = (build(Blueprint("convolutional", RGB), seed) for seed in (1, 1, 2))
    x = torch.rand(1, *RGB)
    assert torch.equal(one(x), same(x))
    assert not torch.equal(one(x), other(x))


def test_images_of_another_shape_are_told_from_the_right_ones() -> None:
    with pytest.raises(InputError, match="made for images of 3×32×32, and these are 1×28×28"):
        build(Blueprint("convolutional", RGB))(torch.rand(1, *GREY))


def test_a_net_that_cannot_be_built_is_told() -> None:
    with pytest.raises(InputError, match="multiples of 4, not 30×30"):
        Blueprint("convolutional", (3, 30, 30))
    with pytest.raises(InputError, match="cannot be halved 3 times"):
        Blueprint("encoder-decoder", (1, 4, 4), 3)
    with pytest.raises(InputError, match="at least 1"):
        Blueprint("encoder-decoder", GREY, 0)
