"""Statistics of layers: by hand, against numpy on the whole, and what is dead, saturated or not a number."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from faultlight.data.images import Images
from faultlight.errors import InputError
from faultlight.models.subject import Subject
from faultlight.views import listening
from faultlight.views.activations import Activations
from faultlight.views.statistics import Statistics, tally


def some_images(n: int = 6) -> Images:
    x = torch.rand(n, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    return Images(x, torch.arange(n) % 2, torch.arange(7, 7 + n), ("even", "odd"))


def some_net() -> Subject:
    torch.manual_seed(4)
    net = nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(20, 4), nn.Tanh(), nn.Linear(4, 2))
    with torch.no_grad():
        net[0].weight[1], net[0].bias[1] = -net[0].weight[1].abs(), -1
        net[0].weight[3], net[0].bias[3] = -net[0].weight[3].abs(), 0
    return Subject(net.eval(), 2)


def test_the_hand_computed_tally() -> None:
    one = tally(torch.tensor([[1.0, -2.0], [3.0, 0.0]]))
    assert (one.count, one.mean, one.squares, one.trough, one.zero) == (4, 0.5, 13.0, -2.0, 1)
    assert one.peak.tolist() == [3.0, 0.0]
    assert one.dead == [1]
    assert tally(torch.tensor([[0.995, 0.975, -0.995, 0.0]]), (-1.0, 1.0)).saturated == 2
    assert tally(torch.tensor([[0.995, 0.981, -0.995, 0.0]]), (-1.0, 1.0)).saturated == 3


def test_dead_channels_are_found_before_and_behind_the_relu() -> None:
    result = Statistics()(some_net(), some_images())
    assert result.facts["dead_channels"]["0"] == [1, 3]
    assert result.facts["dead_channels"]["1"] == [1, 3]
    assert result.arrays["dead"][:2].tolist() == [2, 2]
    assert result.arrays["channels"].tolist() == [5, 5, 20, 4, 4, 2]


@pytest.mark.parametrize("rows", [1, 4, 128])
def test_the_numbers_are_those_of_all_activations_at_once(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    subject, images = some_net(), some_images()
    whole = Activations()(subject, images).arrays
    monkeypatch.setattr(listening, "ROWS_AT_ONCE", rows)
    result = Statistics()(subject, images)
    assert result.facts["layers"] == list(whole)
    for row, values in enumerate(whole.values()):
        found = {name: result.arrays[name][row] for name in result.arrays}
        assert found["mean"] == pytest.approx(values.mean(dtype=float), abs=1e-7)
        assert found["deviation"] == pytest.approx(values.std(dtype=float), abs=1e-7)
        assert (found["least"], found["greatest"]) == pytest.approx((values.min(), values.max()))
        assert found["zero"] == pytest.approx((values == 0).mean())


def test_saturation_is_told_of_bounded_activations_alone() -> None:
    subject, images = some_net(), some_images()
    with torch.no_grad():
        subject.module[3].weight *= 1000
    result = Statistics()(subject, images)
    assert np.isnan(result.arrays["saturated"]).tolist() == [True, True, True, True, False, True]
    values = Activations()(subject, images).arrays["4"]
    assert result.arrays["saturated"][4] == pytest.approx((np.abs(values) >= 0.98).mean())
    assert result.arrays["saturated"][4] > 0.5


def test_hardtanh_and_relu6_have_their_own_ends() -> None:
    net = nn.Sequential(nn.Hardtanh(0, 0.5), nn.ReLU6(), nn.Flatten(), nn.Linear(32, 2)).eval()
    x = torch.tensor([0.0, 0.25, 0.5, 1.0]).repeat(8).view(1, 2, 4, 4)
    images = Images(x, torch.zeros(1, dtype=torch.int64), torch.arange(1), ("a", "b"))
    saturated = Statistics()(Subject(net, 2), images).arrays["saturated"]
    np.testing.assert_allclose(saturated[:2], [0.75, 0.25])


class Root(nn.Module):
    """NaN below 0.5, and infinity at exactly 1."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - 0.5).sqrt() / (1 - x)


def test_nan_and_infinity_are_counted_and_the_first_layer_named() -> None:
    x = torch.tensor([0.0, 0.75, 0.75, 1.0]).repeat(8).view(1, 2, 4, 4)
    images = Images(x, torch.zeros(1, dtype=torch.int64), torch.arange(1), ("a", "b"))
    result = Statistics()(
        Subject(nn.Sequential(nn.Identity(), Root(), nn.Flatten(), nn.Linear(32, 2)).eval(), 2), images
    )
    assert result.arrays["nan"].tolist() == [0, 8, 8, 2]
    assert result.arrays["infinite"].tolist() == [0, 8, 8, 0]
    assert result.arrays["mean"][1] == pytest.approx(2.0)
    assert np.isnan(result.arrays["mean"][3])
    assert "NaN or infinity first appears in the output of '1'." in result.text()
    result.figure()


def test_layers_that_are_all_zero_are_said() -> None:
    subject = some_net()
    with torch.no_grad():
        subject.module[0].weight.zero_()
        subject.module[0].bias.fill_(-1)
    result = Statistics()(subject, some_images())
    assert "All zero on every image: 1, 2." in result.text()
    assert result.arrays["dead"][1] == 5


class Twice(nn.Module):
    """One ReLU called twice, and a layer that never is."""

    def __init__(self) -> None:
        super().__init__()
        self.relu, self.head, self.unused = nn.ReLU(), nn.Linear(32, 2), nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.relu(self.relu(x) - 0.5).flatten(1))
        return logits


def test_each_call_of_a_module_has_a_row() -> None:
    subject, images = Subject(Twice().eval(), 2), some_images()
    assert Statistics()(subject, images).facts["layers"] == ["relu", "relu#2", "head"]
    assert Statistics(layer="relu#2")(subject, images).facts["layers"] == ["relu#2"]
    assert Statistics(layer="relu")(subject, images).facts["layers"] == ["relu", "relu#2"]
    with pytest.raises(InputError, match="never calls the layer 'unused'"):
        Statistics(layer="unused")(subject, images)
    for view in (Statistics(layer="relu#3"), Activations(layer="relu#3")):
        with pytest.raises(
            InputError, match=r"never calls the layer 'relu#3' .*did you mean 'relu#2'\? known: relu, relu#2"
        ):
            view(subject, images)
    with pytest.raises(InputError, match="has no layer 'haed'; did you mean 'head'"):
        Statistics(layer="haed")(subject, images)
