"""The contract between an attack and the engine.

An attack is a frozen dataclass with a field `steps` and two pure methods:

    start(problem) -> state            the first points
    step(problem, state) -> state      one step of every row; asks `problem` for logits and gradients

The state is a frozen dataclass of tensors, one row an image, with a field `x`: the points proposed next. The engine
judges every point that an attack evaluates, so an attack neither tests for success nor claims it. Two optional fields
make further jobs of an image: `restarts` (runs from other random starts) and `targets` (a run at each of the k most
likely wrong classes; 0 is untargeted).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from faultlight import geometry, rng
from faultlight.losses import LossName, loss
from faultlight.threat import Threat

Pixels = Float32[Tensor, "n c h w"]
Rows = Int64[Tensor, " n"]
LossFunction = Callable[[Tensor, slice], Tensor]


@runtime_checkable
class Oracle(Protocol):
    """What answers an attack's questions about the model: it counts passes and remembers each point and its logits."""

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits (n, classes) of pixels x: one forward pass a row."""

    def differentiate(self, x: Tensor, function: LossFunction) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits, the function's value a row and its gradient by x: one forward and one backward pass a row."""


@dataclass(frozen=True)
class Problem:
    """What an attack is asked to solve, a row a job.

    Args:
        x: clean pixels in [0, 1], (n, c, h, w).
        y: labels, (n,).
        target: the class to reach, (n,); −1 where any wrong class will do.
        ids: image ids, (n,).
        restart: 0 for the first run of an image, then 1, 2, …, (n,).
        step: which step each row is at, (n,): 0 in `start`, then 1, 2, …
        threat: the ball.
        key: the key of the probe's random numbers (`rng.key(seed, probe)`).
        oracle: the model, as far as an attack may see it.
        bounds: `geometry.box(x, threat)` where it is known already, for it is needed at every step; None finds it anew.
    """

    x: Pixels
    y: Rows
    target: Rows
    ids: Rows
    restart: Rows
    step: Rows
    threat: Threat
    key: int
    oracle: Oracle
    bounds: tuple[Pixels, Pixels] | None = None

    def logits(self, x: Pixels) -> Float32[Tensor, "n classes"]:
        """Return the logits of the points x."""
        return self.oracle.logits(x)

    def gradient(self, x: Pixels, name: LossName) -> tuple[Float32[Tensor, " n"], Pixels]:
        """Return the named loss at the points x and its gradient by x."""
        _, value, gradient = self.differentiate(x, name)
        return value, gradient

    def differentiate(self, x: Pixels, name: LossName) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits, the named loss and its gradient at the points x."""

        def function(logits: Tensor, part: slice) -> Tensor:
            return loss(name, logits, self.y[part], self.target[part])

        return self.oracle.differentiate(x, function)

    def project(self, candidate: Pixels) -> Pixels:
        """Move the points into the ball and into [0, 1]."""
        if self.bounds is not None and self.threat.norm == "linf":
            return torch.clamp(candidate, *self.bounds)
        return geometry.project(candidate, self.x, self.threat)

    def uniform(self, shape: tuple[int, ...] | None = None) -> Tensor:
        """Return numbers uniform in [0, 1), (n, *shape), fixed by seed, probe, image, target, restart and step."""
        return rng.uniform(self.key, self.ids, self._counter(), shape or tuple(self.x.shape[1:]))

    def normal(self, shape: tuple[int, ...] | None = None) -> Tensor:
        """Return standard normal numbers, (n, *shape), fixed in the same way."""
        return rng.normal(self.key, self.ids, self._counter(), shape or tuple(self.x.shape[1:]))

    def _counter(self) -> Tensor:
        return self.step + (self.restart << 32) + ((self.target + 1) << 44)


@runtime_checkable
class Attack(Protocol):
    """A frozen dataclass of hyper-parameters that proposes candidates; see the module's text."""

    @property
    def steps(self) -> int:
        """How many steps a job takes at most."""

    def start(self, problem: Problem) -> Any:
        """Return the state before the first step."""

    def step(self, problem: Problem, state: Any) -> Any:
        """Return the state after one step."""


@dataclass(frozen=True)
class Point:
    """The state of an attack that remembers nothing but where it stands."""

    x: Pixels


RowsOf = TypeVar("RowsOf")


def take(state: RowsOf, rows: Tensor) -> RowsOf:
    """Return the given rows of a dataclass of tensors."""
    return _map(lambda value: value[rows], state)


def join(first: RowsOf, second: RowsOf) -> RowsOf:
    """Return two dataclasses of tensors, one below the other."""
    return _map(lambda a, b: torch.cat([a, b]), first, second)


def _map(function: Callable[..., Tensor], first: RowsOf, *others: RowsOf) -> RowsOf:
    names = [field.name for field in dataclasses.fields(first)]  # type: ignore[arg-type]
    changed = {name: function(*(getattr(state, name) for state in (first, *others))) for name in names}
    return dataclasses.replace(first, **changed)  # type: ignore[type-var]
