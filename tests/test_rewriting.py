"""What a copy may change: norms folded, ReLU behind pooling, few channels; all of it exact or left alone."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from faultlight.models.rewriting import FewChannels, by_pixels_alone, rewritten
from faultlight.models.zoo import resnet18

SHAPE = (3, 8, 8)


@pytest.fixture(autouse=True)
def seeded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # The hook that checks annotations in the tests would refuse the stand-ins with which a net is traced.
    monkeypatch.setattr(resnet18.BasicBlock, "forward", inspect.unwrap(resnet18.BasicBlock.forward))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def lived(net: nn.Module) -> nn.Module:
    """The net in evaluation mode, its batch norms with statistics and weights as training leaves them."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.3, 3)
            if module.affine:
                nn.init.uniform_(module.weight, -2, 2)
                nn.init.normal_(module.bias)
    return net.eval()


class Residual(nn.Module):
    """Convolution and batch norm around a skip, as in ResNet."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
        self.conv2, self.norm2 = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.head = nn.Linear(3 * 64, 4)

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return self.head(torch.flatten(torch.relu(out + x), 1))


class PreActivation(nn.Module):
    """Batch norm before its convolution; the first convolution's output is also the skip."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 3, 3, padding=1)
        self.norm1, self.conv1 = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3, padding=1)
        self.norm2, self.conv2 = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3, padding=1)
        self.head = nn.Linear(3 * 64, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        out = self.conv1(torch.relu(self.norm1(x)))
        out = self.conv2(torch.relu(self.norm2(out)))
        return self.head(torch.flatten(out + x, 1))


class SharedConvolution(nn.Module):
    """One convolution before two batch norms."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm1, self.norm2 = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.head = nn.Linear(3 * 64, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.conv(x)))
        return self.head(torch.flatten(self.norm2(self.conv(x)), 1))


class SharedNorm(nn.Module):
    """One batch norm behind two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.norm, self.head = nn.BatchNorm2d(3), nn.Linear(3 * 64, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.flatten(self.norm(self.conv2(self.norm(self.conv1(x)))), 1))


class Branching(nn.Module):
    """Its path depends on the pixels, so it cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Linear(3 * 64, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        if x.sum() > 0:
            x = torch.relu(x)
        return self.head(torch.flatten(x, 1))


def plain(*norms: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), *norms, nn.Flatten(), nn.Linear(3 * 64, 4))


def norms_called(net: nn.Module, x: Tensor) -> int:
    """How often a batch norm is computed in one pass."""
    calls: list[nn.Module] = []
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda module, _given, _output: calls.append(module))
    net(x)
    return len(calls)


# The net and how many of its batch norms are still computed once it is folded.
NETS = [
    (plain(nn.BatchNorm2d(3)), 0),
    (plain(nn.BatchNorm2d(3, affine=False), nn.ReLU()), 0),
    (plain(nn.BatchNorm2d(3), nn.BatchNorm2d(3)), 0),
    (plain(nn.ReLU(), nn.BatchNorm2d(3)), 1),
    (plain(nn.BatchNorm2d(3, track_running_stats=False)), 1),
    (plain(nn.GroupNorm(1, 3)), 0),
    (Residual(), 0),
    (PreActivation(), 1),
    (SharedConvolution(), 2),
    (SharedNorm(), 2),
    (Branching(), 1),
    (resnet18.ResNet18(4, SHAPE, width=8).module(), 0),
]


@pytest.mark.parametrize(("net", "left"), NETS, ids=[f"{i} {type(net).__name__}" for i, (net, _) in enumerate(NETS)])
def test_folding_is_exact_or_left_alone(net: nn.Module, left: int) -> None:
    """In float64, where a difference would be no rounding; and the original stays what it was."""
    net = lived(copy.deepcopy(net)).double()
    before = copy.deepcopy(net.state_dict())
    x = torch.rand(5, *SHAPE, dtype=torch.float64)
    quick = rewritten(net)
    with torch.no_grad():
        expected, found = net(x), quick(x)
    assert float((found - expected).abs().max()) <= 1e-10 * float(expected.abs().max())
    assert norms_called(quick, x) == left
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not quick.training


class Functional(nn.Module):
    """ReLU and pooling as functions."""

    def __init__(self, relu: Any) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 4, 3), relu

    def forward(self, x: Tensor) -> Tensor:
        return functional.max_pool2d(self.relu(self.conv(x)), 2)


def pooled(relu: nn.Module, pool: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), relu, pool)


class Reused(nn.Module):
    """The values before the pooling are used twice, so that the ReLU has to stay where it is."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.pool = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        z = self.relu(self.conv(x))
        return self.pool(z) + z.mean()


def values_and_slopes(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    leaf = x.clone().requires_grad_()
    value = net(leaf)
    weight = torch.linspace(-1, 1, value.numel(), dtype=value.dtype).view_as(value)
    return value, torch.autograd.grad((value * weight).sum(), leaf)[0]


def values_rectified(net: nn.Module, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many values its ReLUs are given in one pass."""
    count = [0]

    def counting(relu: Any) -> Any:
        def counted(z: Tensor, *rest: Any, **more: Any) -> Tensor:
            count[0] += z.numel()
            return relu(z, *rest, **more)

        return counted

    with monkeypatch.context() as patch:
        for place, name in ((torch, "relu"), (torch, "relu_"), (torch.Tensor, "relu")):
            patch.setattr(place, name, counting(getattr(place, name)))
        net(x)
    return count[0]


POOLED = [
    (pooled(nn.ReLU(), nn.MaxPool2d(2)), True),
    (pooled(nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, padding=1)), True),
    (Functional(functional.relu), True),
    (Functional(lambda z: torch.relu(z)), True),
    (Functional(lambda z: z.relu()), True),
    (Reused(), False),
    (pooled(nn.ReLU(), nn.AvgPool2d(2)), False),
    (pooled(nn.Tanh(), nn.MaxPool2d(2)), False),
]


@pytest.mark.parametrize(("net", "moved"), POOLED, ids=[str(i) for i in range(len(POOLED))])
def test_a_relu_goes_behind_the_pooling(net: nn.Module, moved: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    net = net.double().eval()
    x = torch.rand(4, *SHAPE, dtype=torch.float64) - 0.5
    quick = rewritten(net)
    for expected, found in zip(values_and_slopes(net, x), values_and_slopes(quick, x), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    before, after = (values_rectified(one, x, monkeypatch) for one in (net, quick))
    assert (after < before) == moved


@pytest.mark.parametrize("kernel", [(3, 3), (5, 5), (2, 4), (1, 1)])
@pytest.mark.parametrize("padding", [0, 1, (2, 1)])
@pytest.mark.parametrize("stride", [1, 2, (3, 2)])
@pytest.mark.parametrize("channels", [1, 3])
def test_few_channels_differentiate_alike(kernel: tuple[int, int], padding: Any, stride: Any, channels: int) -> None:
    convolution = nn.Conv2d(channels, 16, kernel, stride, padding, dtype=torch.float64).requires_grad_(False)
    x = torch.rand(4, channels, 9, 7, dtype=torch.float64)
    found = values_and_slopes(FewChannels(convolution), x)
    for one, other in zip(values_and_slopes(convolution, x), found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("convolution", "replaced"),
    [
        (nn.Conv2d(3, 12, 3), True),
        (nn.Conv2d(3, 11, 3), False),
        (nn.Conv2d(4, 64, 3), False),
        (nn.Conv2d(3, 12, 3, stride=2), True),
        (nn.Conv2d(3, 12, 3, dilation=2), False),
        (nn.Conv2d(3, 12, 3, groups=3), False),
        (nn.Conv2d(3, 12, 3, padding="same"), False),
        (nn.Conv2d(3, 12, 3, padding="valid"), False),
        (nn.Conv2d(3, 12, 3, padding=1, padding_mode="circular"), False),
    ],
    ids=str,
)
def test_what_has_few_channels(convolution: nn.Conv2d, replaced: bool) -> None:
    quick = rewritten(nn.Sequential(convolution, nn.ReLU()))
    assert any(isinstance(part, FewChannels) for part in quick.modules()) == replaced


def test_a_network_that_learns_differentiates_by_its_pixels_for_a_while() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 25, 3))
    x = torch.rand(4, 1, 9, 9)
    expected = values_and_slopes(net, x)
    with by_pixels_alone(net):
        for one, other in zip(expected, values_and_slopes(net, x), strict=True):
            torch.testing.assert_close(other, one)
        net(x).sum().backward()
        assert net[0].weight.grad is None, "what it has in place of the convolution's own gradient"
    net(x).sum().backward()
    assert net[0].weight.grad is not None
    assert "forward" not in vars(net[0])


def test_few_channels_differentiate_under_autocast() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Flatten(), nn.Linear(8 * 49, 3))
    x = torch.rand(4, 1, 9, 9)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(net(leaf).sum(), leaf)
    with by_pixels_alone(net):
        with torch.autocast("cpu", torch.bfloat16):
            value = net(leaf)
        (found,) = torch.autograd.grad(value.sum(), leaf)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.02 * float(expected.abs().max()))
