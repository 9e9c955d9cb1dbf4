"""The straight-through twin: the very same logits, and gradients where the model's own are cut or flat."""

from __future__ import annotations

import io
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from faultlight.models.randomness import fingerprints, seeded
from faultlight.models.straight_through import LEAK, StraightThrough, borrow

SHAPE = (3, 8, 8)
LEVELS = torch.linspace(0.1, 0.9, 9).view(1, 1, -1, 1, 1)


def net() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(8 * 64, 10)
        ).eval()


class Defended(nn.Module):
    """A net behind a function of its author's."""

    def __init__(self, function: Callable[[nn.Module, Tensor], Tensor]):
        super().__init__()
        self.inner, self.function = net(), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.inner, x)


def compressed(x: Tensor) -> Tensor:
    pictures = []
    for image in x:
        pixels = (image.permute(1, 2, 0) * 255).round().byte().cpu().numpy()
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=75)
        pictures.append(torch.from_numpy(np.asarray(Image.open(file)).copy()).permute(2, 0, 1).float() / 255)
    return torch.stack(pictures)


def without_gradient(inner: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        x = (x * 16).round() / 16
    return inner(x)


def in_inference_mode(inner: nn.Module, x: Tensor) -> Tensor:
    with torch.inference_mode():
        rounded = (x * 16).round() / 16
    return inner(rounded.clone())


def in_place(inner: nn.Module, x: Tensor) -> Tensor:
    return inner(x.mul(16).round_().div_(16))


CUT: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "round": lambda inner, x: inner((x * 16).round() / 16),
    "detach": lambda inner, x: inner(x.detach()),
    "data": lambda inner, x: inner(x.data),
    "no_grad": without_gradient,
    "inference_mode": in_inference_mode,
    "in place": in_place,
    "integers": lambda inner, x: inner((x * 16).int() / 16),
    "bytes": lambda inner, x: inner((x * 255).to(torch.uint8).float() / 255),
    "floor division": lambda inner, x: inner(x * 16 // 1 / 16),
    "rounded division": lambda inner, x: inner(torch.div(x, 1 / 16, rounding_mode="floor") / 16),
    "sign": lambda inner, x: inner((x - 0.5).sign()),
    "comparisons": lambda inner, x: inner((x.unsqueeze(2) > LEVELS).float().mean(2)),
    "numpy": lambda inner, x: inner(torch.from_numpy(np.round(x.detach().cpu().numpy() * 16) / 16)),
    "numpy, copied": lambda inner, x: inner(torch.tensor(np.round(np.asarray(x.detach()) * 16) / 16)),
    "jpeg": lambda inner, x: inner(compressed(x)),
    "logits detached": lambda inner, x: inner(x).detach(),
    "logits through numpy": lambda inner, x: torch.from_numpy(inner(x).detach().numpy()),
}
FLAT: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "softmax": lambda inner, x: functional.softmax(inner(x) * 1000, 1),
    "sigmoid": lambda inner, x: torch.sigmoid(inner(x) * 1000),
    "relu": lambda inner, x: functional.relu(inner(x) - 100),
    "tanh": lambda inner, x: (inner(x) * 1000).tanh(),
    "clamp": lambda inner, x: inner(x).clamp(20, 30),
    "rounded": lambda inner, x: (inner(x) / 100).round(),
    "temperature": lambda inner, x: functional.softmax(inner(x) / 1e-3, 1).clamp(min=1e-30).log(),
}

every = pytest.mark.parametrize("function", (CUT | FLAT).values(), ids=CUT | FLAT)
cut = pytest.mark.parametrize("function", CUT.values(), ids=CUT)
flat = pytest.mark.parametrize("function", FLAT.values(), ids=FLAT)


def pixels() -> Tensor:
    return torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(1))


def gradient(model: nn.Module, x: Tensor, first: int = 0, second: int = 1) -> Tensor:
    """The gradient of the difference of two logits; zeros where there is none."""
    leaf = x.clone().requires_grad_()
    logits = model(leaf)
    if not logits.requires_grad:
        return torch.zeros_like(x)
    (found,) = torch.autograd.grad((logits[:, first] - logits[:, second]).sum(), leaf, allow_unused=True)
    return torch.zeros_like(x) if found is None else found


def alike(one: Tensor, other: Tensor) -> Tensor:
    return functional.cosine_similarity(one.flatten(1), other.flatten(1))


@every
@pytest.mark.parametrize("functions", [True, False])
def test_logits_are_the_models_own_bit_for_bit(function: Callable[..., Tensor], functions: bool) -> None:
    x, model = pixels(), Defended(function)
    with torch.no_grad():
        expected = model(x)
        assert torch.equal(StraightThrough(model, functions=functions)(x), expected)
    assert torch.equal(StraightThrough(model)(x.requires_grad_()).detach(), expected)


