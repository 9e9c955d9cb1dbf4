"""Invariance: exact at no motion, against scipy, and in closed form for nets that see no shift."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor, nn

from faultlight.data.images import Images
from faultlight.errors import InputError
from faultlight.models.subject import Subject
from faultlight.views._chart import Chart, Curve, ends_of
from faultlight.views._draw import draw
from faultlight.views._result import Panel
from faultlight.views._warp import enlarged, shifted, turned
from faultlight.views.invariance import Invariance


def some_images(n: int = 3, channels: int = 1, height: int = 8, width: int = 8) -> Images:
    x = torch.rand(n, channels, height, width, generator=torch.Generator().manual_seed(1))
    return Images(x, torch.arange(n) % 2, torch.arange(7, 7 + n), ("even", "odd"))


def identity_net() -> Subject:
    """A first layer that hands on the pixels, and logits (sum of the upper half, sum of the lower)."""
    conv = nn.Conv2d(1, 1, 1, bias=False)
    conv.weight.data.fill_(1)
    head = nn.Linear(64, 2, bias=False)
    head.weight.data = torch.tensor([[1.0] * 32 + [0.0] * 32, [0.0] * 32 + [1.0] * 32])
    return Subject(nn.Sequential(conv, nn.Flatten(), head).eval(), 2)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 9)])
def test_no_motion_gives_the_image_back_to_the_bit(height: int, width: int) -> None:
    x = some_images(2, 3, height, width).x
    for same in (shifted(x, 0, 0.5), enlarged(x, 1.0, 0.5), turned(x, 0.0, 0.5), turned(x, 360.0, 0.5)):
        assert torch.equal(same, x)


def test_quarter_turns_are_those_of_numpy() -> None:
    x = some_images(2, 3, 7, 7).x
    for quarters in (1, 2, 3):
        expected = np.rot90(x.numpy(), quarters, axes=(2, 3))
        np.testing.assert_allclose(turned(x, 90.0 * quarters, 0.0).numpy(), expected, atol=1e-6)


def test_a_shift_moves_whole_rows_and_fills_the_rest() -> None:
    x = torch.arange(4.0).view(1, 1, 4, 1) / 4
    assert shifted(x, 1, 0.5).flatten().tolist() == [0.5, 0, 0.25, 0.5]
    assert shifted(x, -3, 0.5).flatten().tolist() == [0.75, 0.5, 0.5, 0.5]
    assert shifted(x, 9, 0.5).flatten().tolist() == [0.5] * 4


@pytest.mark.parametrize(("angle", "factor"), [(30.0, 1.0), (200.0, 1.0), (0.0, 1.7), (0.0, 0.6)])
def test_turning_and_enlarging_agree_with_scipy(angle: float, factor: float) -> None:
    x = some_images(1, 1, 7, 9).x
    found = turned(x, angle, 0.25) if factor == 1 else enlarged(x, factor, 0.25)
    cosine, sine = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    matrix = np.array([[cosine, sine], [-sine, cosine]]) / factor
    middle = np.array([3.0, 4.0])
    expected = ndimage.affine_transform(
        x[0, 0].numpy().astype(float), matrix, middle - matrix @ middle, order=1, mode="grid-constant", cval=0.25
    )
    np.testing.assert_allclose(found[0, 0].numpy(), expected, atol=1e-6)


def test_the_distances_of_a_layer_that_hands_on_the_pixels() -> None:
    subject, images = identity_net(), some_images()
    arrays = Invariance(shift=2, steps=5)(subject, images).arrays
    x = images.x[:, 0].numpy()
    down = np.pad(x, ((0, 0), (2, 0), (0, 0)))[:, :8]
    np.testing.assert_array_equal(arrays["translation"], [-2, -1, 0, 1, 2])
    expected = np.sqrt(((x - down) ** 2).sum((1, 2)))
    np.testing.assert_allclose(arrays["translation_first"][:, 4], expected, rtol=1e-5)
    np.testing.assert_allclose(arrays["first_norm"], np.sqrt((x**2).sum((1, 2))), rtol=1e-6)
    halves = np.stack([down[:, :4].sum((1, 2)), down[:, 4:].sum((1, 2))], 1)
    odds = np.exp(halves - halves.max(1, keepdims=True))
    chosen = (odds / odds.sum(1, keepdims=True))[np.arange(3), images.y.numpy()]
    np.testing.assert_allclose(arrays["translation_probability"][:, 4], chosen, rtol=1e-4)


def test_distances_are_zero_where_nothing_moves() -> None:
    arrays = Invariance(shift=2, steps=5)(identity_net(), some_images()).arrays
    for part in ("first", "last"):
        assert not arrays[f"translation_{part}"][:, 2].any()
        assert not arrays[f"scale_{part}"][:, 0].any()
        assert not arrays[f"rotation_{part}"][:, [0, -1]].any()
        assert arrays[f"rotation_{part}"][:, 1:-1].all()
    np.testing.assert_array_equal(arrays["rotation"], [0, 90, 180, 270, 360])


def test_a_net_of_circular_convolutions_and_a_mean_sees_no_shift_of_what_stays_inside() -> None:
    torch.manual_seed(2)
    conv = nn.Conv2d(1, 4, 3, padding=1, padding_mode="circular")
    net = nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    images = some_images()
    images.x[:, :, [0, 1, -2, -1]] = 0
    result = Invariance(shift=2, steps=5)(Subject(net.eval(), 2), images)
    assert (result.facts["first"], result.facts["last"]) == ("0", "3")
    np.testing.assert_allclose(result.arrays["translation_last"], 0, atol=1e-6)
    assert (result.arrays["translation_first"][:, [0, 1, 3, 4]] > 0.1).all()
    assert (result.arrays["rotation_last"][:, 1:-1] > 0).all()


class Mean(nn.Module):
    """The mean of all pixels, and two logits of it."""

    def __init__(self) -> None:
        super().__init__()
        self.total, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.total(x).flatten(1))
        return logits


def test_the_mean_of_a_square_image_does_not_see_a_quarter_turn() -> None:
    arrays = Invariance(steps=5)(Subject(Mean().eval(), 2), some_images()).arrays
    np.testing.assert_allclose(arrays["rotation_last"], 0, atol=1e-6)
    spread = np.ptp(arrays["rotation_probability"], 1)
    np.testing.assert_allclose(spread, 0, atol=1e-6)


def test_layers_can_be_chosen_and_are_refused_by_name() -> None:
    assert Invariance(first="1", last="2")(identity_net(), some_images()).facts["last"] == "2"
    with pytest.raises(InputError, match="has no layer '9'; known: 0, 1, 2"):
        Invariance(first="9")(identity_net(), some_images())


class Skipping(nn.Module):
    """A layer that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.unused, self.head = nn.Linear(2, 2), nn.Linear(64, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x.flatten(1))
        return logits


