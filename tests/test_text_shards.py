"""A batch shared among processes gives the gradient of the whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from faultlight.errors import FaultlightError
from faultlight.text.model import CharModel, build_model
from faultlight.text.shape import Shape
from faultlight.text.shards import Shards, shards, shares_of
from text_toys import LETTERS, model, recipe


def some_text(rows: int) -> Tensor:
    return torch.randint(4, (rows, 12), generator=torch.Generator().manual_seed(0))


def whole(net: CharModel, text: Tensor, state: Any) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Loss, gradients and state after, by the model's own layers."""
    logits, after = net(text[:, :-1], state)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), text[:, 1:].flatten())
    return loss, torch.autograd.grad(loss, list(net.parameters())), after


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_shares_sum_to_the_gradient_of_the_whole_batch(cell: str) -> None:
    """Five rows among three, and one row, for which two have nothing to do; with a state before and without."""
    net, threads = model(cell), torch.get_num_threads()
    text = some_text(5)
    before = tuple(part.detach() for part in net(text[:, :3])[1])
    with shards(3, LETTERS, net.shape) as workers:
        assert workers.count == 3
        assert torch.get_num_threads() == 1
        for rows, state in ((5, None), (5, before), (1, None)):
            due_loss, due, due_after = whole(net, text[:rows], state)
            loss, after = workers.gradient(net, text[:rows, :-1], text[:rows, 1:], state)
            first = [weight.grad.clone() for weight in net.parameters() if weight.grad is not None]
            workers.gradient(net, text[:rows, :-1], text[:rows, 1:], state)
            assert loss.item() == pytest.approx(due_loss.item(), abs=1e-6)
            for weight, one, exact in zip(net.parameters(), first, due, strict=True):
                assert torch.allclose(one, exact, atol=1e-6)
                assert weight.grad is not None
                assert torch.equal(weight.grad, one)
            for part, exact in zip(after, due_after, strict=True):
                assert torch.allclose(part, exact, atol=1e-6)
    assert torch.get_num_threads() == threads


def test_processes_learn_from_the_weights_as_they_stand() -> None:
    net, text = model("gru"), some_text(4)
    with shards(2, LETTERS, net.shape) as workers:
        first, _ = workers.gradient(net, text[:, :-1], text[:, 1:], None)
        with torch.no_grad():
            net.decoder.bias[0] += 3
        second, _ = workers.gradient(net, text[:, :-1], text[:, 1:], None)
    assert second.item() == pytest.approx(whole(net, text, None)[0].item(), abs=1e-6)
    assert abs(second.item() - first.item()) > 0.1


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_dropout_behind_the_last_layer_is_drawn_before_the_work_is_shared(cell: str) -> None:
    net = build_model(LETTERS, Shape(cell, 5, 7, 1, 0.5)).train()  # type: ignore[arg-type]
    text, losses = some_text(6), []
    with torch.random.fork_rng(), shards(2, LETTERS, net.shape) as workers:
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            losses.append(workers.gradient(net, text[:, :-1], text[:, 1:], None)[0].item())
    assert losses[0] == losses[1] != losses[2]


def test_a_process_that_ends_before_its_time_is_said() -> None:
    net, text = model("gru"), some_text(4)
    with shards(2, LETTERS, net.shape) as them:
        them.gradient(net, text[:, :-1], text[:, 1:], None)
        process = them._workers[0]._process
        process.kill()
        process.wait()
        with pytest.raises(FaultlightError, match=r"ended with code -9, .* --resume"):
            them.gradient(net, text[:, :-1], text[:, 1:], None)


def test_short_runs_few_rows_and_dropout_between_layers_stay_in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    long = {"steps": 10_000, "batch": 100, "chunk": 200}
    assert shares_of(recipe(**long), "cpu") == 4
    assert shares_of(recipe(**long), "cuda") == 1
    assert shares_of(recipe(**long | {"batch": 40}), "cpu") == 1
    assert shares_of(recipe(**long | {"steps": 99}), "cpu") == 1
    assert shares_of(recipe(**long, dropout=0.2), "cpu") == 1
    assert shares_of(recipe(**long | {"layers": 1}, dropout=0.2), "cpu") == 4
    assert Shards().count == 1
