"""The zoo: exact sizes, seeded weights, sentences for wrong names."""

from __future__ import annotations

import sys
import tomllib
from importlib import resources
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from faultlight.errors import InputError
from faultlight.models import zoo
from faultlight.models.saved import read_saved, save_model
from faultlight.models.subject import Subject
from faultlight.views.listening import leaves_of, outputs
from faultlight.views.occlusion import last_map_layer


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


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("mnist-cnn-bn", [320, 64, 9_248, 64, 784_500, 1_000, 5_010]),
        ("cnn-a", [320, 18_496, 204_928, 8_256, 650]),
        ("mlp", [100_480, 8_256, 650]),
        ("lenet5", [156, 2_416, 48_120, 10_164, 850]),
        ("cnn-basic", [1_824, 10_416, 31_176, 2_890]),
        ("cnn-basic-tanh", [1_824, 10_416, 31_176, 2_890]),
        ("cifar-cnn", [448, 4_640, 18_496, 512_500, 5_010]),
        ("madry-mnist", [832, 51_264, 3_212_288, 10_250]),
        ("strided-cnn", [272, 8_224, 156_900, 1_010]),
        ("threshold-cnn", [272, 8_224, 156_900, 1_010]),
        ("threshold-cnn-bn", [800, 64, 18_432, 128, 65_536, 128, 131_072, 256, 1_290]),
        ("one-conv", [112, 40_970]),
        ("mnist-quick", [216, 48, 10_368, 96, 41_472, 192, 110_592, 256, 1_290]),
    ],
)
def test_layers_have_the_parameters_counted_by_hand(name: str, layers: list[int]) -> None:
    counts = [size(child) for child in zoo.build_family(zoo.family(name)).children()]
    assert [count for count in counts if count] == layers


@pytest.mark.parametrize(
    ("name", "settings", "count"),
    [
        ("mnist-cnn-bn", {}, 800_206),
        ("cnn-a", {}, 232_650),
        ("mlp", {}, 109_386),
        ("lenet5", {}, 61_706),
        ("cnn-basic", {}, 46_306),
        ("cnn-basic-tanh", {}, 46_306),
        ("cifar-cnn", {}, 541_094),
        ("madry-mnist", {}, 3_274_634),
        ("strided-cnn", {}, 166_406),
        ("threshold-cnn", {}, 166_406),
        ("threshold-cnn", {"width": 4, "border": 4}, 1_088 + 131_200 + 1_280_400 + 4_010),
        ("threshold-cnn-bn", {}, 217_706),
        ("one-conv", {}, 41_082),
        ("mnist-quick", {}, 164_530),
        ("one-conv", {"filters": 32}, 328_586),
        ("vgg16", {}, 14_728_266),
        ("wide-resnet", {}, 36_479_194),
        ("wide-resnet", {"depth": 34}, 46_160_474),
        ("fast-cifar", {}, 1_972_792),
    ],
)
def test_networks_have_the_published_number_of_parameters(name: str, settings: dict[str, int], count: int) -> None:
    with torch.device("meta"):
        assert size(zoo.family(name, **settings).module()) == count


