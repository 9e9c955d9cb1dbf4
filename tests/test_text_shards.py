"""A batch shared among processes gives the gradient of the whole."""

from __future__ import annotations

import pickle
import select
from contextlib import closing
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from faultlight.errors import FaultlightError
from faultlight.text.model import CharModel, build_model
from faultlight.text.shape import Shape
from faultlight.text.shards import Shards, shards, shares_of
from faultlight.text.share import Share
from faultlight.text.worker import Worker
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
def test_dropout_behind_the_last_layer_is_the_same_however_the_rows_are_shared(cell: str) -> None:
    net = build_model(LETTERS, Shape(cell, 5, 7, 1, 0.5)).train()  # type: ignore[arg-type]
    text, losses = some_text(6), []
    with torch.random.fork_rng(), shards(3, LETTERS, net.shape) as workers:
        for seed, them in ((1, workers), (1, workers), (1, Shards()), (2, workers)):
            torch.manual_seed(seed)
            losses.append(them.gradient(net, text[:, :-1], text[:, 1:], None)[0].item())
    assert losses[0] == losses[1]
    assert losses[2] == pytest.approx(losses[0], abs=1e-6)
    assert abs(losses[3] - losses[0]) > 1e-4


def killed(worker: Worker) -> None:
    worker._process.kill()
    worker._process.wait()


def test_a_process_that_was_killed_is_said_whether_it_had_begun_to_answer_or_not() -> None:
    """The gradients of 200 units do not fit into a pipe, so that the answer is cut short."""
    net = build_model(LETTERS, Shape("gru", 5, 200, 1)).eval()
    text = some_text(2)
    share = Share(text[:, :-1], text[:, 1:], None, None, 2)
    for begun in (False, True):
        with closing(Worker(LETTERS, net.shape)) as worker:
            if begun:
                worker.ask(net, share)
                select.select([worker._process.stdout], [], [])
            killed(worker)
            next_step = worker.answer if begun else partial(worker.ask, net, share)
            with pytest.raises(FaultlightError, match=r"killed by signal 9, .* --resume"):
                next_step()


def test_an_error_in_a_process_is_told_by_the_parent_and_half_a_job_ends_it_quietly(
    capfd: pytest.CaptureFixture[str],
) -> None:
    net, text = model("gru"), some_text(2)
    with closing(Worker(LETTERS, net.shape)) as worker:
        worker.ask(net, Share(text[:, :-1] + 9, text[:, 1:], None, None, 2))
        with pytest.raises(RuntimeError, match=r"could not be computed:\n(.*\n)*IndexError"):
            worker.answer()
        assert worker._process.stdin is not None
        worker._process.stdin.write(pickle.dumps("a job")[:5])
    assert worker._process.returncode == 0
    assert capfd.readouterr().err == ""


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
