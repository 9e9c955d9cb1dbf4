"""Several processes that train one network, as `torchrun` starts them: what each does, and how they agree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, distributed

from faultlight.errors import InputError

Told = TypeVar("Told")


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this one is; on its own it is the first of one.

    Args:
        rank: from 0; the first one writes, shows progress and decides.
        count: processes in all.
        local: from 0, the number on this machine, which is also that of its GPU.
    """

    rank: int = 0
    count: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is no other."""
        return self.count == 1

    def device(self, asked: str) -> str:
        """Return this process's own device.

        Raises:
            InputError: one GPU was named for several processes.
        """
        if self.alone or asked == "cpu":
            return asked
        if asked != "cuda":
            raise InputError(f"torchrun gives each process a GPU of its own, so say --device cuda, not {asked}.")
        return f"cuda:{self.local}"

    def share(self, rows: int) -> Share:
        """Return this process's part of a batch of so many rows; the parts differ by one row at most.

        Raises:
            InputError: there are fewer rows than processes.
        """
        if rows < self.count:
            raise InputError(f"a batch of {rows} cannot be shared by {self.count} processes; start fewer of them.")
        return Share(self, rows, self.rank * rows // self.count, (self.rank + 1) * rows // self.count)

    def told(self, value: Told) -> Told:
        """Return the first process's value; each waits here for it."""
        if self.alone:
            return value
        held = [value]
        distributed.broadcast_object_list(held, src=0, device=torch.device("cpu"))
        return held[0]

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Return for each flag whether it is set in any process."""
        if self.alone:
            return flags
        # On the processor, so that a GPU that is still at work need not be waited for.
        held = torch.tensor(flags, dtype=torch.int32)
        distributed.all_reduce(held, distributed.ReduceOp.MAX)
        return tuple(map(bool, held.tolist()))

    @contextmanager
    def after_the_first(self) -> Iterator[None]:
        """Let the first process go ahead, and the others when it is done: what it fetches is there for them."""
        if not self.first:
            self.told(None)
        yield
        if self.first:
            self.told(None)


ALONE = Ranks()


@dataclass(frozen=True)
class Share:
    """The rows of a batch that one process takes.

    Args:
        ranks: the processes.
        rows: of the whole batch.
        start: the first one taken.
        stop: the one behind the last.
    """

    ranks: Ranks = ALONE
    rows: int = 0
    start: int = 0
    stop: int = 0

    def own(self, whole: Tensor) -> Tensor:
        """Return this process's rows."""
        return whole if self.ranks.alone else whole[self.start : self.stop]

    def whole(self, own: Tensor) -> Tensor:
        """Return the rows of all processes in the batch's order; no gradient passes."""
        if self.ranks.alone:
            return own
        # Parts may differ in length, which gathering would not allow; adding zeros changes no number.
        held = own.new_zeros(self.rows, *own.shape[1:])
        held[self.start : self.stop] = own.detach()
        distributed.all_reduce(held)
        return held

    def weigh(self, mean: Tensor) -> Tensor:
        """Return a mean over these rows times their share of the batch: summed over processes, the batch's mean."""
        return mean if self.ranks.alone else mean * ((self.stop - self.start) / self.rows)

    def total(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return each tensor's sum over the processes, in one exchange.

        The run calls this on its gradients after the backward pass, in place of DistributedDataParallel, whose hooks
        count on one forward pass a step: objectives call the network several times, in either mode, with other weights
        (AWP) and through bounds that never call `forward` (IBP). The sums are the same; what is lost is sending early
        gradients while late ones are computed.
        """
        if self.ranks.alone:
            return list(tensors)
        flat = torch.cat([each.detach().float().flatten() for each in tensors])
        distributed.all_reduce(flat)
        parts = torch.split(flat, [each.numel() for each in tensors])
        return [part.view(each.shape) for part, each in zip(parts, tensors, strict=True)]

    def sum_gradients(self, weights: Sequence[Tensor], metrics: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Put the whole batch's gradient on the weights, and return the whole batch's metrics.

        Args:
            weights: with the gradients of a weighed loss, the same ones in every process.
            metrics: means over these rows, by name.
        """
        if self.ranks.alone:
            return dict(metrics)
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        sums = self.total([*gradients, *(self.weigh(value) for value in metrics.values())])
        # Copied, because a fused optimiser wants a gradient in the memory layout of its weight.
        torch._foreach_copy_(gradients, sums[: len(gradients)])
        return dict(zip(metrics, sums[len(gradients) :], strict=True))


WHOLE = Share()
