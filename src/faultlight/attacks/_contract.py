"""The contract between an attack and the engine.

An attack is a frozen dataclass with a field `steps` and two pure methods:

    start(problem) -> state            the first points
    step(problem, state) -> state      one step of every row; asks `problem` for logits and gradients

The state is a frozen dataclass of tensors, one row an image, with a field `x`: the points proposed next. The engine
judges every point that an attack evaluates, so an attack neither tests for success nor claims it. What else an attack
may have, each optional:

    restarts, targets   fields that make further jobs of an image: runs from other random starts; a run at each of the
                        k most likely wrong classes (0 is untargeted)
    points              how many points a row may be asked about in one question (row i's are k·i … k·i + k − 1), so
                        that the engine keeps so many times fewer jobs in flight
    minimal             class variable; True: it seeks the nearest twin. It may leave the ball, never the box. The
                        engine then keeps the nearest twin of all points asked, unless told to stop at the first
    norms               class variable: the norms it is made for; all of them when absent
    knowledge           class variable: what it must know of the model, "gradients" (when absent), "scores" or "nothing"
    finished            a field of the state, Bool (n,): rows with nothing left to do; their slot is given on
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
from faultlight.errors import InputError
from faultlight.losses import UNTARGETED, LossName, goal_margin, loss
from faultlight.threat import NORMS, Norm, Threat

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
        target: the class to aim at, (n,); −1 where any wrong class will do.
        ids: image ids, (n,).
        restart: 0 for the first run of an image, then 1, 2, …, (n,).
        step: which step each row is at, (n,): 0 in `start`, then 1, 2, …
        threat: the ball.
        key: the key of the probe's random numbers (`rng.key(seed, probe)`).
        oracle: the model, as far as an attack may see it.
        bounds: `geometry.box(x, threat)` where it is known already, for it is needed at every step; None finds it anew.
        goal: the class that a break has to reach, (n,), −1 where any wrong class counts; None is −1 everywhere. A job
            may aim at one class and still be content with another.
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
    goal: Rows | None = None

    def logits(self, x: Pixels) -> Float32[Tensor, "n classes"]:
        """Return the logits of the points x."""
        return self.oracle.logits(x)

    def gradient(self, x: Pixels, name: LossName) -> tuple[Float32[Tensor, " n"], Pixels]:
        """Return the named loss at the points x and its gradient by x."""
        _, value, gradient = self.differentiate(x, name)
        return value, gradient

    def differentiate(self, x: Pixels, name: LossName) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits, the named loss and its gradient at the points x, one or several a row as in `margin`."""
        points = len(x) // max(len(self.y), 1)
        y, target = self.y.repeat_interleave(points), self.target.repeat_interleave(points)

        def function(logits: Tensor, part: slice) -> Tensor:
            return loss(name, logits, y[part], target[part])

        return self.oracle.differentiate(x, function)

    def margin(self, logits: Float32[Tensor, "m classes"]) -> Float32[Tensor, " m"]:
        """Return by how much the goal is reached at points with these logits; above 0 it is.

        Of k points a row (m = k·n), row i's are k·i … k·i + k − 1.
        """
        points = len(logits) // max(len(self.y), 1)
        goal = torch.full_like(self.y, UNTARGETED) if self.goal is None else self.goal
        return goal_margin(logits, self.y.repeat_interleave(points), goal.repeat_interleave(points))

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


def restarts(attack: Attack) -> int:
    """Return the attack's optional field `restarts`."""
    return int(getattr(attack, "restarts", 1))


def targets(attack: Attack) -> int:
    """Return the attack's optional field `targets`."""
    return int(getattr(attack, "targets", 0))


def points(attack: Attack) -> int:
    """Return how many points a row of the attack may ask about at once."""
    return int(getattr(attack, "points", 1))


def is_minimal(attack: Attack) -> bool:
    """Return whether the attack seeks the nearest twin."""
    return bool(getattr(attack, "minimal", False))


def norms(attack: Attack | type[Attack]) -> tuple[Norm, ...]:
    """Return the norms that the attack is made for."""
    found: tuple[Norm, ...] = getattr(attack, "norms", NORMS)
    return found


def check_norm(attack: Attack, threat: Threat) -> None:
    """Raise InputError where the attack is not made for the threat's norm."""
    if threat.norm not in norms(attack):
        name = type(attack).__name__
        raise InputError(f"{name} is made for {' and '.join(norms(attack))}, not for {threat.norm}; choose another.")


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
