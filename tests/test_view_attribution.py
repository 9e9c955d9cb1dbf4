"""Attributions: closed forms on linear nets, completeness, equality with Captum, and nets where Captum is wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import toys
from faultlight.cli import main
from faultlight.data.images import Images
from faultlight.errors import InputError
from faultlight.models.subject import Subject
from faultlight.views import listening
from faultlight.views._attribute import METHODS, Question, absent_image, attribute, cam
from faultlight.views._captum import squares
from faultlight.views.attribution import Attribution, asked

SHAPE = (2, 6, 6)


def some_images(n: int = 4) -> Images:
    x = torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(1))
    return Images(x, torch.arange(n) % 3, torch.arange(50, 50 + n), ("a", "b", "c"), "toys")


def some_net() -> Subject:
    return Subject(toys.convolutional(3), 3)


def linear_net() -> Subject:
    return Subject(toys.linear(3, shape=SHAPE), 3)


def question(subject: Subject, images: Images, **settings: Any) -> Question:
    chosen = {"target": None, "absent": "black", "steps": 50, "layer": None, "seed": 0} | settings
    return asked(subject, images, **chosen)


def own_weights(subject: Subject, target: Tensor) -> Tensor:
    return subject.module[1].weight.view(3, *SHAPE)[target]


class Functional(nn.Module):
    """The toy's layers with their bends called as functions."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.conv, self.fc1, self.fc2 = layers[0], layers[4], layers[6]

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.conv(x)), 2)
        return self.fc2(self.fc1(x.flatten(1)).clamp(min=0))


# Linear nets


@pytest.mark.parametrize("absent", ["black", "grey", "white", "blur"])
@pytest.mark.parametrize("name", ["integrated-gradients", "gradient-x-input", "deep-lift"])
def test_on_a_linear_net_a_pixel_is_worth_its_weight_times_its_change(name: str, absent: str) -> None:
    if name == "deep-lift":
        pytest.importorskip("captum")
    subject, images = linear_net(), some_images()
    ask = question(subject, images, absent=absent)
    expected = own_weights(subject, images.y) * (images.x - ask.absent)
    assert torch.allclose(attribute(name, subject, ask), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["gradient", "smooth-gradient", "guided", "deconvnet"])
def test_on_a_linear_net_every_rule_gives_the_weights(name: str) -> None:
    subject, images = linear_net(), some_images()
    found = attribute(name, subject, question(subject, images, target=2, steps=3))
    assert torch.allclose(found, own_weights(subject, torch.full((4,), 2)), atol=1e-5)


def test_on_a_linear_net_a_square_has_the_sum_of_its_pixels_as_its_shapley_value() -> None:
    pytest.importorskip("captum")
    images = some_images(2)
    x = functional.interpolate(images.x, (16, 12))
    wide = Images(x, images.y, images.ids, images.classes)
    subject = Subject(toys.linear(3, shape=(2, 16, 12)), 3)
    found = attribute("shapley", subject, question(subject, wide, steps=1))
    worth = (subject.module[1].weight.view(3, 2, 16, 12)[wide.y] * x).sum(1)
    mask = squares(16, 12)
    assert mask.unique().tolist() == list(range(48))
    for square in range(48):
        total = worth[:, mask == square].sum(1)
        assert torch.allclose(found.sum(1)[:, mask == square], total[:, None] / 4, atol=1e-4)


# Axioms and peers


@pytest.mark.parametrize("name", ["integrated-gradients", "deep-lift"])
def test_the_sum_is_the_change_of_the_logit(name: str) -> None:
    if name == "deep-lift":
        pytest.importorskip("captum")
    subject, images = some_net(), some_images()
    ask = question(subject, images, steps=200)
    change = (subject(images.x) - subject(ask.absent)).gather(1, images.y[:, None])[:, 0]
    total = attribute(name, subject, ask).flatten(1).sum(1)
    assert torch.allclose(total, change, rtol=0.01, atol=0.01 * float(change.abs().max()))


