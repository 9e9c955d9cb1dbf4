"""Activations: by hand, for every way a net can be written, and hooks that do not stay."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from faultlight.data.images import Images
from faultlight.errors import InputError
from faultlight.models.subject import Subject
from faultlight.views import activations, listening
from faultlight.views.activations import Activations
from faultlight.views.listening import listen


def some_images(x: Tensor) -> Images:
    return Images(x, torch.zeros(len(x), dtype=torch.int64), torch.arange(5, 5 + len(x)), ("a", "b"))


def random_images(n: int = 3) -> Images:
    return some_images(torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(2)))


def by_hand(inplace: bool = False) -> Subject:
    """A convolution with two maps, 2x − 1 and the pixel to the left, then ReLU, pool and a sum."""
    conv = nn.Conv2d(1, 2, 3, padding=1)
    conv.weight.data.zero_()
    conv.weight.data[0, 0, 1, 1], conv.weight.data[1, 0, 1, 0] = 2, 1
    conv.bias.data = torch.tensor([-1.0, 0.0])
    linear = nn.Linear(2, 2, bias=False)
    linear.weight.data = torch.tensor([[1.0, 1.0], [0.0, -1.0]])
    return Subject(nn.Sequential(conv, nn.ReLU(inplace), nn.MaxPool2d(2), nn.Flatten(), linear).eval(), 2)


@pytest.mark.parametrize("inplace", [False, True])
def test_the_hand_computed_example(inplace: bool) -> None:
    images = some_images(torch.tensor([[0.25, 1.0], [0.5, 0.0]]).view(1, 1, 2, 2))
    arrays = Activations()(by_hand(inplace), images).arrays
    np.testing.assert_array_equal(arrays["0"], [[[[-0.5, 1], [0, -1]], [[0, 0.25], [0, 0.5]]]])
    np.testing.assert_array_equal(arrays["1"], [[[[0, 1], [0, 0]], [[0, 0.25], [0, 0.5]]]])
    np.testing.assert_array_equal(arrays["2"], [[[[1]], [[0.5]]]])
    np.testing.assert_array_equal(arrays["3"], [[1, 0.5]])
    np.testing.assert_array_equal(arrays["4"], [[1.5, -0.5]])
    assert list(arrays) == ["0", "1", "2", "3", "4"]


def test_signed_layers_are_drawn_about_zero_and_others_from_zero() -> None:
    images = some_images(torch.tensor([[0.25, 1.0], [0.5, 0.0]]).view(1, 1, 2, 2))
    panels = {panel.title.split(":")[0]: panel for panel in Activations()(by_hand(), images).panels}
    assert (panels["0"].scale.kind, panels["0"].scale.low, panels["0"].scale.high) == ("signed", -1.0, 1.0)
    assert (panels["1"].scale.kind, panels["1"].scale.low, panels["1"].scale.high) == ("unsigned", 0.0, 1.0)


class Shared(nn.Module):
    """One ReLU called twice, a layer that is never called, and a sum that is no module."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
        self.relu, self.unused, self.head = nn.ReLU(), nn.Conv2d(1, 1, 1), nn.Linear(32, 2)

    def forward(self, x: Tensor) -> Tensor:
        inside = self.relu(self.first(x))
        inside = F.relu(self.relu(self.second(inside)) + inside)
        logits: Tensor = self.head(inside.flatten(1))
        return logits


def test_a_module_called_twice_appears_twice() -> None:
    torch.manual_seed(0)
    subject, images = Subject(Shared().eval(), 2), random_images()
    result = Activations()(subject, images)
    assert list(result.arrays) == ["first", "relu", "second", "relu#2", "head"]
    net = subject.module
    with torch.no_grad():
        first = net.relu(net.first(images.x))
        np.testing.assert_array_equal(result.arrays["relu"], first.numpy())
        np.testing.assert_array_equal(result.arrays["relu#2"], net.relu(net.second(first)).numpy())


def test_what_is_never_called_is_said() -> None:
    result = Activations()(Subject(Shared().eval(), 2), random_images())
    assert result.facts["not_called"] == ["unused"]
    assert result.text().endswith("Never called as a module for a tensor with one row an image: unused.")


@pytest.mark.parametrize(
    ("layer", "expected"), [("relu", ["relu", "relu#2"]), ("relu#2", ["relu#2"]), ("first", ["first"])]
)
def test_one_layer_or_one_call_can_be_asked_for(layer: str, expected: list[str]) -> None:
    assert list(Activations(layer=layer)(Subject(Shared().eval(), 2), random_images()).arrays) == expected


def test_a_module_that_holds_others_can_be_asked_for() -> None:
    net = nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), nn.ReLU(), nn.Linear(3, 2)).eval()
    images = random_images()
    arrays = Activations(layer="0")(Subject(net, 2), images).arrays
    with torch.no_grad():
        np.testing.assert_array_equal(arrays["0"], net[0](images.x).numpy())


