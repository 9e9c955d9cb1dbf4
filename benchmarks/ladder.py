"""What each idea gives: the same PGD in a bare loop, to which the ideas are added one by one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.contenders import Problem
from faultlight.data.images import Images
from faultlight.evaluation.oracle import piece_rows
from faultlight.models.rewriting import rewritten


@dataclass(frozen=True)
class Rung:
    """A bare loop with some of the ideas.

    Args:
        weights: compute the gradients of the weights too, as `loss.backward()` does.
        keep: have the allocator keep freed memory.
        fold: fold each batch norm into the convolution before it.
        layout: lay images and weights out channels-last.
        low: compute in bfloat16.
        pieces: ask the model in pieces of the engine's size, not in the peer's best batch.
        right: leave out the images that are wrong already.
        drop: leave out an image once it is broken: never, or after a test that is a forward pass of its own, or after
            a test that is the forward pass of the next step.
    """

    weights: bool = False
    keep: bool = True
    fold: bool = True
    layout: bool = True
    low: bool = True
    pieces: bool = True
    right: bool = True
    drop: Literal["never", "apart", "merged"] = "merged"


_BARE = {"weights": False, "keep": False, "fold": False, "layout": False, "low": False, "pieces": False, "right": False}
LADDER: dict[str, Rung] = {
    "bare loop": Rung(**_BARE | {"weights": True}, drop="never"),
    "+ no weight gradients": Rung(**_BARE, drop="never"),
    "+ allocator keeps memory": Rung(fold=False, layout=False, low=False, pieces=False, right=False, drop="never"),
    "+ batch norm folded": Rung(layout=False, low=False, pieces=False, right=False, drop="never"),
    "+ channels-last": Rung(low=False, pieces=False, right=False, drop="never"),
    "+ bfloat16": Rung(pieces=False, right=False, drop="never"),
    "+ batches of the engine's size": Rung(right=False, drop="never"),
    "+ images wrong already left out": Rung(drop="never"),
    "+ broken images dropped": Rung(drop="apart"),
    "+ success test merged": Rung(),
}


@dataclass(frozen=True)
class _Loop:
    rung: Rung
    model: nn.Module
    rows: int

    def lay(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last) if self.rung.layout else x

    def logits(self, x: Tensor) -> Tensor:
        kind = torch.bfloat16 if self.rung.low else torch.float32
        logits: Tensor = self.model(self.lay(x.to(kind)))
        return logits.float()

    def test(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([self.logits(part) for part in x.split(self.rows)])

    def differentiate(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        pairs = [self._piece(*part) for part in zip(x.split(self.rows), y.split(self.rows), strict=True)]
        logits, gradient = zip(*pairs, strict=True)
        return torch.cat(logits), torch.cat(gradient)

    def _piece(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        leaf = x.detach().requires_grad_()
        logits = self.logits(leaf)
        loss = functional.cross_entropy(logits, y, reduction="sum")
        if not self.rung.weights:
            return logits.detach(), torch.autograd.grad(loss, leaf)[0]
        loss.backward()
        assert leaf.grad is not None
        return logits.detach(), leaf.grad


def climb(rung: Rung, module: nn.Module, images: Images, problem: Problem, batch: int) -> Tensor:
    """Attack the images by the bare loop with the ideas of one rung, and return the points it ended at."""
    loop = _Loop(rung, _prepared(rung, module), piece_rows(images.shape, images.x.device) if rung.pieces else batch)
    x, y = images.x, images.y
    live = torch.arange(len(x))
    if rung.right:
        live = live[loop.test(x).argmax(1) == y]
    generator = torch.Generator().manual_seed(0)
    noise = (2 * torch.rand(x.shape, generator=generator) - 1) * problem.radius
    point = torch.where(torch.isin(torch.arange(len(x)), live).view(-1, 1, 1, 1), (x + noise).clamp(0, 1), x)
    for _ in range(problem.steps):
        live = _step(loop, problem, images, point, live)
    return point


def _step(loop: _Loop, problem: Problem, images: Images, point: Tensor, live: Tensor) -> Tensor:
    """Move the live points in place, and return the rows that live on."""
    if loop.rung.drop == "apart" and len(live):
        live = live[loop.test(point[live]).argmax(1) == images.y[live]]
    if not len(live):
        return live
    here, x = point[live], images.x[live]
    logits, gradient = loop.differentiate(here, images.y[live])
    ahead = here + problem.length * gradient.sign()
    ahead = (x + (ahead - x).clamp(-problem.radius, problem.radius)).clamp(0, 1)
    stands = logits.argmax(1) == images.y[live]
    if loop.rung.drop != "merged":
        stands = torch.ones_like(stands)
    point[live[stands]] = ahead[stands]
    return live[stands]


def _prepared(rung: Rung, module: nn.Module) -> nn.Module:
    module = (rewritten(module) if rung.fold else module).requires_grad_(rung.weights)
    if rung.low:
        module = module.to(torch.bfloat16)
    if rung.layout:
        module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return module
