"""Activation maximisation: the closed form of a linear net, by hand, and each option by itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from faultlight.data.images import Images
from faultlight.errors import InputError
from faultlight.models import zoo
from faultlight.models.subject import Subject
from faultlight.views._coordinates import Coordinates, variation
from faultlight.views.activation_maximisation import ActivationMaximisation

TRAINED = Path(__file__).parents[1] / ".cache" / "mnist-plain.safetensors"


def some_images(channels: int = 1, height: int = 4, width: int = 4, classes: int = 3) -> Images:
    x = torch.rand(2, channels, height, width, generator=torch.Generator().manual_seed(1))
    return Images(x, torch.tensor([0, 1]), torch.arange(2), tuple("abcdefghij"[:classes]))


def linear(scale: float = 1.0, height: int = 4, width: int = 4) -> Subject:
    weight = scale * torch.randn(3, height * width, generator=torch.Generator().manual_seed(2))
    head = nn.Linear(height * width, 3)
    head.weight.data, head.bias.data = weight, torch.tensor([0.5, -1.0, 0.0])
    return Subject(nn.Sequential(nn.Flatten(), head).eval(), 3)


@pytest.mark.parametrize(("start", "l2"), [("zeros", 0.25), ("grey", 1.0), ("noise", 1.0)])
def test_a_linear_net_is_driven_to_its_weights_over_twice_the_penalty(start: str, l2: float) -> None:
    subject = linear()
    arrays = ActivationMaximisation(start=start, l2=l2, steps=200, rate=0.02)(subject, some_images()).arrays
    expected = (subject.module[1].weight / (2 * l2)).clamp(0, 1).view(3, 1, 4, 4).numpy()
    np.testing.assert_allclose(arrays["x"], expected, atol=2e-3)


def test_fourier_coefficients_lead_to_the_same_answer_inside_the_box() -> None:
    subject = linear()
    subject.module[1].weight.data.abs_().clamp_(0.1, 0.9)
    found = ActivationMaximisation(fourier=True, l2=0.5, steps=200, rate=0.02)(subject, some_images()).arrays["x"]
    np.testing.assert_allclose(found, subject.module[1].weight.view(3, 1, 4, 4).numpy(), atol=5e-3)


def test_the_first_costs_by_hand() -> None:
    subject, images = linear(), some_images()
    arrays = ActivationMaximisation(steps=1, rate=0.25, l2=0.125, total_variation=0.5)(subject, images).arrays
    np.testing.assert_array_equal(arrays["cost"][:, 0], [-0.5, 1.0, 0.0])
    # Adam's first step is the rate along the sign of the gradient, which is −w at zero; what falls below 0 is cut.
    x = 0.25 * (subject.module[1].weight > 0).float().view(3, 1, 4, 4)
    np.testing.assert_allclose(arrays["x"], x.numpy(), atol=1e-6)
    with torch.no_grad():
        logits = subject(x)
    cost = -logits.diagonal() + 0.125 * x.square().flatten(1).sum(1) + 0.5 * variation(x)
    np.testing.assert_allclose(arrays["cost"][:, 1], cost.numpy(), atol=1e-5)
    np.testing.assert_allclose(arrays["scores"][:, 1], logits.numpy(), atol=1e-5)
    np.testing.assert_allclose(arrays["activation"][:, 1], logits.diagonal().numpy(), atol=1e-5)
    np.testing.assert_allclose(arrays["probability"], logits.softmax(1).numpy(), atol=1e-6)


def test_the_total_variation_by_hand() -> None:
    assert variation(torch.tensor([[[[0.0, 1.0], [0.5, 0.25]]]])).tolist() == [0.5 + 0.75 + 1.0 + 0.25]
    assert variation(torch.full((1, 2, 3, 3), 0.4)).tolist() == [0.0]


def test_total_variation_alone_makes_the_image_flat() -> None:
    rough = ActivationMaximisation(start="noise", deviation=0.2, l2=0.0)(linear(0.0), some_images()).arrays["x"]
    view = ActivationMaximisation(start="noise", deviation=0.2, l2=0.0, total_variation=1.0, rate=0.002)
    flat = view(linear(0.0), some_images()).arrays["x"]
    assert (np.ptp(flat.reshape(3, -1), 1) < 0.2 * np.ptp(rough.reshape(3, -1), 1)).all()


@pytest.mark.parametrize(("height", "width"), [(4, 4), (5, 7), (6, 3)])
def test_fourier_coordinates_give_the_pixels_back(height: int, width: int) -> None:
    coordinates = Coordinates((height, width), True, torch.device("cpu"))
    x = torch.rand(2, 3, height, width)
    torch.testing.assert_close(coordinates.pixels(coordinates.of(x)), x)


def test_a_coarse_wave_moves_more_than_a_fine_one() -> None:
    """One step along both waves from grey: the change is in the ratio of the wavelengths, 8 to 2."""
    wave = torch.cos(2 * torch.pi * torch.arange(8) / 8) + torch.cos(torch.pi * torch.arange(8))
    head = nn.Linear(64, 2, bias=False)
    head.weight.data = wave.repeat(8, 1).view(1, 64).repeat(2, 1)
    subject = Subject(nn.Sequential(nn.Flatten(), head).eval(), 2)
    view = ActivationMaximisation(target=0, start="grey", steps=1, l2=0.0, rate=0.01, fourier=True)
    change = view(subject, some_images(height=8, width=8, classes=2)).arrays["x"][0, 0, 0] - 0.5
    # The real parts: rounding gives the others, whose gradient is 0, a sign that Adam's first step believes.
    sizes = np.fft.rfft(change).real
    assert sizes[1] / sizes[4] == pytest.approx(8 / 2, rel=1e-3)


def two_maps(inplace: bool) -> Subject:
    """Maps x − 0.25 and −x, ReLU, and logits that see only the first."""
    conv = nn.Conv2d(1, 2, 1)
    conv.weight.data, conv.bias.data = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1), torch.tensor([-0.25, 0.0])
    head = nn.Linear(32, 3, bias=False)
    head.weight.data = torch.cat([torch.ones(3, 16), torch.zeros(3, 16)], 1) * torch.tensor([[1.0], [0.0], [-1.0]])
    return Subject(nn.Sequential(conv, nn.ReLU(inplace), nn.Flatten(), head).eval(), 3)


@pytest.mark.parametrize("inplace", [False, True])
def test_a_map_is_driven_by_its_mean_and_moves_the_scores(inplace: bool) -> None:
    result = ActivationMaximisation(layer="0", start="grey", l2=0.0, steps=60)(two_maps(inplace), some_images())
    arrays = result.arrays
    np.testing.assert_allclose(arrays["x"][0], 1)
    np.testing.assert_allclose(arrays["x"][1], 0)
    np.testing.assert_allclose(arrays["activation"][:, 0], [0.25, -0.5])
    np.testing.assert_allclose(arrays["activation"][:, -1], [0.75, 0])
    np.testing.assert_allclose(arrays["scores"][0, -1], [12, 0, -12])
    assert result.facts["units"] == ["0[0]", "0[1]"]
    assert "0[0]: 0.25 → 0.75; seen as a with 100.00 %; raises a most (+8), c least (-8)" in result.text()


def test_one_channel_can_be_asked_for_and_the_features_of_a_vector_too() -> None:
    one = ActivationMaximisation(layer="1", channel=0, start="grey", steps=3)(two_maps(False), some_images())
    assert one.arrays["channel"].tolist() == [0]
    many = ActivationMaximisation(layer="2", start="grey", steps=3)(two_maps(False), some_images())
    assert many.arrays["x"].shape == (32, 1, 4, 4)


def test_a_map_that_nothing_drives_is_no_error_and_is_said() -> None:
    result = ActivationMaximisation(layer="1", channel=1, start="grey", steps=5)(two_maps(False), some_images())
    assert "1[1]: 0 → 0 (it does not move: no gradient reaches the pixels)" in result.text()


def test_noise_has_its_mean_and_deviation_and_follows_the_seed_and_the_class() -> None:
    images, subject = some_images(1, 40, 40), linear(1.0, 40, 40)
    start = ActivationMaximisation(start="noise", steps=1)(subject, images).arrays["start"]
    assert start.mean() == pytest.approx(0.5, abs=0.003)
    assert start.std() == pytest.approx(0.05, abs=0.003)
    alone = ActivationMaximisation(target=2, start="noise", steps=1)(subject, images).arrays["start"]
    np.testing.assert_array_equal(alone[0], start[2])
    other = ActivationMaximisation(start="noise", steps=1, seed=1)(subject, images).arrays["start"]
    assert (other != start).mean() > 0.9


def test_each_class_has_the_image_that_it_has_alone() -> None:
    whole = ActivationMaximisation(steps=20)(linear(), some_images()).arrays["x"]
    alone = ActivationMaximisation(target=1, steps=20)(linear(), some_images()).arrays["x"]
    np.testing.assert_allclose(alone[0], whole[1], atol=1e-6)


def test_jitter_is_repeatable_and_blind_to_where_a_net_looks() -> None:
    view = ActivationMaximisation(jitter=2, steps=200, rate=0.01, l2=0.25)
    once, again = (view(linear(), some_images()).arrays["x"] for _ in range(2))
    np.testing.assert_array_equal(once, again)
    # Rolled by −2 … 2 pixels, four places see much the same weights: the image is flatter than without jitter.
    still = ActivationMaximisation(steps=200, rate=0.01, l2=0.25)(linear(), some_images()).arrays["x"]
    assert (once.reshape(3, -1).std(1) < 0.6 * still.reshape(3, -1).std(1)).all()
    rolls = list(view._rolls())
    assert {down for down, _ in rolls} == {right for _, right in rolls} == {-2, -1, 0, 1, 2}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"target": 3}, "target 3 is no class of the model; choose one of 0 … 2"),
        ({"layer": "o"}, "has no layer 'o'; known: 0, 1, 2, 3"),
        ({"layer": "0", "channel": 2}, "channel 2 is no channel of '0'; choose one of 0 … 1"),
        ({"channel": 1}, "channel 1 needs a layer"),
        ({"target": 1, "layer": "0"}, "choose one of them"),
        ({"steps": 0}, "^steps must be at least 1, not 0.$"),
        ({"l2": -1.0}, "^l2 must be at least 0, not -1.$"),
        ({"rate": 0.0}, "^rate must be above 0, not 0.$"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ActivationMaximisation(**settings)(two_maps(False), some_images())


class Root(nn.Module):
    """NaN as the first logit where the pixels are bright."""

    def forward(self, x: Tensor) -> Tensor:
        total = x.flatten(1).sum(1, keepdim=True)
        return torch.cat([(1 - total).sqrt(), total, total], 1)


def test_nan_is_named() -> None:
    named = (
        r"gives NaN or infinity while 3 of 3 classes are driven \(a, b, c\); repair the model, or choose another start"
    )
    with pytest.raises(InputError, match=named):
        ActivationMaximisation(start="grey", steps=2)(Subject(Root().eval(), 3), some_images())


def test_the_drawing_holds_the_images_and_the_curves() -> None:
    result = ActivationMaximisation(steps=3)(linear(), some_images())
    assert len(result.panels) == 5 + 1 + 3
    assert result.panels[0].title.startswith("a: a with")
    result.figure()


@pytest.mark.slow
@pytest.mark.skipif(not TRAINED.exists(), reason="the benchmarks' trained MNIST net is not in .cache/")
@pytest.mark.parametrize(
    "view",
    [
        ActivationMaximisation(l2=0.01, rate=0.05, steps=200),
        ActivationMaximisation(start="noise", l2=0.0, rate=0.05, steps=200),
        ActivationMaximisation(start="grey", fourier=True, jitter=2, total_variation=0.01),
    ],
)
def test_every_digit_is_drawn_with_a_confidence_of_99_percent(view: ActivationMaximisation) -> None:
    module = zoo.build("mnist-cnn", 10, (1, 28, 28))
    module.load_state_dict(load_file(TRAINED))
    arrays = view(Subject(module.eval(), 10), some_images(1, 28, 28, classes=10)).arrays
    assert arrays["probability"].diagonal().min() >= 0.99
