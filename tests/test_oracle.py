"""The oracle: pieces of one shape, every question remembered, gradients that are the model's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import toys
from faultlight import losses
from faultlight.evaluation.oracle import RecordingOracle, evaluate, piece_rows
from faultlight.runtime import is_out_of_memory

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


class Shapes:
    """A model that remembers the shapes it was shown."""

    def __init__(self, net: nn.Module):
        self.net, self.seen = net, list[int]()

    def __call__(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        logits: Tensor = self.net(x)
        return logits


@pytest.mark.parametrize(
    ("shape", "rows"), [((1, 8, 8), 128), ((1, 28, 28), 128), ((3, 32, 32), 64), ((3, 224, 224), 32), ((1, 1, 1), 128)]
)
def test_rows_of_a_piece_depend_on_the_shape_alone(shape: tuple[int, ...], rows: int) -> None:
    assert piece_rows(shape, CPU) == rows
    assert piece_rows(shape, CUDA) == 16 * rows


@pytest.mark.parametrize(("count", "pieces"), [(1, 1), (4, 1), (5, 2), (11, 3)])
def test_every_piece_has_the_same_shape(count: int, pieces: int) -> None:
    net = toys.linear(3)
    x = torch.rand(count, *toys.SHAPE, generator=torch.Generator().manual_seed(0))
    model = Shapes(net)
    found = evaluate(model, x, 4)
    assert model.seen == [4] * pieces
    assert torch.allclose(found, net(x), atol=1e-6)


def test_an_answer_does_not_depend_on_the_company() -> None:
    net = toys.convolutional(10)
    x = torch.rand(50, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    whole = evaluate(net, x, 32)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    assert torch.equal(evaluate(net, x[order], 32), whole[order])
    assert torch.equal(torch.cat([evaluate(net, x[i : i + 1], 32) for i in range(50)]), whole)


def test_gradient_is_that_of_each_image_alone() -> None:
    net = toys.convolutional(4)
    x = torch.rand(7, 2, 6, 6, generator=torch.Generator().manual_seed(2))
    y = torch.arange(7) % 4
    oracle = RecordingOracle(net, 3)
    logits, value, gradient = oracle.differentiate(x, lambda z, part: losses.cross_entropy(z, y[part]))
    leaf = x.clone().requires_grad_()
    expected = torch.nn.functional.cross_entropy(net(leaf), y, reduction="none")
    (slope,) = torch.autograd.grad(expected.sum(), leaf)
    assert torch.allclose(logits, net(x), atol=1e-5)
    assert torch.allclose(value, expected, atol=1e-5)
    assert torch.allclose(gradient, slope, atol=1e-5)
    assert not logits.requires_grad
    assert all(parameter.grad is None for parameter in net.parameters())


def test_questions_are_remembered_until_they_are_forgotten() -> None:
    net = toys.linear(2)
    x = torch.rand(5, *toys.SHAPE)
    oracle = RecordingOracle(net, 4)
    logits = oracle.logits(x)
    oracle.differentiate(x + 1, lambda z, part: z[:, 0])
    first, second = oracle.forget()
    assert (torch.equal(first.x, x), torch.equal(first.logits, logits), first.backward) == (True, True, False)
    assert (torch.equal(second.x, x + 1), second.backward) == (True, True)
    assert oracle.forget() == []


class Detached(nn.Module):
    """A model whose logits know nothing of their input."""

    def forward(self, x: Tensor) -> Tensor:
        return x.detach().flatten(1)[:, :2]


class Constant(nn.Module):
    """A model whose logits have a gradient, but none by the input."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.bias.expand(len(x), 2)


@pytest.mark.parametrize("model", [Detached(), Constant()])
def test_a_model_without_a_gradient_gives_zeros(model: nn.Module) -> None:
    x = torch.rand(3, *toys.SHAPE)
    _, _, gradient = RecordingOracle(model, 2).differentiate(x, lambda z, part: z[:, 1] - z[:, 0])
    assert torch.equal(gradient, torch.zeros_like(x))


@pytest.mark.parametrize(
    ("error", "lack"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("a kind of memory"), False),
    ],
)
def test_lack_of_memory_is_told_from_other_faults(error: Exception, lack: bool) -> None:
    assert is_out_of_memory(error) == lack
