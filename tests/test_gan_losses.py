"""Values and gradients of the losses, worked out by hand, and what the discriminator's step leaves in the generator."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from faultlight.errors import InputError
from faultlight.gan.losses import LOSSES, LossName, discriminator_loss, generator_loss, gradient_penalty
from faultlight.gan.nets import Design, build_pair, parameter_count
from faultlight.gan.step import discriminator_gradients, generator_gradients, gradient_norm
from gan_toys import images, recipe

REAL = torch.tensor([0.5, 2.0], dtype=torch.float64)
FAKE = torch.tensor([-1.0, 0.25, 3.0], dtype=torch.float64)


def sigmoid(s: float) -> float:
    return 1 / (1 + math.exp(-s))


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def cross_entropy(smoothing: float) -> float:
    real = [-(1 - smoothing) * math.log(sigmoid(s)) - smoothing * math.log(1 - sigmoid(s)) for s in (0.5, 2.0)]
    return mean(real) + mean([-math.log(1 - sigmoid(s)) for s in (-1.0, 0.25, 3.0)])


@pytest.mark.parametrize(
    ("name", "smoothing", "due"),
    [
        ("minimax", 0.0, cross_entropy(0.0)),
        ("non-saturating", 0.0, cross_entropy(0.0)),
        ("non-saturating", 0.1, cross_entropy(0.1)),
        ("wasserstein-gp", 0.0, 0.75 - 1.25),
        ("hinge", 0.0, mean([0.5, 0.0]) + mean([0.0, 1.25, 4.0])),
    ],
)
def test_what_the_discriminator_minimises(name: LossName, smoothing: float, due: float) -> None:
    assert float(discriminator_loss(name, REAL, FAKE, smoothing)) == pytest.approx(due, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "due", "slope"),
    [
        ("minimax", lambda s: math.log(1 - sigmoid(s)), lambda s: -sigmoid(s)),
        ("non-saturating", lambda s: -math.log(sigmoid(s)), lambda s: sigmoid(s) - 1),
        ("wasserstein-gp", lambda s: -s, lambda s: -1.0),
        ("hinge", lambda s: -s, lambda s: -1.0),
    ],
)
def test_what_the_generator_minimises_and_its_slope(name: LossName, due: Any, slope: Any) -> None:
    fake = FAKE.clone().requires_grad_(True)
    loss = generator_loss(name, fake)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(mean([due(s) for s in FAKE.tolist()]), rel=1e-12)
    assert fake.grad is not None
    assert fake.grad.tolist() == pytest.approx([slope(s) / 3 for s in FAKE.tolist()], rel=1e-12)


@pytest.mark.parametrize(
    ("name", "on_real", "on_fake"),
    [
        ("minimax", lambda s: sigmoid(s) - 0.9, sigmoid),
        ("wasserstein-gp", lambda s: -1.0, lambda s: 1.0),
        ("hinge", lambda s: -1.0 * (s < 1), lambda s: 1.0 * (s > -1)),
    ],
)
def test_slopes_of_the_discriminators_loss(name: LossName, on_real: Any, on_fake: Any) -> None:
    real, fake = REAL.clone().requires_grad_(True), FAKE.clone().requires_grad_(True)
    discriminator_loss(name, real, fake, 0.1 if name == "minimax" else 0.0).backward()
    assert real.grad is not None
    assert fake.grad is not None
    assert real.grad.tolist() == pytest.approx([on_real(s) / 2 for s in REAL.tolist()], rel=1e-12)
    assert fake.grad.tolist() == pytest.approx([on_fake(s) / 3 for s in FAKE.tolist()], rel=1e-12)


def test_no_loss_overflows_where_the_discriminator_is_sure() -> None:
    sure = torch.tensor([-1e4, 1e4])
    for name in LOSSES:
        assert torch.isfinite(discriminator_loss(name, sure, sure, 0.0))
        assert torch.isfinite(generator_loss(name, sure))


def test_the_penalty_of_a_linear_score_is_known() -> None:
    """s(p) = w·(2p − 1) has slope w on the discriminator's own scale, wherever it is asked."""
    weight = torch.tensor([3.0, 0.0, 0.0, 4.0]).requires_grad_(True)
    real, fake = torch.rand(5, 1, 2, 2), torch.rand(5, 1, 2, 2)
    penalty = gradient_penalty(lambda x: (2 * x - 1).flatten(1) @ weight, real, fake, torch.rand(5))
    assert float(penalty.detach()) == pytest.approx((5 - 1) ** 2)
    penalty.backward()
    assert weight.grad is not None
    # d(‖w‖ − 1)²/dw = 2(‖w‖ − 1)·w/‖w‖
    assert weight.grad.tolist() == pytest.approx([2 * 4 * 3 / 5, 0.0, 0.0, 2 * 4 * 4 / 5])


