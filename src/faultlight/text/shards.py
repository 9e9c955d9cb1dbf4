"""One step's gradient, computed on several cores at once.

A recurrent network takes one character after the other, and the products of one character are too small for PyTorch
to share among cores. A GRU is gone through by `run_gru`, which shares them all the same; of an LSTM's batch each core
takes a share and goes through the whole of it alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from faultlight.text.gru import run_gru
from faultlight.text.model import CharModel, State
from faultlight.text.shape import Shape


class Shards:
    """Workers that each take a share of a batch; made by `shards`."""

    def __init__(self, count: int, pool: ThreadPoolExecutor | None):
        self.count, self._pool = count, pool

    def gradient(
        self, model: CharModel, x: Int64[Tensor, "b t"], due: Int64[Tensor, "b t"], state: State | None
    ) -> tuple[Float[Tensor, ""], State]:
        """Put the gradient of the mean loss into the weights' `grad`; return the loss and the state after the last.

        The shares and the order of their sum are fixed, so a repetition with as many workers gives the same bits.
        """
        pieces = list(zip(x.chunk(self.count), due.chunk(self.count), strict=True))
        states: list[State | None] = [None] * len(pieces)
        if state:
            parts = [part.chunk(self.count, 1) for part in state]
            states = [tuple(each[row].contiguous() for each in parts) for row in range(len(pieces))]
        masks = self._masks(model, x)
        jobs = [
            (model, given, wanted, before, mask, len(x))
            for (given, wanted), before, mask in zip(pieces, states, masks, strict=True)
        ]
        run = self._pool.map if self._pool else map
        found = list(run(_share, jobs))
        for weight, *grads in zip(model.parameters(), *(grads for _, grads, _ in found), strict=True):
            weight.grad = torch.stack(grads).sum(0) if len(grads) > 1 else grads[0]
        after = tuple(torch.cat(parts, 1) for parts in zip(*(after for _, _, after in found), strict=True))
        return torch.stack([loss for loss, _, _ in found]).sum(), after

    def _masks(self, model: CharModel, x: Tensor) -> list[Tensor | None]:
        # Drawn here: the workers share a generator, whose numbers would go to whichever of them comes first.
        share, rows = model.shape.dropout, x.chunk(self.count)
        if self.count == 1 or not share or not model.training:
            return [None] * len(rows)
        kept = torch.empty(*x.shape, model.shape.hidden).bernoulli_(1 - share) / (1 - share)
        return list(kept.chunk(self.count))


@contextmanager
def shards(count: int, device: str, shape: Shape) -> Iterator[Shards]:
    """Give workers for a run, each on one processor thread.

    One alone for a GRU, on a GPU, and where dropout lies between layers: PyTorch draws that itself, from one generator,
    whose numbers would go to whichever worker comes first.
    """
    if count < 2 or device != "cpu" or shape.cell == "gru" or (shape.dropout and shape.layers > 1):
        yield Shards(1, None)
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield Shards(count, pool)
    finally:
        torch.set_num_threads(threads)


def _share(
    job: tuple[CharModel, Tensor, Tensor, State | None, Tensor | None, int],
) -> tuple[Tensor, tuple[Tensor, ...], State]:
    model, x, due, state, mask, rows = job
    with torch.enable_grad():
        if isinstance(model.recurrent, nn.GRU) and x.device.type == "cpu":
            hidden, ends = run_gru(model.recurrent, model.embedding, x, state[0] if state else None)
            logits, due, after = model.decoder(model.dropout(hidden)), due.t(), (ends,)
        else:
            logits, after = model(x, state, mask)
        loss = functional.cross_entropy(logits.flatten(0, 1), due.flatten()) * (len(x) / rows)
        grads = torch.autograd.grad(loss, list(model.parameters()))
    return loss.detach(), grads, tuple(part.detach() for part in after)