def test_the_threshold_is_a_clipped_line_that_small_changes_of_black_and_white_do_not_move() -> None:
    front = next(zoo.build("threshold-cnn", 10, (1, 28, 28)).children())
    x = torch.tensor([0.0, 0.4, 0.45, 0.5, 0.6, 1.0])
    due = torch.tensor([0.0, 0.0, 0.25, 0.5, 1.0, 1.0])
    assert torch.allclose(front(x.view(-1, 1, 1, 1)).flatten(), due, atol=1e-6)
    ink = (torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    moved = (ink + 0.3 * (1 - 2 * ink)).clamp(0, 1)
    assert torch.allclose(front(moved), ink, atol=1e-6)
    for cut in (4, 9):
        sized = zoo.build("threshold-cnn", 10, (1, 28, 28), border=cut)
        framed = nn.functional.pad(ink[:, :, cut:-cut, cut:-cut], (cut,) * 4, value=0.5)
        assert torch.equal(sized(ink), sized(framed)), "what is cut off does not matter"
        assert not torch.equal(sized(ink), sized(ink.flip(3)))
    assert not list(front.parameters()), "were it learnt, every pixel could move"


def test_cnn_basic_and_its_copy_differ_in_the_activation_alone() -> None:
    one, other = (zoo.build(name, 10, (3, 32, 32)) for name in ("cnn-basic", "cnn-basic-tanh"))
    kinds = [
        {type(layer) for layer in net if type(layer) not in (nn.BatchNorm2d, nn.Conv2d, nn.Flatten, nn.Linear)}
        for net in (one, other)
    ]
    assert kinds == [{nn.LeakyReLU}, {nn.Tanh}]
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_the_whitening_layer_makes_patches_uncorrelated() -> None:
    family = zoo.family("fast-cifar")
    net = zoo.build_family(family)
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(50, 3, 16, 16, generator=generator)
    x = 0.2 + 0.3 * (noise + noise.roll(1, 3))  # neighbours have something in common
    family.prepare(net, x)
    out = net.whiten(x) - net.whiten.bias.view(1, -1, 1, 1)
    torch.testing.assert_close(out[:, 12:], -out[:, :12])
    covariance = out[:, :12].detach().transpose(0, 1).flatten(1).cov()
    torch.testing.assert_close(covariance, covariance.diagonal().diag(), atol=1e-3, rtol=0)
    # A direction of variance v leaves with v / (v + 0.0005).
    assert 0.7 < float(covariance.diagonal().min()) < float(covariance.diagonal().max()) < 1


def test_fast_cifar_begins_as_a_partial_identity_and_keeps_what_does_not_learn() -> None:
    net = zoo.build("fast-cifar", 10, (3, 32, 32))
    x = torch.rand(2, 64, 6, 6)
    torch.testing.assert_close(net.layer2.conv1(x)[:, :64], x)
    frozen = [name for name, value in net.named_parameters() if not value.requires_grad]
    assert "whiten.weight" in frozen
    assert "whiten.bias" not in frozen
    assert sum(net.get_parameter(name).numel() for name in frozen) == 24 * 12 + 2 * (64 + 256 + 256)


def test_a_wide_resnet_of_depth_6n_plus_4_has_n_blocks_a_group() -> None:
    net = zoo.build("wide-resnet", 10, (3, 32, 32), depth=22, width=1)
    assert [len(net.get_submodule(f"layer{group}")) for group in (1, 2, 3)] == [3, 3, 3]
    assert net.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


class FakeTimm(ModuleType):
    """As much of timm as is asked of it."""

    def is_model(self, name: str) -> bool:
        return name in self.list_models()

    def list_models(self) -> list[str]:
        return ["resnet26", "vit_tiny"]

    def create_model(self, name: str, pretrained: bool, num_classes: int, in_chans: int) -> nn.Module:
        assert not pretrained
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(in_chans, num_classes))


def test_networks_of_timm_go_by_their_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "timm", FakeTimm("timm"))
    net = zoo.build("timm/resnet26", 7, (3, 32, 32))
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    save_model(tmp_path, "timm/resnet26", zoo.family("timm/resnet26", classes=7), net)
    name, family, again = read_saved(tmp_path)
    assert (name, family.classes) == ("timm/resnet26", 7)
    assert torch.equal(again[2].weight, net[2].weight)
    with pytest.raises(InputError, match="timm has no network named 'resnet62'; did you mean 'resnet26'"):
        zoo.build("timm/resnet62", 7, (3, 32, 32))