@pytest.mark.parametrize("build", [lambda net: net, Functional], ids=["modules", "functions"])
def test_integrated_gradients_and_grad_cam_equal_captums(build: Callable[[nn.Sequential], nn.Module]) -> None:
    peer = pytest.importorskip("captum.attr")
    subject, images = Subject(build(toys.convolutional(3)), 3), some_images()
    ask = question(subject, images, absent="grey", steps=20)
    theirs = peer.IntegratedGradients(subject).attribute(images.x, ask.absent, target=images.y, n_steps=20)
    ours = attribute("integrated-gradients", subject, ask)
    assert torch.allclose(ours, theirs.float(), atol=1e-4 * float(theirs.detach().abs().max()))
    layer = "0" if build is not Functional else "conv"
    by_layer = peer.LayerGradCam(subject, subject.module.get_submodule(layer))
    theirs = by_layer.attribute(images.x.clone().requires_grad_(), target=images.y, relu_attributions=True)
    ours = cam(subject, question(subject, images, layer=layer))
    assert ours.any()
    assert torch.allclose(ours, theirs, atol=1e-5 * float(theirs.detach().abs().max()))


def test_guided_and_deconvnet_equal_captums_on_modules() -> None:
    peer = pytest.importorskip("captum.attr")
    subject, images = some_net(), some_images()
    for name, kind in (("guided", peer.GuidedBackprop), ("deconvnet", peer.Deconvolution)):
        with pytest.warns(UserWarning, match=r"backward hooks"):
            theirs = kind(subject.module).attribute(images.x.clone().requires_grad_(), target=images.y)
        assert torch.allclose(attribute(name, subject, question(subject, images)), theirs, atol=1e-5)


@pytest.mark.parametrize("name", ["guided", "deconvnet", "guided-grad-cam", "integrated-gradients", "gradient"])
def test_the_spelling_of_a_relu_changes_nothing_where_captum_silently_gives_the_gradient(name: str) -> None:
    net, images = toys.convolutional(3), some_images()
    modules, functions = Subject(net, 3), Subject(Functional(net), 3)
    own = attribute(name, modules, question(modules, images, layer="0"))
    assert torch.allclose(attribute(name, functions, question(functions, images, layer="conv")), own, atol=1e-4)
    if name == "guided":
        plain = attribute("gradient", modules, question(modules, images))
        assert not torch.allclose(own, plain, atol=1e-2)
        peer = pytest.importorskip("captum.attr")
        with pytest.warns(UserWarning, match="backward hooks"):
            theirs = peer.GuidedBackprop(functions.module).attribute(images.x.clone().requires_grad_(), target=images.y)
        assert torch.allclose(theirs, plain, atol=1e-4)


def test_grad_cam_by_hand() -> None:
    net = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False), nn.Flatten(), nn.Linear(72, 2, bias=False)).eval()
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(2).view(2, 2, 1, 1))
        net[2].weight.copy_(torch.stack([torch.cat([torch.full((36,), 3.0), torch.full((36,), -1.0)]), torch.ones(72)]))
    images = Images(some_images().x, torch.zeros(4, dtype=torch.int64), torch.arange(4), ("a", "b"))
    subject = Subject(net, 2)
    expected = (3 * images.x[:, :1] - images.x[:, 1:]).relu()
    assert torch.allclose(attribute("grad-cam", subject, question(subject, images, layer="0")), expected, atol=1e-6)


