"""Strongest images: against looking at everything at once, in bounded memory, and what the drawing shows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from faultlight.cli import main
from faultlight.data.images import Images
from faultlight.errors import InputError
from faultlight.models import zoo
from faultlight.models.subject import Subject
from faultlight.views import _windows, listening, strongest
from faultlight.views._field import Field, receptive_field
from faultlight.views._mine import Top, mine, peaks
from faultlight.views._project import Backward, Units, project, reach
from faultlight.views._rectify import Rule
from faultlight.views._windows import project_units, windows_of
from faultlight.views.projection import Projection
from faultlight.views.strongest import Strongest


def some_images(n: int = 40, shape: tuple[int, int, int] = (1, 8, 8), levels: int = 0) -> Images:
    x = torch.rand(n, *shape, generator=torch.Generator().manual_seed(0))
    x = (x * levels).round() / levels if levels else x
    return Images(x, torch.arange(n) % 3, 10 * torch.arange(n) + 7, ("a", "b", "c"))


def a_net(channels: int = 1, inplace: bool = False) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(channels, 4, 3),
            nn.ReLU(inplace),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 6, 2),
            nn.ReLU(inplace),
            nn.Flatten(),
            nn.Linear(24, 3),
        ).eval()


def subject(channels: int = 1, inplace: bool = False) -> Subject:
    return Subject(a_net(channels, inplace), 3)


@torch.no_grad()
def all_at_once(net: Subject, images: Images, layer: str, k: int) -> Top:
    """Everything kept, then one stable sort."""
    output = reach(net, images.x, layer)
    maps = output.reshape(*output.shape[:2], -1)
    value, order = maps.amax(2).T.sort(dim=1, descending=True, stable=True)
    place = maps.argmax(2).T.gather(1, order)
    sides = tuple(output.shape[2:]) if output.ndim == 4 else (1, 1)
    return Top(value[:, :k], order[:, :k], place[:, :k], sides)


LAYERS = ["0", "1", "2", "3", "4", "6"]


@pytest.mark.parametrize("rows", [4, 7, 40])
@pytest.mark.parametrize("inplace", [False, True])
def test_mining_equals_looking_at_everything_at_once(rows: int, inplace: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "ROWS_AT_ONCE", rows)
    net, images = subject(inplace=inplace), some_images()
    found = mine(net, images, LAYERS, 9)
    for layer in LAYERS:
        expected = all_at_once(subject(), images, layer, 9)
        assert found[layer].sides == expected.sides
        torch.testing.assert_close(found[layer].value, expected.value)
        assert torch.equal(found[layer].image, expected.image)
        assert torch.equal(found[layer].position, expected.position)


@pytest.mark.parametrize("rows", [1, 3, 16])
def test_of_equal_activations_the_earlier_image_counts(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "ROWS_AT_ONCE", rows)
    # Black and white pixels alone: many images reach the same activation.
    images = some_images(60, levels=1)
    net = Subject(nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Flatten(), nn.Linear(192, 3)).eval(), 3)
    found = mine(net, images, ["1"], 9)["1"]
    assert (found.value[:, :1] == found.value).all()
    assert torch.equal(found.image, torch.arange(9).expand(3, 9))


def test_fewer_images_than_are_asked_for() -> None:
    found = mine(subject(), some_images(4), ["1"], 9)["1"]
    assert found.value.shape == (4, 4)
    assert all(sorted(row) == [0, 1, 2, 3] for row in found.image.tolist())


@pytest.mark.parametrize("shape", [(3, 5, 4, 4), (3, 40, 4, 6), (3, 5, 7, 1), (3, 5), (3, 5, 6)])
def test_peaks_are_the_greatest_of_each_map_in_any_layout(shape: tuple[int, ...]) -> None:
    output = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    expected = output.reshape(*shape[:2], -1).amax(2)
    assert torch.equal(peaks(output), expected)
    if len(shape) == 4:
        assert torch.equal(peaks(output.contiguous(memory_format=torch.channels_last)), expected)


class Failing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("computed beyond the last layer")


def test_nothing_is_computed_beyond_the_last_layer_and_the_hooks_are_gone() -> None:
    net = Subject(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), Failing()).eval(), 3)
    assert set(mine(net, some_images(3), ["1", "0"], 2)) == {"0", "1"}
    assert not any(module._forward_hooks for module in net.module.modules())


def test_only_the_best_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "ROWS_AT_ONCE", 4)
    found = mine(subject(), some_images(40), ["1"], 3)["1"]
    held = sum(values.untyped_storage().nbytes() for values in (found.value, found.image, found.position))
    assert held == 4 * 3 * (4 + 8 + 8)


def test_the_view_projects_each_unit_onto_its_image() -> None:
    net, images = subject(), some_images()
    arrays = Strongest(layer="4", most=None, top=5)(net, images).arrays
    assert arrays["4.projection"].shape == (len(arrays["4.channel"]), 5, 1, 8, 8)
    for row, channel in enumerate(arrays["4.channel"]):
        for rank in range(5):
            one = images.take(images.ids == int(arrays["4.image"][channel, rank]))
            place = {name: int(arrays[f"4.{name}"][channel, rank]) for name in ("row", "column")}
            alone = Projection(layer="4", channel=int(channel), **place)(net, one).arrays
            np.testing.assert_allclose(alone["activation"][0], arrays["4.value"][channel, rank], rtol=1e-5)
            np.testing.assert_allclose(arrays["4.projection"][row, rank], alone["projection"][0], atol=1e-6)


def test_the_window_holds_the_projection() -> None:
    arrays = Strongest(layer="4", most=None)(subject(), some_images()).arrays
    height, width = arrays["4.window_size"]
    # conv 3, pool 2, conv 2: a unit sees 6 × 6 pixels.
    assert (height, width) == (6, 6)
    for row in range(len(arrays["4.channel"])):
        for rank in range(9):
            outside = arrays["4.projection"][row, rank].copy()
            top, left = arrays["4.window_row"][row, rank], arrays["4.window_column"][row, rank]
            outside[:, top : top + height, left : left + width] = 0
            assert not outside.any()


@pytest.mark.parametrize("channels", [1, 3])
def test_the_drawing_pairs_projections_with_what_was_seen(channels: int) -> None:
    result = Strongest(layer="1", most=2)(subject(channels), some_images(shape=(channels, 8, 8)))
    assert len(result.panels) == 4
    # Three by three windows of 3 × 3 pixels with a line between.
    assert all(panel.values.shape[:2] == (11, 11) for panel in result.panels)
    assert result.panels[0].scale.kind == ("signed" if channels == 1 else "image")
    result.figure()


def test_left_out_every_watched_layer_is_mined_in_one_pass() -> None:
    result = Strongest(most=3)(Subject(zoo.build("mnist-cnn", 3, (1, 8, 8)).eval(), 3), some_images(12))
    assert result.facts["layers"] == ["relu1", "relu2"]
    assert result.arrays["relu1.value"].shape == (32, 9)
    assert len(result.panels) == 2 * 3 * 2
    assert "not why a class was chosen" in result.text()


def test_channels_that_are_never_active_are_counted_and_not_drawn() -> None:
    net = a_net()
    net[0].bias.data[[0, 2]] = -50
    result = Strongest(layer="1")(Subject(net, 3), some_images())
    assert result.arrays["1.channel"].tolist() == [1, 3]
    assert "1: 4 channels, 2 of them active on none of 40 images; a unit sees 3 × 3 pixels" in result.text()


def test_a_layer_without_any_active_channel_is_no_error() -> None:
    net = a_net()
    net[0].bias.data.fill_(-50)
    result = Strongest(layer="1")(Subject(net, 3), some_images())
    assert result.arrays["1.projection"].shape == (0, 9, 1, 8, 8)
    assert "4 of them active on none of 40 images" in result.text()
    silent = Strongest(layer="1", channel=2)(Subject(net, 3), some_images())
    assert "9 projections are zero everywhere" in silent.text()


def test_a_vector_is_mined_like_maps_of_one_place() -> None:
    arrays = Strongest(layer="6", most=None)(subject(), some_images()).arrays
    assert not arrays["6.row"].any()
    assert arrays["6.window_size"].tolist() == [8, 8]


class Dividing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / x.detach()


def test_activations_that_are_not_finite_are_named_with_their_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "ROWS_AT_ONCE", 4)
    images = some_images(12)
    images.x[9, 0, 0, 0] = 0
    net = Subject(nn.Sequential(Dividing(), *a_net()).eval(), 3)
    with pytest.raises(InputError, match=r"activations of the layer '1' hold NaN or infinity on 1 images \(ids 97\)"):
        Strongest(layer="1", others="gradient")(net, images)


@pytest.mark.parametrize(
    ("view", "sentence"),
    [
        (Strongest(layer="7"), "has no layer '7'"),
        (Strongest(layer="1#2"), "never calls the layer '1#2'"),
        (Strongest(layer="1", channel=4), "'1' has no channel 4; choose one of 0 … 3"),
        (Strongest(top=0), "top 0 and most 16 must be at least 1"),
        (Strongest(most=0), "top 9 and most 0 must be at least 1"),
    ],
)
def test_mistakes_are_one_sentence(view: Strongest, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        view(subject(), some_images())


def test_no_images_are_refused() -> None:
    with pytest.raises(InputError, match="no images"):
        Strongest()(subject(), some_images().first(0))


def test_a_net_without_maps_asks_for_a_layer() -> None:
    net = Subject(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval(), 3)
    with pytest.raises(InputError, match="'model' has no layer with maps; name a layer"):
        Strongest()(net, some_images())


def test_a_net_without_relu_is_refused_before_it_is_mined(monkeypatch: pytest.MonkeyPatch) -> None:
    def unwanted(*_: object) -> None:
        raise AssertionError("mined")

    monkeypatch.setattr(strongest, "mine", unwanted)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(144, 3)).eval()
    with pytest.raises(InputError, match=r"bends that are no ReLU \(Gelu\)"):
        Strongest()(Subject(net, 3), some_images())


def test_more_projections_than_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strongest, "MOST_NUMBERS", 1000)
    with pytest.raises(InputError, match="on 9 images each hold 2,304 numbers, more than the 1,000 kept at once"):
        Strongest(layer="1", most=None)(subject(), some_images())


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["view", "zoo:digits-cnn", "--view", "strongest", "--layer", "relu2", "--n", "20", "--set", "most=3"]
    assert main([*words, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["arrays"]["relu2.projection"] == [3, 9, 1, 8, 8]
    assert all((tmp_path / name).stat().st_size > 0 for name in record["files"])


class Strided(nn.Module):
    """A strided convolution, an overlapping pool with a border, a residual sum, and a branch that sees everything."""

    def __init__(self, everywhere: bool = False, picky: bool = False) -> None:
        super().__init__()
        self.stem, self.pool = nn.Conv2d(2, 5, 3, stride=2, padding=1), nn.MaxPool2d(3, 2, 1)
        self.block, self.end, self.head = nn.Conv2d(5, 5, 3, padding=1), nn.ReLU(), nn.Linear(5, 3)
        self.everywhere, self.picky = everywhere, picky

    def forward(self, x: Tensor) -> Tensor:
        if self.picky and x.shape[-1] < 30:
            raise ValueError("too small")
        x = self.pool(self.stem(x).relu())
        x = self.end(x + self.block(x) + (x.mean((2, 3), keepdim=True) if self.everywhere else 0))
        logits: Tensor = self.head(x.amax((2, 3)))
        return logits


def all_units(sides: tuple[int, int], images: int) -> Units:
    place = torch.arange(sides[0] * sides[1])
    return Units(place % images, place % 5, place)


@pytest.mark.parametrize("shape", [(2, 40, 40), (2, 37, 30), (2, 31, 44)])
@pytest.mark.parametrize("layer", ["stem", "pool", "end"])
@pytest.mark.parametrize("rule", ["deconvnet", "gradient"])
def test_windows_give_what_whole_images_give(layer: str, shape: tuple[int, int, int], rule: Rule) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net, images = Subject(Strided().eval(), 3), some_images(3, shape)
    with torch.no_grad():
        sides = tuple(reach(net, images.x, layer).shape[2:])
    units, fields, backward = all_units(sides, 3), receptive_field(net, shape, layer), Backward(rule)
    windows = windows_of(shape, fields, units)
    assert windows is not None
    assert windows.height * windows.width <= 0.6 * shape[1] * shape[2]
    # Through the windows themselves: project_units would hide a deviation behind whole images.
    found = _windows._through(net, images, layer, units, windows, backward)
    expected = project(net, images, layer, units, backward)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(project_units(net, images, layer, units, fields, backward), expected)
    assert expected.any()


@pytest.mark.parametrize("settings", [{"everywhere": True}, {"picky": True}])
def test_nets_for_which_windows_will_not_do_get_whole_images(settings: dict[str, bool]) -> None:
    net, images = Subject(Strided(**settings).eval(), 3), some_images(3, (2, 40, 40))
    units, fields = all_units((10, 10), 3), receptive_field(net, (2, 40, 40), "end")
    found = project_units(net, images, "end", units, fields, Backward())
    torch.testing.assert_close(found, project(net, images, "end", units))


def test_windows_that_would_answer_otherwise_are_seen_in_the_sample() -> None:
    net, images = Subject(Strided().eval(), 3), some_images(3, (2, 40, 40))
    units, fields = all_units((10, 10), 3), receptive_field(net, (2, 40, 40), "end")
    wrong = tuple(Field(field.first.clamp(min=4), field.last) for field in fields)
    windows = windows_of((2, 40, 40), wrong, units)
    assert windows is not None
    assert not _windows._agree(net, images, "end", units, windows, Backward())
    torch.testing.assert_close(
        project_units(net, images, "end", units, wrong, Backward()), project(net, images, "end", units)
    )