def test_timm_that_is_not_there_is_told_how_to_get(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match=r"'timm/resnet26' needs the library timm.*pip install 'faultlight\[timm\]'"):
        zoo.build("timm/resnet26", 10, (3, 32, 32))


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
    ("name", "shape"),
    [
        ("digits-cnn", (1, 8, 8)),
        ("mnist-cnn", (3, 32, 32)),
        ("mnist-cnn-bn", (3, 32, 32)),
        ("cnn-a", (3, 10, 11)),
        ("mlp", (1, 8, 8)),
        ("lenet5", (3, 12, 13)),
        ("cnn-basic", (1, 28, 28)),
        ("cnn-basic-tanh", (1, 23, 24)),
        ("cifar-cnn", (1, 8, 9)),
        ("madry-mnist", (1, 8, 8)),
        ("strided-cnn", (1, 8, 8)),
        ("threshold-cnn", (3, 8, 8)),
        ("one-conv", (1, 5, 4)),
        ("mnist-quick", (3, 8, 9)),
        ("fast-cifar", (1, 9, 9)),
        ("vgg16", (1, 32, 33)),
        ("resnet18", (1, 28, 28)),
    ],
)
def test_other_shapes_and_class_counts_fit(name: str, shape: tuple[int, int, int]) -> None:
    options = {"width": 16} if name == "resnet18" else {}
    assert zoo.build(name, 3, shape, **options).eval()(torch.zeros(2, *shape)).shape == (2, 3)


def test_a_view_of_an_averaged_answer_shows_the_image_itself_and_not_its_mirror_image() -> None:
    plain, mirrored = (zoo.build("fast-cifar", 10, (3, 32, 32), mirror=each) for each in (0, 1))
    mirrored.inner.load_state_dict(plain.state_dict())
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    subjects = [Subject(module.eval(), 10, "net") for module in (plain, mirrored)]
    maps = [outputs(each, x, leaves_of(each))[str(last_map_layer(each, x))] for each in subjects]
    torch.testing.assert_close(maps[1], maps[0])
    assert not torch.allclose(maps[0], maps[0].flip(3))


def test_an_answer_averaged_over_the_mirror_image_is_that_of_the_layers() -> None:
    plain, mirrored = (zoo.build("fast-cifar", 10, (3, 32, 32), mirror=each) for each in (0, 1))
    x = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mirrored.inner.load_state_dict(plain.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(mirrored.train()(x), plain.train()(x))
        mirrored.inner.load_state_dict(plain.state_dict())
        due = (plain.eval()(x) + plain(x.flip(3))) / 2
        torch.testing.assert_close(mirrored.eval()(x), due)
        torch.testing.assert_close(mirrored(x.flip(3)), due)
        assert not torch.allclose(plain(x), due)


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
        (lambda: zoo.build("fast-cifar", 10, (3, 32, 32), mirror=2), "is 0 or 1, not 2"),
        (lambda: zoo.build("threshold-cnn", 10, (1, 28, 28), border=-1), "at least 0, not -1"),
        (lambda: zoo.build("threshold-cnn", 10, (1, 28, 28), border=13), "has 2×2 pixels left within a border of 13"),
        (lambda: zoo.build("mnist-cnn", 1, (1, 28, 28)), "at least 2"),
        (lambda: zoo.build("mnist-cnn", 10, (1, 3, 28)), "at least 4×4 pixels, not 3×28"),
        (lambda: zoo.build("cnn-a", 10, (1, 9, 28)), "at least 10×10 pixels, not 9×28"),
        (lambda: zoo.build("cnn-basic", 10, (1, 28, 22)), "at least 23×23 pixels, not 28×22"),
        (lambda: zoo.build("lenet5", 10, (1, 11, 28)), "at least 12×12 pixels"),
        (lambda: zoo.build("vgg16", 10, (3, 28, 28)), "at least 32×32 pixels"),
        (lambda: zoo.build("strided-cnn", 10, (1, 3, 3)), "at least 4×4 pixels"),
        (lambda: zoo.build("wide-resnet", 10, (3, 32, 32), depth=18), "6n + 4, such as 16, 28 or 34, not 18"),
        (lambda: zoo.build("mnist-cnn", 10, (1, 0, 28)), "shape (1, 0, 28)"),
    ],
)
def test_wrong_requests_are_told_in_a_sentence(call: object, words: str) -> None:
    with pytest.raises(InputError) as caught:
        call()  # type: ignore[operator]
    assert words in str(caught.value)
