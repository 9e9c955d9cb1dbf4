"""Reading a module: the network computes what the module does, and what has no bound is named."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import certify_nets as nets
from faultlight.certify._ball import ball
from faultlight.certify._calls import NoCertificate
from faultlight.certify._operations import Affine
from faultlight.certify._ranges import interval_ranges
from faultlight.certify._reading import read_network
from faultlight.certify._window import Window
from faultlight.models import zoo
from faultlight.models.subject import Normalised
from faultlight.threat import Threat


@pytest.mark.parametrize("kind", nets.KINDS)
def test_network_computes_what_the_module_does(kind: str) -> None:
    module, x = nets.net(kind), nets.pixels(5)
    torch.testing.assert_close(read_network(module, nets.SHAPE).evaluate(x), module(x), rtol=1e-5, atol=1e-5)


# Networks that bend by more than ReLU.
UNBOUNDED = {"cnn-basic-tanh": "Tanh", "fast-cifar": "GELU"}


@pytest.mark.parametrize("name", [name for name in zoo.names() if name not in UNBOUNDED])
def test_every_net_of_the_zoo_is_read(name: str) -> None:
    side = 32 if name in {"cnn-basic", "vgg16"} else 16
    shape = (3, side, side)
    module = Normalised(zoo.build(name, 10, shape), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)).eval()
    x = nets.pixels(3, shape=shape)
    with torch.no_grad():
        torch.testing.assert_close(read_network(module, shape).evaluate(x), module(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", UNBOUNDED)
def test_other_bends_than_relu_have_no_bound(name: str) -> None:
    with pytest.raises(NoCertificate, match=UNBOUNDED[name]):
        read_network(zoo.build(name, 10, (3, 32, 32)).eval(), (3, 32, 32))


def as_matrix(operation: Affine, shape: tuple[int, ...]) -> Tensor:
    """W, column by column: what each input alone gives, less what nothing gives."""
    size = torch.Size(shape).numel()
    one = torch.eye(size, dtype=torch.float64).view(size, *shape)
    return (operation.apply(one) - operation.apply(torch.zeros_like(one))).flatten(1).T


@pytest.mark.parametrize("kind", nets.KINDS)
def test_affine_operations_agree_with_their_matrix(kind: str) -> None:
    """|W|·r, aᵀW, aᵀW from a window, and b."""
    network = read_network(nets.net(kind).double(), nets.SHAPE)
    generator = torch.Generator().manual_seed(0)
    seen = 0
    for node in network.nodes:
        if not isinstance(node.operation, Affine):
            continue
        before = network.nodes[node.inputs[0]].shape
        matrix = as_matrix(node.operation, before)
        r = torch.rand(3, *before, generator=generator, dtype=torch.float64)
        a = torch.randn(3, *node.shape, generator=generator, dtype=torch.float64)
        torch.testing.assert_close(node.operation.spread(r).flatten(1), r.flatten(1) @ matrix.abs().T)
        with torch.no_grad():
            back, window = node.operation.transpose(a, None)
        assert window is None
        torch.testing.assert_close(back.flatten(1), a.flatten(1) @ matrix)
        constant, bias = node.operation.apply(torch.zeros(1, *before, dtype=torch.float64)), node.operation.bias()
        expected = torch.zeros_like(constant) if bias is None else bias.double().expand_as(constant)
        torch.testing.assert_close(constant, expected)
        if len(node.shape) == 3:
            check_windows(node.operation, a, before, matrix)
        seen += 1
    assert seen >= 5


def check_windows(operation: Affine, a: Tensor, before: tuple[int, ...], matrix: Tensor) -> None:
    height, width = a.shape[2:]
    for window in {
        Window(0, 1, 0, 1),
        Window(height - 1, height, width - 1, width),
        Window(0, height, width // 2, width),
    }:
        whole = window.laid_out(window.cut(a), tuple(a.shape[1:]))
        for enabled in (False, True):  # small windows go another way where no gradient is asked for
            with torch.set_grad_enabled(enabled):
                back, seen = operation.transpose(window.cut(a), window)
            found = back if seen is None else seen.laid_out(back, before)
            torch.testing.assert_close(found.flatten(1), whole.flatten(1) @ matrix)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) if x.sum() > 0 else -x.flatten(1)


class Mixing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) - x.flatten(1).mean(0)


class Computed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pad(x, (0, x.shape[3] % 2 + 1)).flatten(1)


class Filled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pad(x, (1, 1), value=0.5).flatten(1)


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(84, 3), nn.Softmax(1)), "there is no bound for Softmax"),
        (nn.Sequential(nn.Conv2d(2, 3, 3), nn.GELU(), nn.Flatten()), "there is no bound for GELU"),
        (nn.Sequential(nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular")), "padded by 'circular'"),
        (nn.Sequential(nn.MaxPool2d(2, ceil_mode=True), nn.Flatten()), "max-pooling with ceil_mode"),
        (nn.Sequential(nn.BatchNorm2d(2, track_running_stats=False), nn.Flatten()), "mixes the images of a batch"),
        (nn.Sequential(nn.Conv2d(2, 3, 3)), "does not give one row of logits"),
        (nn.Sequential(nn.ReflectionPad2d(1), nn.Flatten()), "there is no bound for ReflectionPad2d"),
        (Filled(), "a padding by anything but zeros"),
        (nn.Sequential(nn.ConstantPad2d(1, 0.5), nn.Flatten()), "a padding by anything but zeros"),
        (Computed(), "a padding is computed"),
        (Branching(), "cannot be traced"),
        (Mixing(), "a mean over the images of a batch"),
    ],
)
def test_what_has_no_bound_is_named(module: nn.Module, said: str) -> None:
    with pytest.raises(NoCertificate, match=said):
        read_network(module.eval(), nets.SHAPE)


def test_numbers_that_are_only_moved_keep_their_ranges_to_the_bit() -> None:
    """The middle of a range plus or minus half its width is not always its end in float32."""
    network = read_network(nn.Sequential(nn.ZeroPad2d(-1), nn.Flatten(), nn.Linear(40, 3)).eval(), nets.SHAPE)
    around = ball(nets.pixels(50), Threat("linf", 0.1))
    ranges = interval_ranges(network, around)
    for place, operation in enumerate(node.operation for node in network.nodes):
        if isinstance(operation, Affine) and not operation.terms:
            (before,) = network.nodes[place].inputs
            assert torch.equal(ranges.lower[place], operation.apply(ranges.lower[before]))
            assert torch.equal(ranges.upper[place], operation.apply(ranges.upper[before]))
    assert sum(isinstance(n.operation, Affine) and not n.operation.terms for n in network.nodes) == 2


def test_a_value_changed_in_place_is_not_misread() -> None:
    class Changed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x.flatten(1) - 0.5
            return y.relu_() + y  # the second y is rectified too

    with pytest.raises(NoCertificate, match="differs from the model"):
        read_network(Changed().eval(), nets.SHAPE)