class Recurrent(nn.Module):
    """A module that returns several tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRU(4, 3, batch_first=True), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.cell(x[:, 0])
        logits: Tensor = self.head(out[:, -1])
        return logits


def test_of_several_tensors_the_first_is_taken() -> None:
    result = Activations()(Subject(Recurrent().eval(), 2), random_images())
    assert {name: values.shape for name, values in result.arrays.items()} == {"cell": (3, 4, 3), "head": (3, 2)}
    result.figure()


@pytest.mark.parametrize("rows", [16, 32])
def test_the_size_of_the_batch_changes_nothing(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    subject, images = by_hand(), some_images(torch.rand(5, 1, 2, 2))
    whole = Activations()(subject, images).arrays
    monkeypatch.setattr(listening, "ROWS_AT_ONCE", rows)
    parts = Activations()(subject, images).arrays
    for name, values in whole.items():
        np.testing.assert_allclose(parts[name], values, atol=1e-6, err_msg=name)


def hooks(subject: Subject) -> int:
    return sum(len(module._forward_hooks) for module in subject.module.modules())


class Failing(nn.Module):
    """Fails on what an earlier layer puts out."""

    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("not today")


def test_hooks_are_removed_after_a_pass_and_after_an_error() -> None:
    subject = by_hand()
    Activations()(subject, some_images(torch.rand(1, 1, 2, 2)))
    assert hooks(subject) == 0
    failing = Subject(nn.Sequential(nn.Conv2d(1, 1, 1), Failing()).eval(), 2)
    with pytest.raises((ValueError, InputError), match="not today"):
        Activations()(failing, random_images())
    assert hooks(failing) == 0


def test_hooks_are_there_while_the_net_runs_and_removed_when_the_listener_fails() -> None:
    subject = by_hand()
    during: list[int] = []

    def take(name: str, output: Tensor) -> None:
        during.append(hooks(subject))
        raise KeyError(name)

    with pytest.raises(KeyError):
        listen(subject, torch.rand(1, 1, 2, 2), ["0", "1"], take)
    assert during == [2]
    assert hooks(subject) == 0


class Dividing(nn.Module):
    """0 / 0 where a pixel is 0."""

    def forward(self, x: Tensor) -> Tensor:
        return x / x


def test_the_first_layer_that_gives_nan_is_named_with_the_images() -> None:
    net = nn.Sequential(nn.Identity(), Dividing(), nn.Flatten(), nn.Linear(16, 2))
    images = random_images()
    images.x[1, 0, 0, 0] = 0
    with pytest.raises(InputError, match=r"activations of the layer '1' hold NaN or infinity on 1 images \(ids 6\)"):
        Activations()(Subject(net.eval(), 2), images)


def test_an_unknown_layer_gets_the_nearest_name() -> None:
    with pytest.raises(InputError, match="has no layer 'secnod'; did you mean 'second'"):
        Activations(layer="secnod")(Subject(Shared().eval(), 2), random_images())


@pytest.mark.parametrize("layer", ["unused", "first#2"])
def test_a_layer_that_is_never_called_is_refused(layer: str) -> None:
    with pytest.raises(InputError, match=f"never calls the layer '{layer}'"):
        Activations(layer=layer)(Subject(Shared().eval(), 2), random_images())


def test_no_images_are_refused() -> None:
    with pytest.raises(InputError, match="no images"):
        Activations()(by_hand(), random_images().first(0))


def test_more_numbers_than_fit_are_refused_with_the_count_that_does(monkeypatch: pytest.MonkeyPatch) -> None:
    # Per image 32 + 32 + 8 + 8 + 2 numbers.
    monkeypatch.setattr(activations, "MOST_NUMBERS", 200)
    conv = by_hand().module
    net = nn.Sequential(*conv[:4], nn.Linear(8, 2)).eval()
    with pytest.raises(
        InputError, match="3 images hold 246 numbers, more than the 200 kept at once; take at most 2 images"
    ):
        Activations()(Subject(net, 2), random_images())
    assert len(Activations()(Subject(net, 2), random_images(2)).arrays) == 5


def test_a_layer_of_many_maps_is_drawn_in_part_and_says_so() -> None:
    net = nn.Sequential(nn.Conv2d(1, 70, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(70, 2))
    result = Activations(layer="0")(Subject(net.eval(), 2), random_images(1))
    assert [panel.title for panel in result.panels] == ["image 5", "0: 70 × 4 × 4, the first 64 of 70"]
    assert result.panels[1].values.shape == (39, 39)


@pytest.mark.parametrize("n", [1, 2, 3, 9])
def test_at_most_four_images_are_drawn(n: int) -> None:
    result = Activations()(by_hand(), some_images(torch.rand(n, 1, 2, 2)))
    shown = min(n, 4)
    assert len(result.panels) == shown * 6
    assert result.columns % shown == 0
    assert len(result.arrays["0"]) == n