class Twice(nn.Module):
    """One module called twice, and a layer that writes over what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bend, self.last = nn.Conv2d(2, 2, 3, padding=1), nn.ReLU(inplace=True), nn.Linear(72, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.bend(self.conv(self.bend(self.conv(x)))).flatten(1))


def test_grad_cam_of_a_second_call_and_before_a_layer_in_place() -> None:
    torch.manual_seed(2)
    subject, images = Subject(Twice().eval(), 3), some_images()
    net = subject.module
    with torch.enable_grad():
        first = net.conv(images.x.clone().requires_grad_())
        second = net.conv(first.relu())
        score = net.last(second.relu().flatten(1)).gather(1, images.y[:, None]).sum()
        slopes = torch.autograd.grad(score, [first, second])
    for layer, maps, slope in zip(("conv", "conv#2"), (first, second), slopes, strict=True):
        expected = (slope.mean((2, 3), keepdim=True) * maps).sum(1, keepdim=True).relu()
        assert torch.allclose(cam(subject, question(subject, images, layer=layer)), expected, atol=1e-6)
    assert not any(module._forward_hooks for module in net.modules())


def test_smooth_gradient_is_a_mean_over_noise_that_the_seed_decides() -> None:
    subject, images = some_net(), some_images()
    one, same, other = (
        attribute("smooth-gradient", subject, question(subject, images, steps=4, seed=s)) for s in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    alone = attribute("smooth-gradient", subject, question(subject, images.take(torch.tensor([2])), steps=4, seed=1))
    assert torch.allclose(alone[0], one[2], atol=1e-5)


@pytest.mark.parametrize("name", sorted(METHODS.keys() - {"deep-lift", "shapley"}))
def test_the_size_of_the_batch_changes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    subject, images = some_net(), some_images(7)
    whole = attribute(name, subject, question(subject, images, steps=3, layer="0"))
    monkeypatch.setattr(listening, "ROWS_AT_ONCE", 8)
    parts = attribute(name, subject, question(subject, images, steps=3, layer="0"))
    assert torch.allclose(whole, parts, atol=1e-5)


def test_what_is_absent() -> None:
    x = some_images().x
    assert [float(absent_image(x, how).mean()) for how in ("black", "grey", "white")] == [0.0, 0.5, 1.0]
    even = torch.full((1, 3, 20, 12), 0.25)
    assert torch.allclose(absent_image(even, "blur"), even)
    blurred = absent_image(x, "blur")
    assert float(blurred.var()) < float(x.var())
    spot = torch.zeros(1, 1, 21, 21)
    spot[..., 10, 10] = 1
    around = absent_image(spot, "blur")[0, 0]
    assert float(around.sum()) == pytest.approx(1, abs=1e-5)
    assert float(around[10, 13] / around[10, 10]) == pytest.approx(np.exp(-9 / (2 * 2.1**2)), rel=1e-4)
    assert torch.allclose(around, around.T)


# The view


def test_the_view_gives_every_map_with_its_checks() -> None:
    subject, images = some_net(), some_images()
    result = Attribution(methods="integrated-gradients, gradient,grad-cam", steps=10, layer="0")(subject, images)
    ask = question(subject, images, steps=10, layer="0")
    signed = attribute("integrated-gradients", subject, ask).sum(1)
    np.testing.assert_array_equal(result.arrays["integrated-gradients"], signed.numpy())
    magnitude = attribute("gradient", subject, ask).abs().amax(1)
    np.testing.assert_array_equal(result.arrays["gradient"], magnitude.numpy())
    assert result.arrays["grad-cam_attribution"].shape == (4, 1, 6, 6)
    assert result.arrays["gradient_deletion"].shape == (4, 17)
    assert result.facts["checks"].keys() == {"integrated-gradients", "gradient", "grad-cam"}
    assert "The sums of integrated-gradients miss the change of the logit by" in result.text()
    assert "random orders" in result.text()
    assert len(result.panels) == 5 * 4
    scales = [panel.scale for panel in result.panels[1:16:4]]
    assert len({*scales}) == 1
    assert scales[0].kind == "signed"


def test_a_control_that_asks_no_model_is_doubted() -> None:
    result = Attribution(methods="intensity", steps=2)(some_net(), some_images())
    np.testing.assert_allclose(result.arrays["intensity_unlearned"], 1)
    assert "much the same for a net that has learned nothing" in result.text()


def test_the_checks_can_be_left_out() -> None:
    result = Attribution(methods="gradient", check=False)(some_net(), some_images())
    assert "The maps were not checked." in result.text()
    assert {"gradient", "gradient_attribution", "target", "x", "y"} == result.arrays.keys()
    assert result.facts["checks"] == {}


class Constant(nn.Module):
    """Logits that do not look at the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.bias.expand(len(x), 3)


def test_a_map_that_is_zero_everywhere_says_so() -> None:
    subject = Subject(Constant().eval(), 3)
    result = Attribution(methods="gradient,integrated-gradients,guided", steps=2)(subject, some_images())
    assert "guided is zero everywhere on 4 of 4 images." in result.text()
    assert result.facts["checks"]["gradient"]["doubts"] == ["zero everywhere"]
    assert result.facts["checks"]["gradient"]["unlearned"] is None
    labels = [text.get_label() for text in result.figure().axes[0].texts]
    assert labels.count("note") == 12