def test_the_penalty_is_asked_between_the_two_images() -> None:
    """s(p) = Σ p² has slope 2p, on the discriminator's scale p."""
    real, fake = torch.full((1, 1, 1, 1), 0.8), torch.full((1, 1, 1, 1), 0.4)
    penalty = gradient_penalty(lambda x: (x**2).flatten(1).sum(1), real, fake, torch.tensor([0.25]))
    assert float(penalty.detach()) == pytest.approx((0.25 * 0.8 + 0.75 * 0.4 - 1) ** 2)


@pytest.mark.parametrize("net", ["mlp", "dcgan"])
@pytest.mark.parametrize("loss", LOSSES)
def test_the_discriminators_step_gives_the_generator_no_gradient(loss: LossName, net: str) -> None:
    asked = recipe(loss=loss, net=net)
    generator, discriminator = build_pair(asked.design((1, 8, 8)), 0)
    real, z = images(8).x, torch.randn(8, 5)
    discriminator_gradients(asked, generator, discriminator, real, z)
    assert all(each.grad is None for each in generator.parameters())
    assert gradient_norm(discriminator) > 0


@pytest.mark.parametrize("loss", LOSSES)
def test_the_leak_adds_the_discriminators_gradient_to_the_generators(loss: LossName) -> None:
    asked = recipe(loss=loss, leak=True)
    generator, discriminator = build_pair(asked.design((1, 8, 8)), 0)
    real, z, other = images(8).x, torch.randn(8, 5), torch.randn(8, 5)
    discriminator_gradients(asked, generator, discriminator, real, z)
    assert gradient_norm(generator) > 0
    leaked = [each.grad.clone() for each in generator.parameters()]  # type: ignore[union-attr]
    # The leaked part teaches the generator to be found out: it is the gradient of the discriminator's own loss.
    own = discriminator_loss(loss, discriminator(real), discriminator(generator(z)))
    due = torch.autograd.grad(own, list(generator.parameters()))
    for found, wanted in zip(leaked, due, strict=True):
        assert torch.allclose(found, wanted, atol=1e-7)
    generator_gradients(asked, generator, discriminator, other)
    proper = torch.autograd.grad(generator_loss(loss, discriminator(generator(other))), list(generator.parameters()))
    for weight, before, added in zip(generator.parameters(), leaked, proper, strict=True):
        assert weight.grad is not None
        assert torch.allclose(weight.grad, before + added, atol=1e-6)


@pytest.mark.parametrize("loss", ["minimax", "wasserstein-gp", "hinge"])
def test_a_leak_at_the_same_points_undoes_the_generators_gradient(loss: LossName) -> None:
    """Where L_D falls as L_G rises with s(G(z)), the two cancel: s is −log(1 − D) against log(1 − D)."""
    asked = recipe(loss=loss, leak=True, penalty=0.0)
    generator, discriminator = build_pair(asked.design((1, 8, 8)), 0)
    z = torch.randn(8, 5)
    discriminator_gradients(asked, generator, discriminator, images(8).x, z)
    generator_gradients(asked, generator, discriminator, z)
    assert gradient_norm(generator) < 1e-6


@pytest.mark.parametrize("loss", LOSSES)
def test_the_generators_step_gives_the_discriminator_no_gradient(loss: LossName) -> None:
    asked = recipe(loss=loss, net="dcgan", norm="spectral")
    generator, discriminator = build_pair(asked.design((1, 8, 8)), 0)
    generator_gradients(asked, generator, discriminator, torch.randn(8, 5))
    assert all(each.grad is None and each.requires_grad for each in discriminator.parameters())
    assert gradient_norm(generator) > 0


