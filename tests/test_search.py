"""The search copy: one that disagrees is not used, and none has the last word."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import faultlight as fl
import toys
from faultlight.attacks.pgd import PGD
from faultlight.models import search
from faultlight.models.search import SearchCopy, compare, has_fast_bfloat16, multiply_adds, search_copy
from faultlight.models.subject import Subject
from faultlight.models.zoo import resnet18

SHAPE = (3, 8, 8)


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every processor computes in bfloat16, if slowly; whether one does it fast is beside the point here."""
    monkeypatch.setattr(search, "has_fast_bfloat16", lambda device: True)
    monkeypatch.setattr(search, "_WORTHWHILE", 0)
    # The hook that checks annotations in the tests would refuse the stand-ins with which a net is traced.
    monkeypatch.setattr(resnet18.BasicBlock, "forward", inspect.unwrap(resnet18.BasicBlock.forward))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def test_the_copy_computes_in_bfloat16_and_answers_in_float32() -> None:
    seen: list[torch.dtype] = []
    candidate = SearchCopy(nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(108, 4)).eval())
    convolution = next(module for module in candidate.modules() if isinstance(module, nn.Conv2d))
    convolution.register_forward_hook(lambda _module, _given, output: seen.append(output.dtype))
    x = torch.rand(2, *SHAPE, requires_grad=True)
    logits = candidate(x)
    (gradient,) = torch.autograd.grad(logits.sum(), x)
    assert (logits.dtype, gradient.dtype, seen) == (torch.float32, torch.float32, [torch.bfloat16])
    assert not any(parameter.requires_grad for parameter in candidate.parameters())


def subject() -> Subject:
    return Subject(toys.convolutional(5, shape=SHAPE), 5)


def sample(n: int = 64) -> Tensor:
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(1))


def test_a_copy_that_agrees_is_used() -> None:
    candidate, agreement = search_copy(subject(), sample())
    assert candidate is not None
    assert agreement is not None
    assert agreement.accepted
    assert agreement.labels >= 0.97
    assert agreement.signs >= 0.9
    assert str(agreement).startswith("bfloat16 search copy used: ")
    assert float((candidate(sample()) - subject()(sample())).abs().max()) < 0.3


class Delicate(nn.Module):
    """Oscillates within a bfloat16's spacing, so a copy knows neither its labels nor its slopes."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3 * 64, 5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(3000 * self.head(x.flatten(1)))


def test_a_copy_that_disagrees_is_not_used() -> None:
    candidate, agreement = search_copy(Subject(Delicate().eval(), 5), sample())
    assert candidate is None
    assert agreement is not None
    assert not agreement.accepted
    assert agreement.labels < 0.97
    assert str(agreement).startswith("bfloat16 search copy not used: ")


def test_wrong_slopes_alone_are_enough_to_refuse() -> None:
    """Equal labels, opposite gradients."""

    class Mirrored(nn.Module):
        def __init__(self, sign: float):
            super().__init__()
            self.sign = sign

        def forward(self, x: Tensor) -> Tensor:
            slope = self.sign * x.flatten(1)[:, :1]
            return torch.cat([slope, 10 - slope], dim=1)

    agreement = compare(Subject(Mirrored(1), 2), Mirrored(-1), sample(8))
    assert (agreement.labels, agreement.signs, agreement.accepted) == (1.0, 0.0, False)
    assert compare(Subject(Mirrored(1), 2), Mirrored(1), sample(8)).accepted


def test_a_model_equals_itself() -> None:
    agreement = compare(subject(), subject().module, sample(32))
    assert (agreement.labels, agreement.signs, agreement.accepted) == (1.0, 1.0, True)


class Particular(nn.Module):
    """Has no bfloat16 form."""

    def __init__(self, error: type[Exception]):
        super().__init__()
        self.head, self.error = nn.Linear(3 * 64, 5), error

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float32:
            raise self.error("\"kernel\" not implemented for 'BFloat16'")
        return self.head(x.flatten(1))


@pytest.mark.parametrize("error", [RuntimeError, NotImplementedError, TypeError])
def test_a_model_without_a_bfloat16_form_searches_for_itself(error: type[Exception]) -> None:
    assert search_copy(Subject(Particular(error).eval(), 5), sample()) == (None, None)


def test_a_model_without_a_gradient_searches_for_itself() -> None:
    class Detached(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.detach().flatten(1)[:, :5]

    assert search_copy(Subject(Detached(), 5), sample()) == (None, None)


def test_it_is_only_made_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_WORTHWHILE", multiply_adds(subject(), sample(1)) + 1)
    assert search_copy(subject(), sample()) == (None, None)


def test_without_fast_bfloat16_the_copy_is_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "has_fast_bfloat16", lambda device: False)
    candidate, agreement = search_copy(subject(), sample())
    assert candidate is not None
    assert {parameter.dtype for parameter in candidate.parameters()} == {torch.float32}
    assert str(agreement) == "float32 search copy used: 100.0 % of labels and 100.0 % of gradient signs agree"
    torch.testing.assert_close(candidate(sample()), subject()(sample()), rtol=1e-4, atol=1e-4)


def test_without_fast_bfloat16_only_convolutions_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "has_fast_bfloat16", lambda device: False)
    monkeypatch.setattr(search, "_WORTHWHILE", 0)
    assert search_copy(Subject(nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), 5), sample()) == (None, None)


def test_multiply_adds_by_hand() -> None:
    """4 maps of 8×8 from 3×3×3 patches, then 64 → 16 and 16 → 5."""
    counted = subject()
    assert multiply_adds(counted, sample(1)) == 4 * 64 * 27 + 64 * 16 + 16 * 5
    assert not any(module._forward_hooks for module in counted.module.modules())


@pytest.mark.parametrize(("amx", "avx"), [(True, False), (False, True), (True, True), (False, False)])
def test_fast_bfloat16_is_asked_of_the_processor(monkeypatch: pytest.MonkeyPatch, amx: bool, avx: bool) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)
    assert has_fast_bfloat16(torch.device("cpu")) == (amx or avx)
    assert not has_fast_bfloat16(torch.device("meta"))


def test_an_attack_on_the_copy_is_judged_by_the_original() -> None:
    net = toys.convolutional(5, shape=SHAPE)
    images = toys.images(net, 5, n=24, shape=SHAPE, spread=0.5)
    result = fl.attack(Subject(net, 5), images, PGD(steps=10), "linf:0.02", fast=True)
    with torch.no_grad():
        assert torch.equal(net(result.x).argmax(1) != images.y, result.broken)
    assert 0 < int(result.broken.sum()) < 24
    exact = fl.attack(Subject(net, 5), images, PGD(steps=10), "linf:0.02", fast=False)
    assert abs(int(result.broken.sum()) - int(exact.broken.sum())) <= 2
    assert not torch.equal(result.x, exact.x), "the copy was not used at all"
