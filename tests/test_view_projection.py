"""Projections: hand-computed answers, explicit transposed convolutions, Captum, and every spelling of ReLU."""

from __future__ import annotations

import importlib
import importlib.util
import json
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from faultlight.cli import main
from faultlight.data.images import Images
from faultlight.errors import InputError
from faultlight.models import zoo
from faultlight.models.subject import Subject
from faultlight.views import listening
from faultlight.views._draw import draw
from faultlight.views._field import receptive_field
from faultlight.views._project import SIGNALS_A_FORWARD, Units, packs, project, reach
from faultlight.views._rectify import Rectifying, Rule
from faultlight.views.attribution import Attribution
from faultlight.views.projection import Projection

RULES: tuple[Rule, ...] = ("deconvnet", "guided", "gradient")


def some_images(n: int = 3, shape: tuple[int, int, int] = (2, 8, 8), seed: int = 0) -> Images:
    x = torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))
    return Images(x, torch.arange(n) % 3, 10 * torch.arange(n) + 7, ("a", "b", "c"))


def seeded(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """An untrained net with positive biases, so that most of its units are alive."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = build().eval()
        for module in net.modules():
            if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                nn.init.uniform_(module.bias, 0.0, 0.3)
        return net


class Spelled(nn.Module):
    """Convolutions, an overlapping pool and a residual sum, with one function for every ReLU."""

    def __init__(self, bend: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.bend = bend
        self.conv1, self.conv2 = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.pool, self.conv3 = nn.MaxPool2d(3, 2, 1), nn.Conv2d(4, 5, 3, stride=2, padding=1)
        self.end, self.head = nn.Identity(), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        inside = self.bend(self.conv1(x))
        inside = self.pool(self.bend(inside + self.conv2(inside)))
        out = self.end(self.bend(self.conv3(inside)))
        logits: Tensor = self.head(out.amax((2, 3)))
        return logits


SPELLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "module": nn.ReLU(),
    "module in place": nn.ReLU(inplace=True),
    "F.relu": F.relu,
    "F.relu in place": lambda x: F.relu(x, True),
    "F.relu_": F.relu_,
    "torch.relu": torch.relu,
    "torch.relu_": torch.relu_,
    "method": lambda x: x.relu(),
    "method in place": lambda x: x.relu_(),
    "operator": torch.ops.aten.relu.default,
    "clamp": lambda x: x.clamp(min=0),
    "clamp by position": lambda x: torch.clamp(x, 0),
    "clamp_": lambda x: x.clamp_(min=0.0),
    "clamp from a tensor": lambda x: torch.clamp(x, min=torch.zeros(())),
    "clip": lambda x: torch.clip(x, 0, None),
    "clamp_min": lambda x: x.clamp_min(0),
    "clamp_min_": lambda x: x.clamp_min_(0),
    "F.threshold": lambda x: F.threshold(x, 0, 0),
    "Threshold": nn.Threshold(0, 0, inplace=True),
    "torch.threshold": lambda x: torch.threshold(x, 0.0, 0.0),
    "maximum": lambda x: torch.maximum(x, torch.tensor(0.0)),
    "maximum, zero first": lambda x: torch.maximum(torch.zeros_like(x), x),
    "max": lambda x: torch.max(x, x.new_zeros(1)),
    "fmax": lambda x: torch.fmax(x, x.new_zeros(1)),
    "far caps": lambda x: F.hardtanh(x, 0, 1e9),
}


def spelled(name: str) -> Subject:
    return Subject(seeded(lambda: Spelled(SPELLINGS[name])), 3)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_of_relu_gives_the_same_projection(name: str, rule: Rule) -> None:
    view = Projection(layer="end", keep="layer", rule=rule)
    expected = view(spelled("module"), some_images()).arrays["projection"]
    found = view(spelled(name), some_images()).arrays["projection"]
    np.testing.assert_allclose(found, expected, atol=1e-7)
    assert np.abs(expected).max() > 1e-3


def test_the_rules_differ() -> None:
    found = [
        Projection(layer="end", rule=rule)(spelled("F.relu"), some_images()).arrays["projection"] for rule in RULES
    ]
    assert min(np.abs(found[0] - found[1]).max(), np.abs(found[1] - found[2]).max()) > 1e-4


@pytest.mark.parametrize("name", ["module in place", "clamp", "F.relu", "max"])
def test_the_gradient_rule_is_the_activation_times_its_gradient(name: str) -> None:
    subject, images = spelled(name), some_images()
    arrays = Projection(layer="conv3", channel=2, row=1, column=0, rule="gradient")(subject, images).arrays
    x = images.x.clone().requires_grad_()
    activation = reach(spelled("F.relu"), x, "conv3")[:, 2, 1, 0]
    (slope,) = torch.autograd.grad(activation.sum(), x)
    np.testing.assert_allclose(arrays["activation"], activation.detach().numpy(), rtol=1e-5)
    expected = activation.detach()[:, None, None, None] * slope
    np.testing.assert_allclose(arrays["projection"], expected.numpy(), atol=1e-6)


def hand_net() -> nn.Module:
    """Convolution of ones, two maps; a linear layer that adds five of the eight values and takes off three."""
    net = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(8, 4, bias=False), nn.ReLU())
    nn.init.ones_(net[0].weight)
    net[3].weight.data = torch.cat([torch.ones(4, 5), -torch.ones(4, 3)], 1)
    return net


def test_the_hand_computed_example() -> None:
    images = some_images(2, (1, 4, 4))
    arrays = Projection(layer="4", channel=0)(Subject(hand_net(), 4), images).arrays
    expected = np.array([[2, 3, 3, 1], [3, 5, 5, 2], [3, 5, 5, 2], [1, 2, 2, 1]])
    assert (arrays["activation"] > 0).all()
    for projection, activation in zip(arrays["projection"], arrays["activation"], strict=True):
        np.testing.assert_allclose(projection[0] / activation, expected, rtol=1e-5)


def no_pools() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 2, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3)
    )


def test_without_max_pooling_the_projection_does_not_depend_on_the_image() -> None:
    subject, images = Subject(seeded(no_pools), 3), some_images(4)
    arrays = Projection(layer="3", channel=1, row=1, column=1)(subject, images).arrays
    alive = arrays["activation"] > 0
    assert alive.sum() > 1
    normed = arrays["projection"][alive] / arrays["activation"][alive, None, None, None]
    np.testing.assert_allclose(normed, np.broadcast_to(normed[:1], normed.shape), atol=1e-6)


def carry(net: nn.Module, x: Tensor, signal: Tensor, rule: Rule = "deconvnet") -> Tensor:
    x = x.clone().requires_grad_()
    with Rectifying(rule, torch.empty(0)):
        output = net(x)
    (carried,) = torch.autograd.grad(output, x, signal)
    return carried


def test_the_projection_is_positively_homogeneous_silent_below_zero_and_not_additive() -> None:
    net, x = seeded(lambda: nn.Sequential(*list(no_pools())[:4])), some_images(1).x
    one, other = torch.zeros(1, 4, 3, 3), torch.zeros(1, 4, 3, 3)
    one[0, 1, 1, 1], other[0, 2, 1, 1] = 0.5, 0.75
    torch.testing.assert_close(carry(net, x, 3 * one), 3 * carry(net, x, one))
    assert not carry(net, x, -one).any()
    apart = carry(net, x, one) + carry(net, x, other)
    assert float((carry(net, x, one + other) - apart).abs().max()) > 1e-4


def test_a_negative_activation_is_silent_unless_the_rule_is_the_gradient() -> None:
    net = seeded(no_pools)
    net[2].bias.data[0] = -50
    subject, images = Subject(net, 3), some_images()
    result = Projection(layer="2", channel=0)(subject, images)
    assert (result.arrays["activation"] < 0).all()
    assert not result.arrays["projection"].any()
    assert "The projection is zero everywhere on 3 of 3 images." in result.text()
    assert Projection(layer="2", channel=0, rule="gradient")(subject, images).arrays["projection"].any()


def test_all_zero_maps_say_so() -> None:
    net = seeded(no_pools)
    net[2].bias.data.fill_(-50)
    result = Projection(layer="3")(Subject(net, 3), some_images(1, (2, 8, 8)))
    assert not result.arrays["activation"].any()
    assert "zero everywhere on 1 of 1 images" in result.text()
    assert [text.get_text() for text in draw(result.panels, 4, "").axes[0].texts if text.get_label() == "note"]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("place", [(0, 0), (0, 3), (3, 0), (3, 3), (1, 2)])
def test_the_support_lies_within_the_receptive_field(place: tuple[int, int], rule: Rule) -> None:
    subject, images = spelled("F.relu"), some_images(2, (2, 16, 16))
    rows, columns = receptive_field(subject, (2, 16, 16), "conv3")
    assert (len(rows.first), len(columns.first)) == (4, 4)
    row, column = place
    inside = slice(rows.first[row], rows.last[row] + 1), slice(columns.first[column], columns.last[column] + 1)
    outside = np.ones((16, 16), dtype=bool)
    outside[inside] = False
    assert outside.any()
    found = [
        Projection(layer="conv3", channel=c, row=row, column=column, rule=rule)(subject, images).arrays["projection"]
        for c in range(5)
    ]
    assert not np.stack(found)[..., outside].any()
    assert np.stack(found).any()


def test_receptive_fields_by_hand() -> None:
    # conv 3 of stride 1 and padding 1, pool 2, conv 3: a unit r looks at pixels 2r − 1 … 2r + 6 of 12.
    net = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(2, 2, 3), nn.Flatten())
    rows, columns = receptive_field(Subject(nn.Sequential(*net, nn.Linear(2 * 4 * 3, 2)), 2), (1, 12, 10), "3")
    assert rows.first.tolist() == [0, 1, 3, 5]
    assert rows.last.tolist() == [6, 8, 10, 11]
    assert columns.first.tolist() == [0, 1, 3]
    assert columns.last.tolist() == [6, 8, 9]
    assert rows.size == 8
    assert rows.windows(torch.arange(4), 12).tolist() == [0, 1, 3, 4]


def test_a_linear_layer_looks_at_the_whole_image() -> None:
    rows, _ = receptive_field(Subject(hand_net(), 4), (1, 4, 4), "3")
    assert (rows.first.tolist(), rows.last.tolist()) == ([0], [3])


def orthonormal() -> nn.Module:
    """Two of each orthonormal 2 × 2 filter, one with either sign, so that the ReLUs together let everything through."""
    rows = torch.tensor([[1.0, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2
    net = nn.Sequential(nn.Conv2d(1, 8, 2, stride=2, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(128, 2))
    net[0].weight.data = torch.cat([rows, -rows]).view(8, 1, 2, 2)
    return net.eval()


@pytest.mark.parametrize("rule", RULES)
def test_orthonormal_filters_reconstruct_the_image(rule: Rule) -> None:
    images = some_images(2, (1, 8, 8))
    arrays = Projection(layer="1", keep="layer", rule=rule)(Subject(orthonormal(), 2), images.take(images.y < 2)).arrays
    np.testing.assert_allclose(arrays["projection"], arrays["x"], atol=1e-6)


def normed() -> nn.Module:
    parts = [nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)]
    parts += [nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)]
    for norm in (parts[1], parts[5]):
        norm.weight.data.uniform_(-1, 1)
        norm.bias.data.uniform_(-1, 1)
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)
    return nn.Sequential(*parts)


@pytest.mark.parametrize("rule", RULES)
def test_batch_norm_equals_the_folded_net(rule: Rule) -> None:
    net = seeded(normed)
    folded = nn.Sequential(
        fuse_conv_bn_eval(net[0], net[1]),
        nn.Identity(),
        *net[2:4],
        fuse_conv_bn_eval(net[4], net[5]),
        nn.Identity(),
        *net[6:],
    )
    view = Projection(layer="6", rule=rule)
    found, expected = (view(Subject(each, 3), some_images()).arrays["projection"] for each in (net, folded))
    np.testing.assert_allclose(found, expected, atol=1e-5)


class PreActivated(nn.Module):
    """A stem, a pool, and two pre-activation blocks, by functions or by modules; the first may write in place."""

    def __init__(self, functional: bool) -> None:
        super().__init__()
        self.stem, self.pool = nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.MaxPool2d(2)
        self.a1, self.a2 = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.b1, self.b2 = nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.shortcut, self.end = nn.Conv2d(4, 6, 1, stride=2), nn.Identity()
        self.r = nn.ModuleList([nn.ReLU() for _ in range(5)])
        self.functional, self.head = functional, nn.Linear(24, 3)

    def bend(self, number: int, x: Tensor) -> Tensor:
        bent: Tensor = F.relu(x) if self.functional else self.r[number](x)
        return bent

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.stem(x))
        x = x + self.a2(self.bend(1, self.a1(self.bend(0, x))))
        active = self.bend(2, x)
        x = self.shortcut(active) + self.b2(self.bend(3, self.b1(active)))
        logits: Tensor = self.head(self.end(self.bend(4, x)).flatten(1))
        return logits


def explicit(net: PreActivated, x: Tensor, channel: int, row: int, column: int) -> Tensor:
    """The deconvnet of that net step by step: switches, transposed convolutions, and ReLU on the signal."""
    stem = net.stem(x)
    pooled, switches = F.max_pool2d(stem, 2, return_indices=True)
    after_a = pooled + net.a2(net.a1(pooled.relu()).relu())
    active = after_a.relu()
    output = (net.shortcut(active) + net.b2(net.b1(active).relu())).relu()
    signal = torch.zeros_like(output)
    signal[:, channel, row, column] = output[:, channel, row, column]
    signal = signal.relu()
    side = {"stride": 2, "padding": 1, "output_padding": 1}
    through_b = F.conv_transpose2d(F.conv_transpose2d(signal, net.b2.weight, padding=1).relu(), net.b1.weight, **side)
    beside_b = F.conv_transpose2d(signal, net.shortcut.weight, stride=2, output_padding=1)
    signal = (through_b + beside_b).relu()
    through_a = F.conv_transpose2d(
        F.conv_transpose2d(signal, net.a2.weight, padding=1).relu(), net.a1.weight, padding=1
    )
    signal = signal + through_a.relu()
    return F.conv_transpose2d(F.max_unpool2d(signal, switches, 2), net.stem.weight, padding=1)


@pytest.mark.parametrize("functional", [True, False])
@torch.no_grad()
def test_a_pre_activation_net_equals_explicit_transposed_convolutions(functional: bool) -> None:
    net, images = seeded(lambda: PreActivated(functional)), some_images()
    arrays = Projection(layer="end", channel=3, row=1, column=0)(Subject(net, 3), images).arrays
    expected = explicit(net, images.x, 3, 1, 0)
    assert float(expected.abs().max()) > 1e-3
    np.testing.assert_allclose(arrays["projection"], expected.numpy(), atol=1e-7)


def captum_answer(name: str, net: nn.Module, layer: str, x: Tensor, unit: tuple[int, ...]) -> Tensor:
    """A neuron method of Captum times the activation; the warnings are its own."""
    if importlib.util.find_spec("captum") is None:
        pytest.skip("captum is not installed; it is only needed to compare with it")
    attr = importlib.import_module("captum.attr")
    place = dict(net.named_modules())[layer]
    activation = reach(Subject(net, 3), x, layer)[(slice(None), *unit)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = getattr(attr, name)(net, place).attribute(x.clone().requires_grad_(), unit)
    answer: Tensor = found.detach() * activation.detach().view(-1, 1, 1, 1)
    return answer


def plain() -> nn.Module:
    parts = [
        nn.Conv2d(2, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(4, 5, 3),
        nn.ReLU(),
        nn.Flatten(),
    ]
    return nn.Sequential(*parts, nn.Linear(20, 6), nn.ReLU(), nn.Linear(6, 3))


@pytest.mark.parametrize(("layer", "unit"), [("1", (2, 3, 4)), ("4", (0, 1, 1)), ("4", (3, 0, 1)), ("7", (2,))])
@pytest.mark.parametrize(("rule", "name"), [("deconvnet", "NeuronDeconvolution"), ("guided", "NeuronGuidedBackprop")])
def test_plain_nets_equal_captum(layer: str, unit: tuple[int, ...], rule: Rule, name: str) -> None:
    net, images = seeded(plain, 3), some_images(4)
    expected = captum_answer(name, net, layer, images.x, unit)
    row, column = (unit[1], unit[2]) if len(unit) > 1 else (0, 0)
    view = Projection(layer=layer, channel=unit[0], row=row, column=column, rule=rule)
    found = view(Subject(net, 3), images).arrays["projection"]
    assert float(expected.abs().max()) > 1e-4
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-7)


@pytest.mark.parametrize("functional", [True, False])
def test_captum_is_wrong_where_relu_is_a_function_or_comes_first(functional: bool) -> None:
    net, images = seeded(lambda: PreActivated(functional)), some_images()
    theirs = captum_answer("NeuronDeconvolution", net, "end", images.x, (3, 1, 0))
    with torch.no_grad():
        truth = explicit(net, images.x, 3, 1, 0)
    assert float((theirs - truth).abs().max()) > 0.1 * float(truth.abs().max())


def test_one_map_or_the_whole_layer_can_be_kept() -> None:
    net, images = seeded(lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(108, 3))), some_images()
    subject = Subject(net, 3)
    maps = Projection(layer="0", keep="layer", rule="gradient")(subject, images).arrays
    parts = [Projection(layer="0", keep="channel", channel=c, rule="gradient")(subject, images) for c in range(3)]
    # With no ReLU on the way the parts add up to the whole.
    np.testing.assert_allclose(maps["projection"], sum(part.arrays["projection"] for part in parts), atol=1e-5)
    assert (maps["channel"] == -1).all()
    assert (maps["row"] == -1).all()
    seed = F.conv2d(images.x, net[0].weight, net[0].bias)
    expected = F.conv_transpose2d(seed, net[0].weight).detach().numpy()
    np.testing.assert_allclose(maps["projection"], expected, atol=1e-5)


def test_left_out_the_unit_is_the_strongest_of_the_image() -> None:
    subject, images = spelled("F.relu"), some_images(4)
    result = Projection(layer="end")(subject, images)
    with torch.no_grad():
        output = reach(subject, images.x, "end")
    for row, maps in enumerate(output):
        place = np.unravel_index(int(maps.argmax()), tuple(maps.shape))
        assert tuple(result.arrays[name][row] for name in ("channel", "row", "column")) == place
        assert result.arrays["activation"][row] == maps.max()


def test_left_out_the_layer_is_the_last_with_maps() -> None:
    subject = Subject(zoo.build("mnist-cnn", 3, (2, 8, 8)).eval(), 3)
    assert Projection()(subject, some_images()).facts["layer"] == "pool2"


def test_a_shared_forward_pass_changes_nothing() -> None:
    subject, images = spelled("module"), some_images(3)
    image = torch.tensor([0, 2, 0, 0, 0, 0, 0, 0, 2])
    units = Units(image, torch.arange(9) % 5, torch.arange(9) % 4)
    together = project(subject, images, "end", units)
    for row in range(9):
        alone = project(subject, images, "end", units.take(torch.tensor([row])))
        torch.testing.assert_close(together[row : row + 1], alone)


def test_every_row_is_carried_once_and_no_image_twice_in_one_backward_pass() -> None:
    image = [0] * 13 + [1, 2, 3] + [4] * 5 + [5, 5]
    seen: list[int] = []
    for rows in packs(image, 2):
        assert rows.shape[0] <= SIGNALS_A_FORWARD
        assert rows.shape[1] <= 2
        for column in rows.T.tolist():
            assert len({image[row] for row in column}) == 1
        seen += rows.flatten().tolist()
    assert sorted(seen) == list(range(len(image)))


@pytest.mark.parametrize("rows", [4, 8])
def test_the_size_of_the_batch_changes_nothing(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Projection(layer="end")(spelled("clamp"), some_images(5)).arrays
    monkeypatch.setattr(listening, "ROWS_AT_ONCE", rows)
    parts = Projection(layer="end")(spelled("clamp"), some_images(5)).arrays
    for name, values in whole.items():
        np.testing.assert_allclose(parts[name], values, atol=1e-6, err_msg=name)


class Failing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("computed beyond the layer")


def test_nothing_is_computed_beyond_the_layer_and_the_hooks_are_gone() -> None:
    subject = Subject(nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), Failing()).eval(), 3)
    assert Projection(layer="1")(subject, some_images()).arrays["projection"].any()
    assert not any(module._forward_hooks for module in subject.module.modules())


def test_the_output_is_taken_before_the_next_layer_writes_over_it() -> None:
    net = seeded(lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(108, 3)))
    net[0].bias.data.fill_(-5)
    assert (Projection(layer="0")(Subject(net, 3), some_images()).arrays["activation"] < 0).all()


class Clamped(nn.Module):
    """A wrapper that makes sure of its pixels, as many do, and takes off a mean in place."""

    def __init__(self, net: nn.Module, certain: bool) -> None:
        super().__init__()
        self.net, self.certain = net, certain

    def forward(self, x: Tensor) -> Tensor:
        x = x.clamp(0, 1) if self.certain else x
        x -= 0.5
        logits: Tensor = self.net(x)
        return logits


def test_a_clamp_of_the_pixels_is_no_relu() -> None:
    net, images = seeded(plain, 3), some_images()
    before = images.x.clone()
    found, expected = (
        Projection(layer="net.4")(Subject(Clamped(net, certain).eval(), 3), images).arrays["projection"]
        for certain in (True, False)
    )
    np.testing.assert_array_equal(found, expected)
    assert (expected < 0).any()
    assert torch.equal(images.x, before)


@pytest.mark.parametrize("rule", RULES)
def test_a_cap_passes_the_signal_where_it_is_not_reached(rule: Rule) -> None:
    x = torch.tensor([[-1.0, 2.0, 7.0, 3.0]])
    carried = carry(nn.ReLU6(), x, torch.tensor([[1.0, 1.0, 1.0, -1.0]]), rule)
    assert (
        carried.tolist()
        == {
            "deconvnet": [[1, 1, 0, 0]],
            "guided": [[0, 1, 0, 0]],
            "gradient": [[0, 1, 0, -1]],
        }[rule]
    )


class Gated(nn.Module):
    def __init__(self, bend: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.bend, self.end, self.head = nn.Conv2d(2, 3, 3), bend, nn.Identity(), nn.Linear(108, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.end(self.bend(self.conv(x))).flatten(1))
        return logits


def joined_with_zero(x: Tensor, dim: int = 0) -> Tensor:
    return torch.stack([x, torch.zeros_like(x)], dim)


def zero_where_negative(x: Tensor) -> Tensor:
    x = x.clone()
    x[x.detach() < 0] = 0
    return x


def written_mask(x: Tensor) -> Tensor:
    mask = torch.zeros_like(x)
    mask[x > 0] = 1
    return x * mask


def written_through_data(x: Tensor) -> Tensor:
    x = 1 * x
    x.data.clamp_(min=0)
    return x


def written_without_gradient(x: Tensor) -> Tensor:
    x = 1 * x
    with torch.no_grad():
        x[:, 1:].relu_()
    return x


def gate_without_gradient(x: Tensor) -> Tensor:
    with torch.no_grad():
        gate = x.sigmoid()
    return x * gate


def bent_part(x: Tensor) -> Tensor:
    x = 1 * x
    x[:, 1:].sigmoid_()
    return x


BENT: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "gelu": (nn.GELU(), "Gelu"),
    "leaky": (lambda x: F.leaky_relu(x, 0.1), "LeakyRelu"),
    "clamp from below": (lambda x: x.clamp(-1, 1), "Clamp"),
    "gate": (lambda x: F.relu(x) * x.sigmoid(), "Sigmoid, a product of activations"),
    "attention": (
        lambda x: F.scaled_dot_product_attention(x, x, x, scale=1.0),
        "a product of activations",
    ),
    "mask": (lambda x: x * (x > 0), "gt"),
    "absolute": (lambda x: (x + x.abs()) / 2, "Abs"),
    "minimum": (lambda x: torch.min(x, torch.zeros(())), "Minimum"),
    "maxout": (lambda x: torch.maximum(x, -x), "Maximum"),
    "round": (torch.round, "Round"),
    "one over": (lambda x: 1 / x, "Reciprocal"),
    "a constant over": (lambda x: torch.ones(()) / x, "Div"),
    "sort": (lambda x: x.sort(1).values, "Sort"),
    "median": (lambda x: x - x.median(), "Median"),
    "log-sum-exp": (lambda x: x - x.logsumexp(1, keepdim=True), "Logsumexp"),
    "cumulated": (lambda x: x.logcumsumexp(1), "Logcumsumexp"),
    "greatest of two": (lambda x: joined_with_zero(x).amax(0), "Amax"),
    "greatest of two, last": (lambda x: joined_with_zero(x, -1).amax(-1), "Amax"),
    "greatest of two, flat": (lambda x: joined_with_zero(x.flatten(1), -1).amax(-1).view(x.shape), "Amax"),
    "greatest of two, with places": (lambda x: joined_with_zero(x).max(0).values, "Max"),
    "greatest map": (lambda x: x - x.amax(1, keepdim=True), "Amax"),
    "greatest of all": (lambda x: x - x.max(), "Max"),
    "group norm": (nn.GroupNorm(3, 3), "group normalisation by the images' own statistics"),
    "layer norm": (nn.LayerNorm(6), "layer normalisation by the images' own statistics"),
    "instance norm": (nn.InstanceNorm2d(3), "batch or instance normalisation by the images' own statistics"),
    "batch norm of the batch": (nn.BatchNorm2d(3, track_running_stats=False), "batch or instance normalisation"),
    "detached mask": (lambda x: x * (x.detach() > 0), "detach, gt"),
    "mask of the data": (lambda x: x * (x.data > 0), "data, gt"),
    "where": (lambda x: torch.where(x > 0, x, 0.0), "gt"),
    "detached where": (lambda x: torch.where(x.detach() > 0, x, 0.0), "detach, gt"),
    "detached sign": (lambda x: x * (x.detach().sign() + 1) / 2, "detach, sign"),
    "detached gate": (lambda x: x * x.detach().sigmoid(), "detach"),
    "detached ReLU": (lambda x: x * F.relu(x.detach()), "detach"),
    "detached scale": (lambda x: x / x.detach().abs().amax(), "detach"),
    "straight through": (lambda x: x + (x.sigmoid() - x).detach(), "detach"),
    "masked fill": (lambda x: x.masked_fill(x < 0, 0), "lt"),
    "masked index": (zero_where_negative, "detach, lt"),
    "written mask": (written_mask, "gt"),
    "chosen places": (lambda x: x.gather(1, x.argmax(1, keepdim=True)).expand_as(x), "argmax"),
    "gate without gradient": (gate_without_gradient, "sigmoid"),
    "through the data": (written_through_data, "clamp_ beside the gradient"),
    "without gradient": (written_without_gradient, "relu_ beside the gradient"),
    "bent part": (bent_part, "sigmoid_ on a part"),
    "numpy": (lambda x: x * torch.from_numpy((x.detach().numpy() > 0).astype("f4")), "numpy"),
}


@pytest.mark.parametrize("name", BENT)
def test_other_bends_are_refused_by_name_or_pass_their_gradient(name: str) -> None:
    bend, named = BENT[name]
    subject, images = Subject(seeded(lambda: Gated(bend)), 3), some_images()
    with pytest.raises(InputError, match=r"'end' of 'model' is reached through bends that are no ReLU \(.*" + named):
        Projection(layer="end")(subject, images)
    with pytest.raises(InputError, match="for which guided has no rule"):
        Attribution(methods="guided", check=False)(subject, images)
    result = Projection(layer="end", others="gradient")(subject, images)
    assert "Bends that are no ReLU pass their gradient, an extension of the method." in result.text()
    # Before the bend there is nothing to refuse, and the gradient has a rule for everything.
    assert Projection(layer="conv")(subject, images).arrays["projection"].any()
    Projection(layer="end", rule="gradient")(subject, images)


def bent_maps_set(x: Tensor) -> Tensor:
    x = 1 * x
    x[:, 1:] = F.relu(x[:, 1:])
    return x


def unpooled(x: Tensor) -> Tensor:
    pooled, places = F.max_pool2d(x, 2, return_indices=True)
    return F.max_unpool2d(pooled, places, 2)


def guarded(x: Tensor) -> Tensor:
    if not bool(x.isfinite().all()) or bool((x.detach() > 1e9).any()) or x.abs().max().item() > 1e9:
        raise ValueError
    return x


def in_place_on_parts(x: Tensor) -> Tensor:
    x = 1 * x - 0.1
    x[:, 1:].relu_()
    return F.relu(x.view(len(x), -1), inplace=True).view(x.shape)


STRAIGHT: dict[str, Callable[[Tensor], Tensor]] = {
    "shapes": lambda x: x.permute(0, 2, 3, 1).contiguous().movedim(-1, 1).flatten(2).unflatten(2, x.shape[2:]),
    "parts": lambda x: torch.cat([x[:, :1], *x[:, 1:].split(1, 1)], 1).roll(1, 2).flip(3),
    "zeros beside": lambda x: torch.cat([x[:, :2], torch.zeros_like(x[:, :1])], 1),
    "sums": lambda x: (2 * x - x / 3 + x.mean((2, 3), keepdim=True) - x.new_ones(3, 1, 1).expand_as(x)).cumsum(2),
    "set": bent_maps_set,
    "in place on parts": in_place_on_parts,
    "pools": lambda x: F.avg_pool2d(F.adaptive_max_pool2d(F.pad(x, (1, 1, 1, 1)), 12), 2),
    "greatest place": lambda x: x + x.amax((2, 3), keepdim=True) + x.flatten(2).max(-1).values[:, :, None, None],
    "unpooled": unpooled,
    "enlarged": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear")[..., ::2, ::2],
    "shuffled": lambda x: F.pixel_unshuffle(F.pixel_shuffle(x.repeat(1, 4, 1, 1), 2), 2)[:, :3],
    "matrices": lambda x: torch.einsum("nchw,dc->ndhw", x @ torch.eye(6), torch.ones(3, 3)),
    "frequencies": lambda x: torch.fft.irfft2(torch.fft.rfft2(x), s=x.shape[2:]),
    "bfloat16": lambda x: x.bfloat16().float(),
    "guarded": guarded,
    "a constant mask": lambda x: x.masked_fill(torch.eye(6) > 0, 0) + torch.where(torch.eye(6) > 0, x, 0),
}


@pytest.mark.parametrize("name", STRAIGHT)
def test_what_is_linear_or_a_pool_is_no_bend(name: str) -> None:
    subject, images = Subject(seeded(lambda: Gated(lambda x: STRAIGHT[name](F.relu(x)))), 3), some_images()
    assert Projection(layer="end", keep="layer")(subject, images).arrays["projection"].any()


def test_a_scripted_net_is_refused_because_no_rule_reaches_its_relus() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inside = torch.jit.trace(
            nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU()).requires_grad_(False), torch.rand(1, 2, 8, 8)
        )
    subject = Subject(nn.Sequential(inside, nn.Flatten(), nn.Linear(108, 3)).eval(), 3)
    with pytest.raises(InputError, match="'model' is scripted, so its ReLUs cannot be given the rule 'deconvnet'"):
        Projection(layer="1")(subject, some_images())
    assert Projection(layer="1", rule="gradient")(subject, some_images()).arrays["projection"].any()


class Custom(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.relu()

    @staticmethod
    def backward(ctx: Any, *signals: Tensor) -> Tensor:
        return signals[0]


def test_a_function_of_the_users_own_is_refused_by_name() -> None:
    subject = Subject(seeded(lambda: Gated(Custom.apply)), 3)
    with pytest.raises(InputError, match=r"no ReLU \(Custom\)"):
        Projection(layer="end")(subject, some_images())


def checked(view: Projection) -> Projection:
    """The view, once its settings are checked; the tests check the types before that, so none can be made."""
    view.__post_init__()
    return view


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"layer": "cnov1"}, "has no layer 'cnov1'; did you mean 'conv1'"),
        ({"layer": "conv1#2"}, "never calls the layer 'conv1#2'"),
        ({"layer": "conv1", "channel": 4}, "'conv1' has no channel 4; choose one of 0 … 3"),
        ({"layer": "conv1", "channel": -1}, "'conv1' has no channel -1"),
        ({"layer": "conv1", "row": 8, "column": 0}, "no unit at row 8, column 0; choose a row of 0 … 7 and a column"),
        ({"layer": "conv1", "row": 0}, "needs both a row and a column"),
        ({"layer": "conv1", "row": 0, "column": 0, "keep": "channel"}, "keep=channel keeps more than one unit"),
        ({"layer": "conv1", "channel": 0, "keep": "layer"}, "keep=layer keeps every channel"),
        ({"keep": "map"}, "keep cannot be 'map'; known: channel, layer, unit"),
        ({"rule": "guide"}, "rule cannot be 'guide'; did you mean 'guided'"),
        ({"others": "drop"}, "others cannot be 'drop'"),
    ],
)
def test_mistakes_are_one_sentence(settings: dict[str, Any], sentence: str) -> None:
    view = object.__new__(Projection)
    for name, value in {**vars(Projection()), **settings}.items():
        object.__setattr__(view, name, value)
    with pytest.raises(InputError, match=sentence):
        checked(view)(spelled("F.relu"), some_images())


class Dividing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / x


def test_activations_that_are_not_finite_are_named_with_their_images() -> None:
    images = some_images()
    images.x[1, 0, 0, 0] = 0
    subject = Subject(nn.Sequential(Dividing(), nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(108, 3)).eval(), 3)
    with pytest.raises(InputError, match=r"activations of the layer '1' hold NaN or infinity on 1 images \(ids 17\)"):
        Projection(layer="1")(subject, images)


def test_the_images_of_one_map_share_a_scale_and_other_maps_have_their_own() -> None:
    images = some_images(3, (1, 8, 8))
    net = seeded(lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)))
    result = Projection(layer="1", channel=2)(Subject(net, 3), images)
    largest = float(np.abs(result.arrays["projection"]).max())
    assert {(panel.scale.low, panel.scale.high) for panel in result.panels[1::2]} == {(-largest, largest)}


def test_colours_are_drawn_about_grey_with_the_scale_in_the_title() -> None:
    images = some_images(2, (3, 8, 8))
    net = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)))
    result = Projection(layer="1", channel=1)(Subject(net, 3), images)
    largest = np.abs(result.arrays["projection"]).max()
    panel = result.panels[1]
    np.testing.assert_allclose(
        (panel.values - 0.5) * 2 * largest, result.arrays["projection"][0].transpose(1, 2, 0), atol=1e-6
    )
    assert f"grey 0, full colour ±{largest:.3g}" in panel.title


def test_the_command_line(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["view", "zoo:digits-cnn", "--view", "projection", "--layer", "conv2", "--n", "2", "--set", "keep=channel"]
    assert main([*words, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["arrays"]["projection"] == [2, 1, 8, 8]
    assert record["facts"]["keep"] == "channel"
    assert main([*words, "--set", "rule=guide"]) == 2
    assert "the setting rule=guide cannot be used" in capsys.readouterr().err
