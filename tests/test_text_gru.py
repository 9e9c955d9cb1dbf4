"""The GRU whose gradient is written out says what PyTorch's says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from faultlight.text.gru import run_gru

UNITS = 7


def layers(count: int, dropout: float = 0.0) -> tuple[nn.GRU, nn.Embedding]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        recurrent = nn.GRU(5, UNITS, count, batch_first=True, dropout=dropout)
        return recurrent.double(), nn.Embedding(11, 5).double()


def characters(batch: int, steps: int) -> Tensor:
    return torch.randint(11, (batch, steps), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("steps", [1, 8, 19])
@pytest.mark.parametrize("batch", [1, 3, 32])
@pytest.mark.parametrize("carried", [False, True])
def test_states_and_every_gradient_are_pytorchs(count: int, steps: int, batch: int, carried: bool) -> None:
    """In double precision, where only the order of sums differs."""
    recurrent, embedding = layers(count)
    x, draw = characters(batch, steps), torch.Generator().manual_seed(2)
    state = torch.randn(count, batch, UNITS, generator=draw, dtype=torch.double, requires_grad=True)
    before = state if carried else None
    weights = [*recurrent.parameters(), *embedding.parameters(), *([state] if carried else [])]
    due, due_ends = recurrent(embedding(x), before)
    found, ends = run_gru(recurrent, embedding, x, before)
    assert torch.allclose(found.transpose(0, 1), due, rtol=0, atol=1e-12)
    assert torch.allclose(ends, due_ends, rtol=0, atol=1e-12)
    pull = torch.randn(due.shape, generator=draw, dtype=torch.double)
    end_pull = torch.randn(due_ends.shape, generator=draw, dtype=torch.double)
    due_grads = torch.autograd.grad((due * pull).sum() + (due_ends * end_pull).sum(), weights)
    grads = torch.autograd.grad((found.transpose(0, 1) * pull).sum() + (ends * end_pull).sum(), weights)
    for one, exact in zip(grads, due_grads, strict=True):
        assert torch.allclose(one, exact, rtol=1e-10, atol=1e-12)


def test_one_step_by_hand() -> None:
    """With all weights zero, r = z = 1/2 and n = tanh(b_n + c_n / 2); with h = 0, h' = n / 2."""
    recurrent, embedding = layers(1)
    for weight in recurrent.parameters():
        nn.init.zeros_(weight)
    with torch.no_grad():
        recurrent.bias_ih_l0[2 * UNITS :] = 0.25
        recurrent.bias_hh_l0[2 * UNITS :] = 0.5
    found, _ = run_gru(recurrent, embedding, characters(1, 1), None)
    assert found.flatten().tolist() == pytest.approx([0.5 * torch.tensor(0.5).tanh().item()] * UNITS)


def test_dropout_between_layers_is_drawn_in_training_alone() -> None:
    recurrent, embedding = layers(2, dropout=0.5)
    x = characters(4, 6)
    still = [run_gru(recurrent.eval(), embedding, x, None)[0] for _ in range(2)]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = [run_gru(recurrent.train(), embedding, x, None)[0] for _ in range(2)]
    assert torch.equal(*still)
    assert not torch.allclose(*drawn)


def test_a_gradient_of_the_gradient_is_refused() -> None:
    recurrent, embedding = layers(1)
    out, _ = run_gru(recurrent, embedding, characters(2, 3), None)
    (grad,) = torch.autograd.grad(out.square().sum(), [recurrent.weight_hh_l0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()
