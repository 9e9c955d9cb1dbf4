"""A batch shared among workers gives the gradient of the whole."""

from __future__ import annotations

import pytest
import torch

from faultlight.text.model import build_model
from faultlight.text.shape import Shape
from faultlight.text.shards import shards
from text_toys import LETTERS, model


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("carried", [False, True])
def test_shares_sum_to_the_gradient_of_the_whole_batch(cell: str, carried: bool) -> None:
    net = model(cell)
    text = torch.randint(4, (5, 12), generator=torch.Generator().manual_seed(0))
    before = net(text[:, :3])[1] if carried else None
    state = tuple(part.detach() for part in before) if before else None
    logits, after = net(text[:, :-1], state)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), text[:, 1:].flatten())
    due = torch.autograd.grad(loss, list(net.parameters()))
    threads = torch.get_num_threads()
    with shards(2, "cpu", net.shape) as workers:
        found, ends = workers.gradient(net, text[:, :-1], text[:, 1:], state)
        first = [weight.grad.clone() for weight in net.parameters() if weight.grad is not None]
        workers.gradient(net, text[:, :-1], text[:, 1:], state)
    assert workers.count == (1 if cell == "gru" else 2)
    assert torch.get_num_threads() == threads
    assert found.item() == pytest.approx(loss.item(), abs=1e-6)
    for weight, one, exact in zip(net.parameters(), first, due, strict=True):
        assert torch.allclose(one, exact, atol=1e-6)
        assert weight.grad is not None
        assert torch.equal(weight.grad, one)
    assert torch.allclose(ends[0], after[0], atol=1e-6)


def test_dropout_behind_the_last_layer_is_drawn_before_the_work_is_shared() -> None:
    net = build_model(LETTERS, Shape("lstm", 5, 7, 1, 0.5)).train()
    text = torch.randint(4, (6, 12), generator=torch.Generator().manual_seed(0))
    losses = []
    with torch.random.fork_rng(), shards(3, "cpu", net.shape) as workers:
        assert workers.count == 3
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            losses.append(workers.gradient(net, text[:, :-1], text[:, 1:], None)[0].item())
    assert losses[0] == losses[1] != losses[2]


def test_dropout_between_layers_is_left_to_one_worker() -> None:
    with shards(2, "cpu", Shape(layers=2, dropout=0.2)) as workers:
        assert workers.count == 1
