"""Saliency: closed forms, and nets without a gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from faultlight.data.images import Images
from faultlight.errors import InputError
from faultlight.models.subject import Subject
from faultlight.views import listening
from faultlight.views._draw import draw
from faultlight.views.saliency import Saliency, pixel_gradient


def some_images(n: int = 4, channels: int = 3) -> Images:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(n, channels, 4, 5, generator=generator)
    return Images(x, torch.arange(n) % 3, torch.arange(n), ("a", "b", "c"))


def linear_net(channels: int = 3) -> Subject:
    torch.manual_seed(0)
    return Subject(nn.Sequential(nn.Flatten(), nn.Linear(channels * 20, 3)).eval(), 3)


def test_the_saliency_of_a_linear_net_is_the_magnitude_of_its_weights() -> None:
    subject, images = linear_net(), some_images()
    arrays = Saliency()(subject, images).arrays
    weights = subject.module[1].weight.view(3, 3, 4, 5).numpy()
    np.testing.assert_array_equal(arrays["gradient"], weights[images.y.numpy()])
    np.testing.assert_array_equal(arrays["saliency"], np.abs(weights[images.y.numpy()]).max(1))
    np.testing.assert_array_equal(arrays["target"], images.y.numpy())


def test_another_class_can_be_asked_for() -> None:
    subject, images = linear_net(), some_images()
    arrays = Saliency(target=2)(subject, images).arrays
    weight = subject.module[1].weight.view(3, 3, 4, 5).numpy()[2]
    np.testing.assert_array_equal(arrays["gradient"], np.broadcast_to(weight, (4, 3, 4, 5)))
    np.testing.assert_array_equal(arrays["target"], [2] * 4)


def test_a_net_with_a_bend_gives_the_gradient_by_the_chain_rule() -> None:
    torch.manual_seed(4)
    first, second = nn.Linear(60, 8), nn.Linear(8, 3)
    subject, images = Subject(nn.Sequential(nn.Flatten(), first, nn.Tanh(), second).eval(), 3), some_images()
    inside = np.tanh(images.x.flatten(1).numpy() @ first.weight.detach().numpy().T + first.bias.detach().numpy())
    outer = second.weight.detach().numpy()[images.y.numpy()] * (1 - inside**2)
    expected = (outer @ first.weight.detach().numpy()).reshape(4, 3, 4, 5)
    np.testing.assert_allclose(Saliency()(subject, images).arrays["gradient"], expected, atol=1e-6)


@pytest.mark.parametrize("rows", [4, 12])
def test_the_size_of_the_batch_changes_nothing(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Saliency()(linear_net(), some_images(7)).arrays
    monkeypatch.setattr(listening, "ROWS_AT_ONCE", rows)
    parts = Saliency()(linear_net(), some_images(7)).arrays
    for name, values in whole.items():
        np.testing.assert_array_equal(parts[name], values, err_msg=name)


def test_gradients_are_taken_where_the_caller_has_turned_them_off() -> None:
    with torch.no_grad():
        arrays = Saliency()(linear_net(), some_images()).arrays
    assert (arrays["saliency"] > 0).any()


def test_no_weight_gets_a_gradient_and_the_images_keep_none() -> None:
    subject, images = linear_net(), some_images()
    Saliency()(subject, images)
    assert all(parameter.grad is None for parameter in subject.module.parameters())
    assert not images.x.requires_grad
    assert images.x.grad is None


class Detached(nn.Module):
    """Logits that no gradient reaches."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :3].detach().round()


class Constant(nn.Module):
    """Logits that do not look at the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.bias.expand(len(x), 3)


@pytest.mark.parametrize("net", [Detached(), Constant()])
def test_a_net_without_a_gradient_is_shown_as_all_zero_and_says_so(net: nn.Module) -> None:
    result = Saliency()(Subject(net.eval(), 3), some_images())
    assert not result.arrays["gradient"].any()
    assert "The gradient is zero everywhere on 4 of 4 images." in result.text()
    figure = draw(result.panels[:3], 3, "")
    assert [text.get_text() for text in figure.axes[0].texts if text.get_label() == "note"] == ["all zero"] * 2


def test_the_signed_panel_is_symmetric_and_shared_by_all_images() -> None:
    result = Saliency()(linear_net(), some_images())
    largest = float(np.abs(result.arrays["gradient"]).max())
    assert {(panel.scale.low, panel.scale.high) for panel in result.panels[2::3]} == {(-largest, largest)}
    assert {(panel.scale.low, panel.scale.high) for panel in result.panels[1::3]} == {(0.0, largest)}


def test_the_signed_panel_shows_the_channel_of_greatest_magnitude() -> None:
    result = Saliency()(linear_net(), some_images())
    for row, panel in enumerate(result.panels[2::3]):
        np.testing.assert_array_equal(np.abs(panel.values), result.arrays["saliency"][row])
        assert (panel.values[..., None] == result.arrays["gradient"][row].transpose(1, 2, 0)).any(-1).all()


class Root(nn.Module):
    """The gradient of a square root at 0 is infinite."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :3].sqrt()


def test_a_gradient_that_is_not_finite_is_named() -> None:
    images = some_images()
    images.x[1, 0, 0, 1] = 0
    with pytest.raises(InputError, match=r"gradients of the logit .* hold NaN or infinity on 1 images \(ids 1\)"):
        Saliency()(Subject(Root().eval(), 3), images)


@pytest.mark.parametrize("target", [-1, 3])
def test_a_class_that_does_not_exist_is_refused(target: int) -> None:
    with pytest.raises(InputError, match=f"target {target} is no class of the model; choose one of 0 … 2"):
        Saliency(target=target)(linear_net(), some_images())


def test_no_images_are_refused() -> None:
    with pytest.raises(InputError, match="no images"):
        Saliency()(linear_net(), some_images().first(0))


def test_labels_beyond_the_model_are_refused() -> None:
    images = some_images()
    with pytest.raises(InputError, match="label 2 where the model 'model' has 2 classes"):
        Saliency()(Subject(nn.Sequential(nn.Flatten(), nn.Linear(60, 2)).eval(), 2), images)


def test_the_gradient_of_grey_images() -> None:
    subject, images = linear_net(channels=1), some_images(channels=1)
    gradient = pixel_gradient(subject, images.x, images.y)
    assert torch.equal(gradient, subject.module[1].weight.view(3, 1, 4, 5)[images.y])