def test_a_layer_that_is_never_called_is_refused() -> None:
    with pytest.raises(InputError, match="never calls the layer 'unused'"):
        Invariance(last="unused")(Subject(Skipping().eval(), 2), some_images())


@pytest.mark.parametrize(
    "view", [Invariance(shift=0), Invariance(shift=8), Invariance(zoom=1.0), Invariance(steps=1), Invariance(fill=2.0)]
)
def test_settings_out_of_range_are_refused(view: Invariance) -> None:
    with pytest.raises(InputError):
        view(identity_net(), some_images())


def test_features_that_are_all_zero_are_said() -> None:
    subject = identity_net()
    subject.module[0].weight.data.zero_()
    assert "The features of '0' are all zero on these images." in Invariance(steps=3)(subject, some_images()).text()


class Dividing(nn.Module):
    """0 / 0 where a pixel is 0."""

    def forward(self, x: Tensor) -> Tensor:
        return (x / x).flatten(1)[:, :2]


def test_nan_is_named() -> None:
    images = some_images()
    images.x[1] = 0
    with pytest.raises(InputError, match=r"hold NaN or infinity on 1 images \(ids 8\)"):
        Invariance(steps=3)(Subject(nn.Sequential(Dividing(), nn.Identity()).eval(), 2), images)


def test_the_drawing_has_examples_and_three_charts_a_motion() -> None:
    result = Invariance(steps=3)(identity_net(), some_images())
    assert [type(panel) for panel in result.panels] == [Panel, Chart, Chart, Chart] * 3
    charts = [panel for panel in result.panels if isinstance(panel, Chart)]
    assert len({(chart.low, chart.high) for chart in charts[0::3]}) == 1
    assert {(chart.low, chart.high) for chart in charts[2::3]} == {(0.0, 1.0)}
    assert result.panels[0].values.shape == (8, 40)
    result.figure()


def test_a_chart_draws_each_curve_where_its_values_are() -> None:
    chart = Chart("t", np.array([1.0, 2.0, 3.0]), (Curve("a", np.array([0.0, 1.0, 2.0])),), 0.0, 2.0)
    axes = draw([chart], 1, "", side=2.0).axes[0]
    (line,) = (line for line in axes.lines if line.get_label() == "curve a")
    (frame,) = [patch for patch in axes.patches if patch.get_label() == "chart"]
    left, bottom = frame.get_xy()
    np.testing.assert_allclose(line.get_xdata() - left, [0, 1, 2])
    np.testing.assert_allclose(line.get_ydata() - bottom, [0, 1, 2])
    assert {text.get_text() for text in axes.texts if text.get_label() == "end"} == {"0", "1", "2", "3"}
    assert ends_of(np.array([2.0, np.nan]), np.array([-1.0])) == (-1.0, 2.0)
