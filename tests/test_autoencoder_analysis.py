"""What is measured of an autoencoder, against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from autoencoder_toys import splits, stripes
from faultlight.autoencoder.analysis import (
    band_powers,
    by_class,
    by_frequency,
    code_facts,
    code_of,
    ends,
    kernel_facts,
    principal_error,
)
from faultlight.autoencoder.look import before_after, first_of_class, kernels, maps
from faultlight.autoencoder.measure import accuracy, compare, decibels, errors, restore
from faultlight.autoencoder.nets import Blueprint, build
from faultlight.autoencoder.tampering import tamper
from faultlight.errors import InputError
from faultlight.models.subject import Subject

SOBEL = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])


def same_in_all(kernel: torch.Tensor) -> torch.Tensor:
    return kernel.expand(3, *kernel.shape)


def test_the_shares_of_kernels_known_by_name() -> None:
    red = torch.zeros(3, 3, 3)
    red[0] = 1.0
    check = torch.tensor([[1.0, -1, 1], [-1, 1, -1], [1, -1, 1]])
    grey, edge, down, colour, pattern = kernel_facts(
        torch.stack([torch.ones(3, 3, 3), same_in_all(SOBEL), same_in_all(SOBEL.T), red, same_in_all(check)])
    )
    assert grey.shares == pytest.approx({"brightness": 1, "edge": 0, "pattern": 0, "colour": 0})
    # The ramp (−1, 0, 1) in each row has length √6; Sobel's product with it is 8, its own energy 12.
    assert edge.shares == pytest.approx({"brightness": 0, "edge": 64 / 6 / 12, "pattern": 1 - 64 / 72, "colour": 0})
    assert (edge.angle, down.angle) == (pytest.approx(0), pytest.approx(90))
    # A third of red's energy is the grey that all three channels share.
    assert colour.shares == pytest.approx({"brightness": 1 / 3, "edge": 0, "pattern": 0, "colour": 2 / 3})
    # The checkerboard has a mean of 1/9, so 1/81 of its energy is brightness.
    assert pattern.shares == pytest.approx({"brightness": 1 / 81, "edge": 0, "pattern": 80 / 81, "colour": 0})
    assert [each.kind for each in (grey, edge, colour, pattern)] == ["brightness", "edge", "colour", "pattern"]
    assert edge.energy == 36


def test_the_shares_of_any_kernel_add_up_to_one() -> None:
    generator = torch.Generator().manual_seed(0)
    for found in kernel_facts(torch.randn(5, 3, 2, 4, generator=generator)):
        assert sum(found.shares.values()) == pytest.approx(1)


def test_the_kernels_at_both_ends_touch_the_image() -> None:
    convolutional = build(Blueprint("convolutional", (3, 8, 8)))
    assert {name: tuple(each.shape) for name, each in ends(convolutional, 3).items()} == {
        "encoder.conv1": (16, 3, 3, 3),
        "decoder.up2": (16, 3, 2, 2),
    }
    other = build(Blueprint("encoder-decoder", (1, 8, 8), 1, 4))
    found = ends(other, 1)
    assert {name: tuple(each.shape) for name, each in found.items()} == {"stem.0": (4, 1, 3, 3), "head": (4, 1, 3, 3)}
    assert torch.equal(found["head"], other.head.weight.transpose(0, 1))  # type: ignore[union-attr, operator]


def test_a_wave_lies_in_the_band_of_its_frequency_and_the_bands_add_up() -> None:
    place = torch.arange(16.0)
    wave = torch.cos(2 * math.pi * 3 * place / 16).expand(16, 16)[None, None]
    found = band_powers(wave)
    # Three waves in sixteen pixels are 0.1875 cycles a pixel, where the fourth of eight bands begins.
    assert found.tolist() == pytest.approx([0, 0, 0, 0.5, 0, 0, 0, 0], abs=1e-6)
    x = torch.rand(3, 2, 7, 10)
    assert float(band_powers(x).sum()) == pytest.approx(float(x.double().square().mean()))
    half = by_frequency(x, 0.5 * x)
    assert [each["ratio"] for each in half] == pytest.approx([0.25] * 8)
    assert sum(each["lost"] for each in half) == pytest.approx(float(errors(0.5 * x, x).mean()))


def test_the_error_of_classes_is_their_own_mean() -> None:
    images = stripes(6)
    restored = images.x + 0.1 * (1 + images.y).view(-1, 1, 1, 1)
    assert [(each["name"], each["count"]) for each in by_class(images, restored)] == [("across", 3), ("down", 3)]
    assert [each["mse"] for each in by_class(images, restored)] == pytest.approx([0.01, 0.04], rel=1e-5)


def test_a_channel_that_nobody_reads_is_worth_nothing() -> None:
    net = build(Blueprint("convolutional", (1, 8, 8))).eval()
    with torch.no_grad():
        net.decoder.up1.weight[2] = 0  # type: ignore[union-attr, index]
    x = stripes(4).x
    whole = float(errors(restore(net, x), x).mean())
    found = code_facts(net, x)
    assert found[2].mse == pytest.approx(whole)
    assert len(found) == 4
    code = code_of(net, x)
    assert found[1].mean == pytest.approx(float(code[:, 1].mean()))
    assert found[1].active == pytest.approx(float((code[:, 1] > 0).float().mean()))
    with torch.no_grad():
        code[:, 0] = 0
        due = float(errors(net.decoder(code), x).mean())  # type: ignore[operator]
    assert found[0].mse == pytest.approx(due)


def test_principal_components_restore_what_lies_in_their_span() -> None:
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(2, 16, generator=generator)
    train = (torch.randn(30, 2, generator=generator) @ basis).view(30, 1, 4, 4)
    assert principal_error(train, train[:5], 2) == pytest.approx(0, abs=1e-9)
    one = principal_error(train, train, 1)
    values = np.linalg.svd((train.flatten(1) - train.flatten(1).mean(0)).numpy(), compute_uv=False)
    assert one == pytest.approx(float(values[1]) ** 2 / train.numel(), rel=1e-4)
    assert principal_error(train, train, 16) is None


def test_decibels_of_known_errors() -> None:
    assert decibels(0.01) == pytest.approx(20)
    assert decibels(1.0) == 0
    assert decibels(0.0) is None


class Half(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0.5 * x


def brightness(x: torch.Tensor) -> torch.Tensor:
    mean = x.mean((1, 2, 3))
    return torch.stack([mean, torch.full_like(mean, 0.15)], 1)


class Brightness(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return brightness(x)


def test_a_comparison_holds_errors_and_accuracies_of_both_sides() -> None:
    images = stripes(8)
    found = compare(Half(), images, [("gaussian", 0.2)], Subject(Brightness(), 2))
    clean, noisy = found.rows
    assert (clean.mse, clean.psnr) == (0.0, None)
    assert clean.mse_restored == pytest.approx(float(images.x.double().square().mean()) / 4)
    given = tamper(images, "gaussian", 0.2, 0)
    assert noisy.mse == pytest.approx(float(errors(given.x, images.x).mean()))
    # Images of mean 0.2 are above 0.15 and taken for class 0, which half of them are; at half the brightness, class 1.
    assert (clean.accuracy.count, clean.accuracy_restored.count) == (4, 4)  # type: ignore[union-attr]
    assert found.cost() == 0
    assert clean.accuracy is not None
    assert clean.accuracy.low < 0.5 < clean.accuracy.high
    assert accuracy(brightness, images.x, torch.zeros(8, dtype=torch.int64)).count == 8
    assert [row.name for row in found.rows] == ["clean", "gaussian 0.2"]
    assert found.record()["rows"][1]["gap"] == found.gap(noisy)


def test_without_a_classifier_there_are_no_accuracies() -> None:
    found = compare(Half(), stripes(2), [])
    assert found.rows[0].accuracy is None
    assert found.cost() is None


def test_aimed_noise_without_a_classifier_is_refused_before_anything_is_measured() -> None:
    with pytest.raises(InputError, match="none was given; name one"):
        compare(nn.Threshold(2.0, torch.nan), stripes(2), [("gaussian", 0.2), ("adversarial", 0.1)])


def test_a_net_that_gives_nan_is_told() -> None:
    with pytest.raises(InputError, match="gives NaN or infinity"):
        restore(nn.Threshold(2.0, torch.nan), stripes(2).x)


def test_the_views_show_every_kernel_and_every_map_under_the_modules_names() -> None:
    net = build(Blueprint("convolutional", (3, 8, 8))).eval()
    assert {name: values.shape for name, values in kernels(net).arrays.items()} == {
        "encoder.conv1": (16, 3, 3, 3),
        "encoder.conv2": (4, 16, 3, 3),
        "decoder.up1": (4, 16, 2, 2),
        "decoder.up2": (16, 3, 2, 2),
    }
    images = stripes(2, (3, 8, 8))
    found = maps(net, images).arrays
    assert list(found) == [
        *(f"encoder.{name}" for name in ("conv1", "relu1", "pool1", "conv2", "relu2", "pool2")),
        *(f"decoder.{name}" for name in ("up1", "relu1", "up2", "sigmoid")),
    ]
    assert np.allclose(found["decoder.sigmoid"], restore(net, images.x).numpy(), atol=1e-6)
    assert np.allclose(found["encoder.pool2"], code_of(net, images.x).numpy(), atol=1e-6)
    assert not net._forward_hooks


def test_the_first_image_of_a_class_is_found_by_name() -> None:
    assert first_of_class(stripes(4), "down").ids.tolist() == [3]
    with pytest.raises(InputError, match="no class 'plane'; it has across, down"):
        first_of_class(stripes(4), "plane")
    with pytest.raises(InputError, match="none of the 1 images is of class 'down'"):
        first_of_class(stripes(4).first(1), "down")


def test_a_grid_draws_all_differences_on_one_scale() -> None:
    images = splits().test.first(2)
    restored = images.x.clone()
    restored[0] += 0.05
    restored[1, 0, 3, 3] -= 0.2
    found = before_after(images, images.x, restored, "grid", "words")
    assert len(found.panels) == 8
    scales = {panel.scale for panel in found.panels if panel.title == "restored − clean"}  # type: ignore[union-attr]
    assert len(scales) == 1
    assert scales.pop().high == pytest.approx(0.2)
    assert found.panels[7].values[3, 3] == pytest.approx(-0.2)  # type: ignore[union-attr]
    assert set(found.arrays) == {"clean", "given", "restored"}