@cut
def test_gradients_that_were_cut_are_those_of_the_net_behind(function: Callable[..., Tensor]) -> None:
    x, model = pixels(), Defended(function)
    found = gradient(StraightThrough(model), x)
    behind = {CUT["sign"]: (x - 0.5).sign(), CUT["jpeg"]: compressed(x)}
    seen = behind.get(function, x)
    assert float(alike(found, gradient(net(), seen)).min()) > 0.9
    assert not bool((found == 0).flatten(1).all(1).any())


@pytest.mark.parametrize("name", ["detach", "no_grad", "numpy", "jpeg", "integers", "bytes"])
def test_hooks_alone_lend_a_gradient_to_whatever_keeps_the_shape(name: str) -> None:
    x = pixels()
    found = gradient(StraightThrough(Defended(CUT[name]), functions=False), x)
    seen = compressed(x) if name == "jpeg" else x
    assert float(alike(found, gradient(net(), seen)).min()) > 0.9


class Rounding(nn.Module):
    """A layer of its own, whose function no list would hold."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(np.floor(x.detach().numpy() * 64) / 64)


def test_a_layer_inside_that_cuts_the_gradient_is_taken_for_the_identity() -> None:
    plain = net()
    model = nn.Sequential(plain[0], Rounding(), plain[1], plain[2], plain[3])
    assert float(gradient(model, pixels()).abs().max()) == 0
    assert (
        float(alike(gradient(StraightThrough(model, functions=False), pixels()), gradient(plain, pixels())).min()) > 0.8
    )


@flat
def test_what_lies_before_a_flat_end_is_found(function: Callable[..., Tensor]) -> None:
    """Peeled logits are the net's own, up to a factor, and so are their gradients."""
    x = pixels()
    peeled = StraightThrough(Defended(function), peel=True)
    assert float(alike(gradient(peeled, x), gradient(net(), x)).min()) > 0.999
    with torch.no_grad():
        assert torch.equal(peeled(x), net()(x))


@flat
def test_flat_ends_leak(function: Callable[..., Tensor]) -> None:
    assert not bool((gradient(StraightThrough(Defended(function)), pixels()) == 0).flatten(1).all(1).any())


def test_scaling_by_a_negative_number_is_no_end_to_peel() -> None:
    x = pixels()
    model = Defended(lambda inner, x: inner(x) * -2)
    assert torch.equal(StraightThrough(model, peel=True)(x), model(x))


def test_a_relu_leaks_by_hand() -> None:
    model = StraightThrough(nn.Sequential(nn.Flatten(), nn.ReLU()))
    x = torch.tensor([-2.0, 3.0]).view(1, 1, 1, 2).requires_grad_()
    out = model(x)
    assert out.tolist() == [[0.0, 3.0]]
    assert torch.autograd.grad(out.sum(), x)[0].flatten().tolist() == pytest.approx([LEAK, 1.0])


def test_a_plain_net_keeps_its_gradient_but_for_the_leak() -> None:
    found, expected = gradient(StraightThrough(net()), pixels()), gradient(net(), pixels())
    assert float(alike(found, expected).min()) > 0.999


def test_the_module_is_left_as_it_was() -> None:
    model = Defended(CUT["round"])
    twin = StraightThrough(model)
    gradient(twin, pixels())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in [*model.modules(), *twin.modules()])
    assert float(gradient(model, pixels()).abs().max()) == 0


def test_borrowed_gradients_by_hand() -> None:
    value, other = torch.tensor([5.0, 7.0]), torch.tensor([1.0, 2.0], requires_grad=True)
    borrowed = borrow(value, 3 * other)
    assert borrowed.tolist() == [5.0, 7.0]
    assert torch.autograd.grad(borrowed.sum(), other)[0].tolist() == [3.0, 3.0]


class Lucky(nn.Module):
    """Draws from every generator a model may have."""

    def __init__(self) -> None:
        super().__init__()
        self.own, self.theirs = torch.Generator(), np.random.default_rng(5)
        self.python, self.old = random.Random(3), np.random.RandomState(4)

    def forward(self, x: Tensor) -> Tensor:
        numbers = [random.random(), np.random.rand(), self.theirs.random(), self.python.random(), self.old.rand()]
        return x + torch.rand(1) + torch.rand(1, generator=self.own) + sum(numbers)


def test_seeds_decide_all_luck_and_leave_the_global_generators_alone() -> None:
    model, cpu, x = Lucky(), torch.device("cpu"), torch.zeros(1)
    before = (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate())
    found = []
    for seed in (1, 2**64 - 1, 1, 2):
        with seeded(seed, model, cpu):
            found.append(float(model(x)))
    assert found[0] == found[2]
    assert len(set(found)) == 3
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]


def test_fingerprints_depend_on_the_bits_alone() -> None:
    x = torch.rand(50, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    whole = fingerprints(x)
    assert [whole[i] for i in order.tolist()] == fingerprints(x[order])
    nudged = x.clone()
    nudged[:, 0, 0, 0] = torch.nextafter(nudged[:, 0, 0, 0], torch.ones(50))
    assert not set(fingerprints(nudged)) & set(whole)
    assert len(set(whole)) == 50
