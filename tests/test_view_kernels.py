"""Kernels: they equal the weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from faultlight.errors import InputError
from faultlight.models.subject import Normalised, Subject
from faultlight.views.kernels import Kernels


def a_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 2, groups=2, bias=False),
        nn.ConvTranspose2d(4, 6, 2),
        nn.Flatten(),
        nn.Linear(6, 2),
    ).eval()


def test_the_kernels_are_the_weights_of_every_layer_that_has_some() -> None:
    net = a_net()
    arrays = Kernels()(Subject(net, 2)).arrays
    assert {name: values.shape for name, values in arrays.items()} == {
        "0": (4, 3, 3, 3),
        "3": (4, 2, 2, 2),
        "4": (4, 6, 2, 2),
        "6": (2, 6),
    }
    for name, values in arrays.items():
        np.testing.assert_array_equal(values, net.get_submodule(name).weight.detach().numpy())


def test_names_are_dotted_and_a_net_of_one_layer_goes_by_its_class() -> None:
    wrapped = Normalised(a_net(), (0.5,) * 3, (0.5,) * 3)
    assert list(Kernels()(Subject(wrapped, 2)).arrays) == ["model.0", "model.3", "model.4", "model.6"]
    assert list(Kernels()(Subject(nn.Linear(2, 2).eval(), 2)).arrays) == ["Linear"]


def test_one_layer_can_be_asked_for() -> None:
    assert list(Kernels(layer="3")(Subject(a_net(), 2)).arrays) == ["3"]


def test_each_layer_has_its_own_scale_symmetric_about_zero() -> None:
    result = Kernels()(Subject(a_net(), 2))
    for panel, values in zip(result.panels, result.arrays.values(), strict=True):
        largest = float(np.abs(values).max())
        assert (panel.scale.kind, panel.scale.low, panel.scale.high) == ("signed", -largest, largest)


def test_weights_of_one_sign_are_still_drawn_about_zero() -> None:
    linear = nn.Linear(2, 2)
    linear.weight.data.fill_(0.5)
    assert Kernels()(Subject(linear.eval(), 2)).panels[0].scale.low == -0.5


def test_the_kernels_of_an_output_stand_side_by_side() -> None:
    conv = nn.Conv2d(2, 2, 1, bias=False)
    conv = nn.Conv2d(2, 2, (1, 2), bias=False)
    conv.weight.data = torch.arange(8.0).view(2, 2, 1, 2)
    sheet = Kernels()(Subject(conv.eval(), 2)).panels[0].values
    nan = np.nan
    np.testing.assert_array_equal(sheet, [[0, 1, nan, 2, 3], [nan] * 5, [4, 5, nan, 6, 7]])


def test_few_inputs_put_several_outputs_in_a_row() -> None:
    sheet = Kernels()(Subject(nn.Conv2d(1, 16, 3).eval(), 16)).panels[0].values
    assert sheet.shape == (15, 15), "four by four kernels of 3 × 3 with a line between"


def test_a_wide_layer_is_drawn_in_part_and_says_so() -> None:
    result = Kernels()(Subject(nn.Conv2d(40, 70, 3).eval(), 70))
    assert result.panels[0].title == "Conv2d: 70 × 40 × 3 × 3, the first 64 × 32"
    assert result.arrays["Conv2d"].shape == (70, 40, 3, 3)


@pytest.mark.parametrize("layer", [nn.Conv1d(2, 3, 4), nn.Conv3d(2, 3, 2), nn.Conv2d(5, 4, 1)])
def test_kernels_of_any_dimension_are_drawn(layer: nn.Module) -> None:
    result = Kernels()(Subject(layer.eval(), 3))
    assert result.panels[0].values.ndim == 2
    assert np.nansum(np.abs(result.panels[0].values)) == pytest.approx(np.abs(next(iter(result.arrays.values()))).sum())
    result.figure()


def test_the_words_give_sizes_and_ranges() -> None:
    linear = nn.Linear(2, 1)
    linear.weight.data = torch.tensor([[-0.5, 2.0]])
    assert (
        Kernels()(Subject(linear.eval(), 1, "toy")).text()
        == "Kernels of 1 layers of 'toy'.\nLinear: 1 × 2, from -0.5 to 2"
    )


def test_an_unknown_layer_gets_the_nearest_name() -> None:
    net = nn.Sequential()
    net.add_module("conv1", nn.Conv2d(1, 1, 1))
    net.add_module("head", nn.Linear(1, 1))
    with pytest.raises(InputError, match="no layer 'cnov1'; did you mean 'conv1'"):
        Kernels(layer="cnov1")(Subject(net.eval(), 1))


def test_a_layer_without_a_kernel_is_refused() -> None:
    with pytest.raises(InputError, match="'2' has no kernel; layers that have one: 0, 3, 4, 6"):
        Kernels(layer="2")(Subject(a_net(), 2))


def test_a_net_without_kernels_is_refused() -> None:
    with pytest.raises(InputError, match="no convolution or linear layer"):
        Kernels()(Subject(nn.Flatten().eval(), 2))
