"""One step's gradient, computed on several cores at once.

A recurrent network takes one character after the other, and the products of one character are too small to share among
cores. So each core takes a share of the batch and goes through the whole of it alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from faultlight.text.alphabet import Alphabet
from faultlight.text.model import CharModel, State
from faultlight.text.recipe import TextRecipe
from faultlight.text.shape import Shape
from faultlight.text.share import Share, share_gradient
from faultlight.text.worker import Worker

# Rows that a process must have for its products to be worth it.
_ROWS = 25
# Characters in all of a run that is worth the seconds in which a process starts.
_CHARACTERS = 2_000_000


class Shards:
    """This process and others that each take a share of a batch; made by `shards`."""

    def __init__(self, workers: Sequence[Worker] = ()):
        self._workers = workers

    @property
    def count(self) -> int:
        """How many shares a batch has."""
        return 1 + len(self._workers)

    def gradient(
        self, model: CharModel, x: Int64[Tensor, "b t"], due: Int64[Tensor, "b t"], state: State | None
    ) -> tuple[Float[Tensor, ""], State]:
        """Put the gradient of the mean loss into the weights' `grad`; return the loss and the state after the last.

        The shares and the order of their sum are fixed, so a repetition with as many workers gives the same bits.
        """
        own, *others = self._shares(model, x, due, state)
        for worker, share in zip(self._workers, others, strict=False):
            worker.ask(model, share)
        found = [share_gradient(model, own), *(worker.answer() for worker in self._workers[: len(others)])]
        grads = torch.stack([each.grads for each in found]).sum(0)
        place = 0
        for weight in model.parameters():
            weight.grad = grads[place : place + weight.numel()].view_as(weight)
            place += weight.numel()
        after = tuple(torch.cat(parts, 1) for parts in zip(*(each.after for each in found), strict=True))
        return torch.stack([each.loss for each in found]).sum(), after

    def _shares(self, model: CharModel, x: Tensor, due: Tensor, state: State | None) -> list[Share]:
        rows = x.chunk(self.count)
        states: list[State | None] = [None] * len(rows)
        if state:
            parts = [part.chunk(self.count, 1) for part in state]
            states = [tuple(each[place].contiguous() for each in parts) for place in range(len(rows))]
        seeds: list[Tensor | None] = [None] * len(rows)
        if model.shape.dropout and model.training and x.device.type == "cpu":
            # Row by row, so that it does not matter how many rows a process has.
            seeds = list(torch.randint(2**62, (len(x),)).chunk(self.count))
        # Copies, since with a part of a tensor all of it would be sent.
        given = zip(rows, due.chunk(self.count), states, seeds, strict=True)
        return [Share(part.clone(), wanted.clone(), before, some, len(x)) for part, wanted, before, some in given]


def shares_of(recipe: TextRecipe, device: str) -> int:
    """Return among how many processes a run's batches are best shared.

    One on a GPU, where dropout lies between layers, which PyTorch draws itself, and for short runs; otherwise as many
    as PyTorch has threads, as long as each has rows enough.
    """
    between = recipe.shape.dropout and recipe.shape.layers > 1
    if device != "cpu" or between or recipe.steps * recipe.batch * recipe.chunk < _CHARACTERS:
        return 1
    return max(1, min(torch.get_num_threads(), recipe.batch // _ROWS))


@contextmanager
def shards(count: int, alphabet: Alphabet, shape: Shape) -> Iterator[Shards]:
    """Start processes that stay for a run, so many with this one, each on one core.

    Raises:
        FaultlightError: one of them ended before its time.
    """
    if count < 2:
        yield Shards()
        return
    threads = torch.get_num_threads()
    with ExitStack() as stack:
        workers = [stack.enter_context(closing(Worker(alphabet, shape))) for _ in range(count - 1)]
        torch.set_num_threads(1)
        try:
            yield Shards(workers)
        finally:
            torch.set_num_threads(threads)
