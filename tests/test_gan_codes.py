"""Codes in front of latent numbers: how they are read off, what they draw, and what the reader of them is taught."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from faultlight.errors import InputError
from faultlight.gan.nets import Design, build_pair, code_of, coded
from faultlight.gan.sample import latent_points
from faultlight.gan.step import discriminator_gradients, generator_gradients
from gan_toys import images, recipe

DESIGN = Design("dcgan", 6, 4, (1, 8, 8), "batch", hidden=8, codes=3)


def test_a_code_is_the_place_of_the_largest_number_and_has_variance_one() -> None:
    z = torch.tensor([[0.1, 2.0, -1.0, 5.0], [3.0, 0.0, 1.0, -7.0]])
    due = torch.tensor([[0.0, 3 / math.sqrt(2), 0.0, 5.0], [3 / math.sqrt(2), 0.0, 0.0, -7.0]])
    assert torch.allclose(coded(z, 3), due)
    assert torch.equal(coded(z, 0), z)
    drawn = latent_points(20_000, 12, 0)
    assert torch.allclose(torch.bincount(code_of(drawn, 10)) / 20_000, torch.full((10,), 0.1), atol=0.01)
    assert torch.allclose(coded(drawn, 10).var(0), torch.ones(12), atol=0.1)


def test_of_the_first_numbers_an_image_depends_on_the_code_alone() -> None:
    generator, _ = build_pair(DESIGN, 0)
    z = latent_points(4, 6, 0)
    same, other = z.clone(), z.clone()
    same[:, :3] = z[:, :3] * 2 + 1
    other[:, :3] = z[:, :3].roll(1, 1)
    assert torch.equal(generator.eval()(z), generator(same))
    assert not torch.allclose(generator(z), generator(other))


@pytest.mark.parametrize("net", ["mlp", "dcgan"])
def test_a_reader_that_knows_nothing_is_wrong_by_log_k_and_scores_stay_what_they_were(net: Any) -> None:
    asked = recipe(net=net, latent=6, codes=4)
    generator, discriminator = build_pair(asked.design((1, 8, 8)), 0)
    assert discriminator.reader is not None
    torch.nn.init.zeros_(discriminator.reader.weight)
    torch.nn.init.zeros_(discriminator.reader.bias)
    x = images(8).x
    seen = discriminator_gradients(asked, generator, discriminator, x, latent_points(8, 6, 0))
    assert seen["misread"].item() == pytest.approx(math.log(4), abs=1e-6)
    assert torch.equal(discriminator.read(x)[0], discriminator(x))
    assert all(each.grad is None for each in generator.parameters())


def test_the_generator_is_taught_to_be_read_by_the_weight_of_the_code() -> None:
    def gradient(weight: float) -> torch.Tensor:
        asked = recipe(latent=6, codes=4, code_weight=weight)
        generator, discriminator = build_pair(asked.design((1, 8, 8)), 0)
        generator_gradients(asked, generator, discriminator, latent_points(8, 6, 0))
        assert all(each.grad is None for each in discriminator.parameters())
        return torch.cat([each.grad.flatten() for each in generator.parameters() if each.grad is not None])

    none, one, two = (gradient(weight) for weight in (0.0, 1.0, 2.0))
    assert (one - none).norm() > 0
    assert torch.allclose(two - none, 2 * (one - none), atol=1e-6)


@pytest.mark.parametrize("codes", [1, 7])
def test_codes_that_do_not_fit_are_refused(codes: int) -> None:
    with pytest.raises(InputError, match="codes must be 0, or from 2 to the 6 latent numbers"):
        Design("mlp", 6, 4, (1, 8, 8), codes=codes)
