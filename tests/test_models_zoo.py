"""The zoo: exact sizes, seeded weights, sentences for wrong names."""

from __future__ import annotations

import tomllib
from importlib import resources

import pytest
import torch
from torch import nn

from faultlight.errors import InputError
from faultlight.models import zoo


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_every_family_is_found_by_its_file() -> None:
    assert {"digits-cnn", "mnist-cnn", "resnet18"} <= set(zoo.names())


@pytest.mark.parametrize("name", zoo.names())
def test_the_recipe_that_a_family_names_trains_it(name: str) -> None:
    if not zoo.recipe(name):
        pytest.skip(f"{name} has no recipe")
    folder = resources.files("faultlight") / "recipes"
    recipe = tomllib.loads((folder / f"{zoo.recipe(name)}.toml").read_text(encoding="utf-8"))
    assert recipe["model"] == name


def test_mnist_cnn_has_the_parameters_counted_by_hand() -> None:
    net = zoo.build("mnist-cnn", 10, (1, 28, 28))
    counts = {name: size(child) for name, child in net.named_children()}
    assert counts["conv1"] == 32 * (1 * 3 * 3) + 32 == 320
    assert counts["conv2"] == 32 * (32 * 3 * 3) + 32 == 9_248
    assert counts["fc1"] == 1568 * 500 + 500
    assert counts["fc2"] == 5_010
    assert size(net) == 799_078


def test_resnet18_has_the_published_number_of_parameters() -> None:
    assert size(zoo.build("resnet18", 10, (3, 32, 32))) == 11_173_962


def test_preactresnet18_has_the_published_number_of_parameters() -> None:
    assert size(zoo.build("preactresnet18", 10, (3, 32, 32))) == 11_172_170


def test_preactresnet18_block_is_the_pre_activation_formula() -> None:
    block = zoo.build("preactresnet18", 10, (3, 32, 32), width=16).layer2[0].eval()
    x = torch.randn(2, 16, 8, 8)
    active = torch.relu(block.bn1(x))
    expected = block.conv2(torch.relu(block.bn2(block.conv1(active)))) + block.shortcut(active)
    assert expected.shape == (2, 32, 4, 4)
    torch.testing.assert_close(block(x), expected)


def test_resnet18_block_is_the_residual_formula() -> None:
    block = zoo.build("resnet18", 10, (3, 32, 32), width=16).layer2[0].eval()
    x = torch.randn(2, 16, 8, 8)
    inner = torch.relu(block.bn1(block.conv1(x)))
    expected = torch.relu(block.bn2(block.conv2(inner)) + block.shortcut.bn(block.shortcut.conv(x)))
    assert expected.shape == (2, 32, 4, 4)
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize(
    ("name", "shape"), [("digits-cnn", (1, 8, 8)), ("mnist-cnn", (3, 32, 32)), ("resnet18", (1, 28, 28))]
)
def test_other_shapes_and_class_counts_fit(name: str, shape: tuple[int, int, int]) -> None:
    options = {"width": 16} if name == "resnet18" else {}
    assert zoo.build(name, 3, shape, **options).eval()(torch.zeros(2, *shape)).shape == (2, 3)


def test_channel_counts_are_multiples_of_sixteen() -> None:
    widths = [m.out_channels for m in zoo.build("digits-cnn", 10, (1, 8, 8)).modules() if isinstance(m, nn.Conv2d)]
    assert len(widths) == 3
    assert all(width % 16 == 0 for width in widths)


def test_weights_are_a_function_of_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = zoo.build("digits-cnn", 10, (1, 8, 8), seed=5).state_dict()
    torch.manual_seed(2)
    again = zoo.build("digits-cnn", 10, (1, 8, 8), seed=5).state_dict()
    other = zoo.build("digits-cnn", 10, (1, 8, 8), seed=6).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


def test_building_leaves_the_global_generator_where_it_was() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    zoo.build("digits-cnn", 10, (1, 8, 8))
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize(
    ("name", "shape"), [("digits-cnn", (1, 8, 8)), ("mnist-cnn", (1, 28, 28)), ("resnet18", (3, 32, 32))]
)
def test_activations_are_modules_used_once(name: str, shape: tuple[int, int, int]) -> None:
    net = zoo.build(name, 10, shape, **({"width": 16} if name == "resnet18" else {})).eval()
    calls: list[nn.Module] = []
    for module in net.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda module, *_: calls.append(module))
    net(torch.zeros(1, *shape))
    assert calls
    assert len({id(module) for module in calls}) == len(calls)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: zoo.build("minst-cnn", 10, (1, 28, 28)), "did you mean 'mnist-cnn'"),
        (lambda: zoo.build("resnet18", 10, (3, 32, 32), widht=16), "did you mean 'width'"),
        (lambda: zoo.build("resnet18", 10, (3, 32, 32), width=0), "at least 1, not 0"),
        (lambda: zoo.build("mnist-cnn", 1, (1, 28, 28)), "at least 2"),
        (lambda: zoo.build("mnist-cnn", 10, (1, 3, 28)), "at least 4×4 pixels, not 3×28"),
        (lambda: zoo.build("mnist-cnn", 10, (1, 0, 28)), "shape (1, 0, 28)"),
    ],
)
def test_wrong_requests_are_told_in_a_sentence(call: object, words: str) -> None:
    with pytest.raises(InputError) as caught:
        call()  # type: ignore[operator]
    assert words in str(caught.value)