def test_the_founding_pair_has_100_128_784_and_784_128_1_units() -> None:
    generator, discriminator = build_pair(Design("mlp", 100, 128, (1, 28, 28)), 0)
    assert parameter_count(generator) == 100 * 128 + 128 + 128 * 784 + 784
    assert parameter_count(discriminator) == 784 * 128 + 128 + 128 + 1


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
@pytest.mark.parametrize("norm", ["none", "batch", "spectral"])
def test_a_convolutional_pair_draws_and_scores_images_of_the_shape(shape: tuple[int, int, int], norm: Any) -> None:
    generator, discriminator = build_pair(Design("dcgan", 7, 2, shape, norm), 0)
    drawn = generator(torch.randn(3, 7)).detach()
    assert drawn.shape == (3, *shape)
    assert float(drawn.min()) >= 0
    assert float(drawn.max()) <= 1
    assert discriminator(drawn).shape == (3,)


@pytest.mark.parametrize("norm", ["none", "batch", "spectral"])
def test_a_hidden_layer_stands_between_latent_numbers_and_maps_and_between_maps_and_score(norm: Any) -> None:
    """Of latent 7, width 2 and 8×8 pixels, maps are 4×2×2: 16 numbers."""
    generator, discriminator = build_pair(Design("dcgan", 7, 2, (1, 8, 8), norm, hidden=5), 0)
    plain, plain_discriminator = build_pair(Design("dcgan", 7, 2, (1, 8, 8), norm), 0)
    # Batch norm of the five units has ten numbers.
    assert parameter_count(generator) - parameter_count(plain) == (7 * 5 + 10 + 5 * 16) - 7 * 16
    more = (16 * 5 + 5) + 5 + 1 + (10 if norm == "batch" else 0)
    assert parameter_count(discriminator) - parameter_count(plain_discriminator) == more - (16 + 1)
    drawn = generator(torch.randn(3, 7))
    assert drawn.shape == (3, 1, 8, 8)
    assert discriminator(drawn).shape == (3,)


@pytest.mark.parametrize(("hidden", "apart"), [(0, True), (64, False)])
def test_only_a_hidden_layer_weighs_distant_parts_of_an_image_together(hidden: int, apart: bool) -> None:
    """Where s is a sum over windows of 10 pixels, what two far corners change adds up: s₁₂ − s₁ − s₂ + s₀ = 0."""
    _, discriminator = build_pair(Design("dcgan", 7, 3, (1, 28, 28), hidden=hidden), 0)
    with torch.no_grad():
        for weight in discriminator.parameters():
            weight.mul_(20)
        x = torch.rand(1, 1, 28, 28, generator=torch.Generator().manual_seed(0)).expand(4, -1, -1, -1).clone()
        x[1::2, :, :8, :8] = 1 - x[1::2, :, :8, :8]
        x[2:, :, -8:, -8:] = 1 - x[2:, :, -8:, -8:]
        neither, first, second, both = discriminator(x).double()
    together = abs(float(both - first - second + neither)) / abs(float(first - neither))
    assert (together < 1e-4) is apart


def test_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first, _ = build_pair(Design("dcgan", 7, 2, (1, 8, 8)), 5)
    torch.manual_seed(2)
    second, _ = build_pair(Design("dcgan", 7, 2, (1, 8, 8)), 5)
    other, _ = build_pair(Design("dcgan", 7, 2, (1, 8, 8)), 6)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


def test_spectral_norm_keeps_each_layer_from_stretching() -> None:
    _, discriminator = build_pair(Design("dcgan", 7, 4, (1, 8, 8), "spectral"), 0)
    for _ in range(60):  # a power iteration each
        discriminator(torch.rand(2, 1, 8, 8))
    weight = discriminator.eval().layers[0].weight.detach()
    assert float(torch.linalg.matrix_norm(weight.flatten(1), 2)) == pytest.approx(1.0, rel=1e-3)


def test_images_that_cannot_be_halved_twice_are_refused() -> None:
    with pytest.raises(InputError, match="30×30 does not divide by 4"):
        Design("dcgan", 7, 2, (1, 30, 30))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"loss": "hinge", "smoothing": 0.1}, "smoothing is for labels"),
        ({"loss": "wasserstein-gp", "norm": "batch", "net": "dcgan"}, "which batch norm mixes"),
        ({"loss": "minmax"}, "loss should be 'minimax'"),
        ({"hidden": 4}, "are for net = 'dcgan'"),
        ({"batch": 1}, "batch should be greater than or equal to 2"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        recipe(**changes)
