"""The engine where it seeks the nearest twin, runs an image's jobs side by side, or gives slots on early."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from jaxtyping import Bool
from torch import Tensor

import toys
from faultlight.attacks._contract import Pixels, Point, Problem
from faultlight.errors import InputError
from faultlight.evaluation.engine import Engine
from faultlight.evaluation.rows import Outcome
from faultlight.evaluation.slots import Settled
from faultlight.models.subject import Subject
from faultlight.threat import Norm
from test_engine import THREAT, Threshold, images

Script = tuple[float, ...]


@dataclass(frozen=True)
class Walk:
    """Asks about the image with its first pixel set to one value after the other."""

    values: Script
    minimal: ClassVar[bool] = True
    norms: ClassVar[tuple[Norm, ...]] = ("linf",)

    @property
    def steps(self) -> int:
        return len(self.values)

    def start(self, problem: Problem) -> Point:
        return Point(problem.x)

    def step(self, problem: Problem, state: Point) -> Point:
        x = problem.x.clone()
        x[:, 0, 0, 0] = torch.tensor(self.values)[problem.step - 1]
        problem.logits(x)
        return Point(x)


@dataclass(frozen=True)
class Asking:
    """Asks about all its values in one question."""

    values: Script
    steps: int = 1
    minimal: ClassVar[bool] = True

    @property
    def points(self) -> int:
        return len(self.values)

    def start(self, problem: Problem) -> Point:
        return Point(problem.x)

    def step(self, problem: Problem, state: Point) -> Point:
        x = problem.x.repeat_interleave(self.points, 0)
        x[:, 0, 0, 0] = torch.tensor(self.values).repeat(len(problem.x))
        problem.logits(x)
        return Point(problem.x)


def engine(
    attack: object, first: Script, nearest: bool = True, search: Callable[[Tensor], Tensor] | None = None
) -> Engine:
    running = toys.engine(Subject(Threshold(), 2), images(*first), attack, THREAT, search=search)
    return Engine(replace(running.probe, nearest=nearest), running.work, running.judge, 4)


def only(attack: object, first: float, **settings: object) -> Settled:
    (settled,) = toys.settle(engine(attack, (first,), **settings))  # type: ignore[arg-type]
    return settled


@pytest.mark.parametrize("attack", [Walk((0.5625, 0.53125, 0.546875)), Asking((0.5625, 0.53125, 0.546875))])
@pytest.mark.parametrize("copied", [False, True], ids=["judge's model", "copy"])
def test_the_nearest_of_all_successes_is_kept(attack: object, copied: bool) -> None:
    settled = only(attack, 0.4375, search=Threshold() if copied else None)
    assert settled.attempt.outcome == Outcome.BROKE
    assert settled.attempt.distance == 0.09375
    assert settled.twin is not None
    assert settled.twin[0, 0, 0] == 0.53125


def test_the_first_success_ends_it_unless_the_nearest_is_sought() -> None:
    settled = only(Walk((0.5625, 0.53125)), 0.4375, nearest=False)
    assert (settled.attempt.distance, settled.attempt.steps) == (0.125, 1)


@pytest.mark.parametrize("nearest", [False, True])
def test_a_minimal_attack_may_leave_the_ball_but_not_the_box(nearest: bool) -> None:
    beyond = only(Walk((0.75, 0.25)), 0.4375, nearest=nearest).attempt
    assert (beyond.outcome, beyond.claims_refused) == (Outcome.STOOD, 0)
    outside = only(Walk((0.75, -0.0625)), 0.03125, nearest=nearest).attempt
    assert outside.outcome == Outcome.REFUSED


def test_a_success_outside_the_ball_is_none() -> None:
    """The farther point breaks, the nearer one does not; only what lies inside counts, for the margin too."""
    settled = only(Walk((0.75, 0.46875)), 0.4375)
    assert settled.attempt.outcome == Outcome.STOOD
    assert settled.attempt.margin == pytest.approx(-0.3125)


def test_a_copy_that_claims_a_nearer_twin_is_overruled() -> None:
    def early(x: Tensor) -> Tensor:
        return Threshold()(x + 0.0625)

    settled = only(Walk((0.53125, 0.46875)), 0.4375, search=early)
    assert settled.attempt.distance == 0.09375
    assert settled.attempt.claims_refused == 1


def test_an_attack_is_held_to_its_norms() -> None:
    with pytest.raises(InputError, match="Walk is made for linf, not for l2"):
        toys.engine(Subject(Threshold(), 2), images(0.4), Walk((0.5,)), "l2:0.1")


@dataclass(frozen=True)
class Counted:
    x: Pixels
    finished: Bool[Tensor, " n"]


@dataclass(frozen=True)
class Early:
    """Is done with an image after as many steps as its id is above 50."""

    steps: int = 9

    def start(self, problem: Problem) -> Counted:
        return Counted(problem.x, torch.zeros_like(problem.ids, dtype=torch.bool))

    def step(self, problem: Problem, state: Counted) -> Counted:
        return Counted(state.x, problem.step >= problem.ids - 49)


def test_rows_that_are_finished_give_their_slot_on() -> None:
    settled = toys.settle(engine(Early(), (0.25, 0.25, 0.25), nearest=False))
    assert [one.attempt.steps for one in settled] == [1, 2, 3]


@dataclass(frozen=True)
class Restarting:
    """Run r sets the first pixel to 0.45 + step/100, and to a success in its own step."""

    wins: tuple[int, ...]
    steps: int = 5

    @property
    def restarts(self) -> int:
        return len(self.wins)

    def start(self, problem: Problem) -> Point:
        return Point(problem.x)

    def step(self, problem: Problem, state: Point) -> Point:
        x = problem.x.clone()
        won = problem.step == torch.tensor(self.wins)[problem.restart]
        x[:, 0, 0, 0] = torch.where(won, 0.53125 + 0.015625 * problem.restart, 0.453125)
        problem.logits(x)
        return Point(x)


@pytest.mark.parametrize("slots", [1, 3, 4, 64])
def test_jobs_that_run_together_end_with_the_first_success(slots: int) -> None:
    running = toys.engine(Subject(Threshold(), 2), images(0.4375, 0.453125), Restarting((9, 3, 2)), THREAT)
    settled = toys.settle(Engine(replace(running.probe, together=True), running.work, running.judge, slots))
    assert [(one.row, one.job) for one in settled] == [(row, job) for row in (0, 1) for job in (0, 1, 2)]
    assert [one.attempt.outcome for one in settled] == [Outcome.STOOD, Outcome.STOOD, Outcome.BROKE] * 2
    assert {one.attempt.steps for one in settled} == {2}


def test_jobs_one_after_the_other_end_with_the_first_run_that_breaks() -> None:
    settled = toys.settle(toys.engine(Subject(Threshold(), 2), images(0.4375), Restarting((9, 3, 2)), THREAT))
    assert [(one.attempt.outcome, one.attempt.steps) for one in settled] == [(Outcome.STOOD, 5), (Outcome.BROKE, 3)]