# Faults


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"methods": "integrated-gradient"},
            "no attribution method 'integrated-gradient'; did you mean 'integrated-gr",
        ),
        ({"methods": "gradient,"}, "no attribution method ''"),
        ({"target": 3}, "target 3 is no class of the model; choose one of 0 … 2"),
        ({"steps": 0}, "a path of 0 steps leads nowhere; choose at least 1"),
        ({"methods": "grad-cam", "layer": "9"}, "has no layer '9'"),
        ({"methods": "grad-cam", "layer": "4"}, "the layer '4' gives no maps in the forward pass"),
        ({"methods": "grad-cam", "layer": "0#2"}, "the layer '0#2' gives no maps in the forward pass"),
    ],
)
def test_mistakes_are_one_sentence(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as caught:
        Attribution(**settings)(some_net(), some_images())
    assert "\n" not in str(caught.value)


def test_a_net_without_maps_has_no_grad_cam() -> None:
    with pytest.raises(InputError, match="has no layer with maps, which grad-cam needs"):
        Attribution(methods="grad-cam")(linear_net(), some_images())


def test_a_rule_for_relu_is_refused_for_other_bends() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(72, 5), nn.GELU(), nn.Linear(5, 3)).eval()
    with pytest.raises(InputError, match=r"bends by more than ReLU \(Gelu\), for which guided has no rule"):
        Attribution(methods="guided")(Subject(net, 3), some_images())


@pytest.mark.parametrize(
    ("net", "hidden"),
    [
        (lambda: Functional(toys.convolutional(3)), "Clamp.*Relu, MaxPool"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(72, 5), nn.GELU(), nn.Linear(5, 3)).eval(), "Gelu"),
        (lambda: Twice().eval(), "ReLU called 2 times"),
    ],
)
def test_deep_lift_is_refused_where_captum_does_not_see_the_whole_net(
    net: Callable[[], nn.Module], hidden: str
) -> None:
    pytest.importorskip("captum")
    with pytest.raises(InputError, match=rf"does not see every bend of the model 'model' \(hidden: .*{hidden}\)"):
        Attribution(methods="deep-lift")(Subject(net(), 3), some_images())


@pytest.mark.parametrize("name", ["deep-lift", "shapley"])
def test_without_captum_the_sentence_says_what_to_do(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(
        InputError, match=rf"{name} needs Captum; install it with: pip install 'faultlight\[attribution"
    ):
        Attribution(methods=name)(some_net(), some_images())


class Root(nn.Module):
    """The gradient of a square root at 0 is infinite."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :3].sqrt()


def test_attributions_that_are_not_finite_are_named() -> None:
    images = some_images()
    images.x[1, 0, 0, 1] = 0
    with pytest.raises(InputError, match=r"attributions by gradient hold NaN or infinity on 1 images \(ids 51\)"):
        Attribution(methods="gradient", check=False)(Subject(Root().eval(), 3), images)


def test_nothing_is_left_behind() -> None:
    pytest.importorskip("captum")
    subject, images = some_net(), some_images()
    state = torch.random.get_rng_state()
    Attribution(methods=",".join(sorted(METHODS)), steps=2, layer="0")(subject, images)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not any(module._forward_hooks or module._backward_hooks for module in subject.module.modules())
    assert all(parameter.grad is None for parameter in subject.module.parameters())
    assert not images.x.requires_grad


# The command line


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["attribution", "--set", "methods=gradient,guided"], 0, "guided"),
        (["attribution", "--set", "methods=gradeint"], 2, "no attribution method 'gradeint'; did you mean 'gradient'?"),
        (["attribution", "--set", "absent=pink"], 2, "the setting absent=pink cannot be used: input should be 'black'"),
        (["attribution", "--layer", "cnov1", "--set", "methods=grad-cam"], 2, "no layer 'cnov1'; did you mean 'conv1'"),
        (["faithfulness", "--set", "points=4", "--set", "orders=2", "--set", "method=guided"], 0, "Deletion area"),
        (["embedding"], 2, "at least 7 images, and there are 4; take more, such as --n 500"),
        (["embedding", "--n", "30", "--set", "perplexity=20"], 2, "needs at least 61 images, and there are 30"),
        (["embedding", "--n", "30", "--layer", "fc9"], 2, "has no layer 'fc9'; "),
        (["embedding", "--n", "30", "--set", "before=initial"], 0, "digits-cnn before training: trustworthiness PCA"),
    ],
)
def test_on_the_command_line(
    words: list[str], code: int, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "seen"
    assert main(["view", "zoo:digits-cnn", "--view", *words, "--out", str(out)]) == code
    said = capsys.readouterr()
    assert sentence in (said.err if code else said.out)
    assert out.exists() == (code == 0)
