"""Attacks inside training: the audit's own attacks, driven by a plain loop over one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn

from faultlight import geometry
from faultlight.attacks._contract import Attack, LossFunction, Problem
from faultlight.threat import Threat

Pixels = Float32[Tensor, "n c h w"]
# A loss an image, of logits (n, classes), that the attack is to increase in place of its own.
Values = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class BatchOracle:
    """The model as an attack asks it during training: the whole batch at once, nothing counted or remembered.

    Args:
        model: pixels to logits, in the precision of the run.
        values: what every gradient is of; None leaves that to the attack.
    """

    model: Callable[[Tensor], Tensor]
    values: Values | None = None

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits of x."""
        with torch.no_grad():
            return self.model(x).float()

    def differentiate(self, x: Tensor, function: LossFunction) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits, the loss a row and its gradient by x; weights get no gradients."""
        leaf = x.detach().requires_grad_()
        with torch.enable_grad():
            logits = self.model(leaf).float()
            value = self.values(logits) if self.values else function(logits, slice(0, len(x)))
            (gradient,) = torch.autograd.grad(value.sum(), leaf)
        return logits.detach(), value.detach(), gradient


def pose(
    model: Callable[[Tensor], Tensor],
    x: Pixels,
    y: Int64[Tensor, " n"],
    ids: Int64[Tensor, " n"],
    threat: Threat,
    key: int,
    values: Values | None = None,
) -> Problem:
    """Return the problem of breaking a batch in training, untargeted, without restarts.

    Args:
        model: pixels to logits.
        x: clean pixels in [0, 1].
        y: labels.
        ids: one a row; together with `key` they decide every random number.
        threat: the ball.
        key: from `rng.key`, another one each step.
        values: the loss to increase in place of the attack's own.
    """
    zero = torch.zeros_like(y)
    bounds = geometry.box(x, threat) if threat.norm == "linf" else None
    return Problem(x, y, zero - 1, ids, zero, zero, threat, key, BatchOracle(model, values), bounds)


def run_attack(attack: Attack, problem: Problem, begin: Pixels | None = None) -> Pixels:
    """Return where an attack ends after all its steps, broken or not; `begin` replaces its first points."""
    state = attack.start(problem)
    if begin is not None:
        state = replace(state, x=begin)
    for step in range(1, attack.steps + 1):
        state = attack.step(replace(problem, step=torch.full_like(problem.y, step)), state)
    found: Pixels = state.x
    return found.detach()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode for a while: running statistics in batch norm, no dropout.

    In training mode each step of an attack would move the running statistics, towards images that do not exist.
    """
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
