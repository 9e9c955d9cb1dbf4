"""The engine with attacks that misbehave, models that lie, and machines that lack memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import faultlight as fl
import toys
from faultlight import rng
from faultlight.attacks._contract import Point, Problem
from faultlight.attacks.fgsm import FGSM
from faultlight.attacks.pgd import PGD
from faultlight.attacks.uniform_noise import UniformNoise
from faultlight.errors import InputError
from faultlight.evaluation import engine as engine_module
from faultlight.evaluation.engine import Engine
from faultlight.evaluation.judge import Judge
from faultlight.evaluation.rows import Attempt, Outcome
from faultlight.evaluation.slots import Settled, jobs
from faultlight.models.subject import Subject
from faultlight.threat import Threat

SHAPE = (1, 2, 2)
THREAT = "linf:0.125"
EPSILON = 0.125


class Threshold(nn.Module):
    """Two classes, split by the first pixel: class 1 where it is above 0.5; the margin is ten times the distance."""

    def forward(self, x: Tensor) -> Tensor:
        score = 10 * (x.flatten(1)[:, 0] - 0.5)
        return torch.stack([-score / 2, score / 2], dim=1)


def images(*first: float) -> fl.Images:
    """Images of class 0, by their first pixel; the others are black, so that any change of theirs shows."""
    x = torch.zeros(len(first), *SHAPE)
    x[:, 0, 0, 0] = torch.tensor(first)
    y = torch.zeros(len(first), dtype=torch.int64)
    return fl.Images(x, y, torch.arange(len(first)) + 50, ("low", "high"))


@dataclass(frozen=True)
class Scripted:
    """Evaluates what a function makes of each problem, and proposes it."""

    script: Callable[[Problem], Tensor]
    steps: int = 1
    restarts: int = 1

    def start(self, problem: Problem) -> Point:
        return Point(problem.x)

    def step(self, problem: Problem, state: Point) -> Point:
        x = self.script(problem)
        problem.logits(x)
        return Point(x)


def first_pixel(value: float) -> Callable[[Problem], Tensor]:
    """Set the first pixel of every image."""

    def script(problem: Problem) -> Tensor:
        x = problem.x.clone()
        x[:, 0, 0, 0] = value
        return x

    return script


def run(attack: Any, data: fl.Images, net: nn.Module | None = None, **settings: Any) -> list[Settled]:
    subject = Subject(net or Threshold(), 2)
    return toys.settle(toys.engine(subject, data, attack, THREAT, **settings))


def only(attack: Any, data: fl.Images, net: nn.Module | None = None, **settings: Any) -> Attempt:
    (settled,) = run(attack, data, net, **settings)
    return settled.attempt


def test_a_break_is_recorded_with_its_twin() -> None:
    (settled,) = run(Scripted(first_pixel(0.53125)), images(0.4375))
    assert settled.attempt == Attempt(
        id=50,
        probe="toy",
        threat=THREAT,
        restart=0,
        target=-1,
        outcome=Outcome.BROKE,
        margin=0.3125,
        distance=0.09375,
        twin_prediction=1,
        fragile=False,
        steps=1,
        forwards=2,
        backwards=0,
        claims_refused=0,
    )
    assert settled.twin is not None
    assert settled.twin.flatten().tolist() == [0.53125, 0, 0, 0]


def test_an_image_that_stands_keeps_its_best_margin() -> None:
    attempt = only(Scripted(first_pixel(0.46875)), images(0.4375))
    assert (attempt.outcome, attempt.margin, attempt.distance) == (Outcome.STOOD, -0.3125, None)


@pytest.mark.parametrize(
    ("fault", "script"),
    [
        ("the ball", lambda problem: problem.x + 2 * EPSILON),
        ("the box", lambda problem: problem.x - torch.tensor([-0.1, 0.05, 0, 0]).view(SHAPE)),
        ("the numbers", lambda problem: torch.full_like(problem.x, math.nan)),
        ("the numbers, in one pixel", lambda problem: first_pixel(math.inf)(problem)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("steps", [1, 3])
def test_an_attack_that_leaves_its_bounds_is_refused(fault: str, script: Any, steps: int) -> None:
    (settled,) = run(Scripted(script, steps=steps), images(0.4375))
    assert settled.attempt.outcome == Outcome.REFUSED
    assert settled.attempt.margin is None
    assert settled.twin is None


def test_a_candidate_outside_does_not_spoil_one_inside() -> None:
    """Step 1 is far outside, step 2 breaks by the rules."""

    def script(problem: Problem) -> Tensor:
        value = torch.where(problem.step == 1, 0.9, 0.53125)
        x = problem.x.clone()
        x[:, 0, 0, 0] = value
        return x

    (settled,) = run(Scripted(script, steps=2), images(0.4375))
    assert settled.attempt.outcome == Outcome.BROKE
    assert settled.attempt.claims_refused == 1
    assert settled.twin is not None
    assert settled.twin.flatten().tolist() == [0.53125, 0, 0, 0]


def test_rounding_below_black_is_put_back() -> None:
    def script(problem: Problem) -> Tensor:
        return first_pixel(0.53125)(problem) - torch.tensor([0, 3e-8, 3e-8, 0]).view(SHAPE)

    (settled,) = run(Scripted(script), images(0.4375))
    assert settled.attempt.outcome == Outcome.BROKE
    assert settled.twin is not None
    assert settled.twin.flatten().tolist() == [0.53125, 0, 0, 0]


def test_a_search_model_that_claims_success_is_overruled() -> None:
    """It says of every point that the other class wins; the judge upholds none of it."""
    (settled,) = run(Scripted(first_pixel(0.46875), steps=5), images(0.4375), search=lambda x: Threshold()(x).flip(1))
    assert settled.attempt.outcome == Outcome.STOOD
    assert settled.attempt.claims_refused == 5
    assert settled.attempt.margin == -0.3125, "the judge's margin, not the search's"
    assert settled.twin is None
    assert settled.attempt.forwards == 5 + 5 + 2  # steps, claims, and a last look at the last point and the best


def test_a_search_model_that_sees_no_success_does_not_hide_it() -> None:
    """The last point and the best one are judged whatever the search says."""

    def blind(x: Tensor) -> Tensor:
        return torch.stack([torch.ones(len(x)), x.flatten(1)[:, 0]], dim=1)

    assert only(Scripted(first_pixel(0.53125)), images(0.4375), search=blind).broke

    def script(problem: Problem) -> Tensor:
        x = problem.x.clone()
        x[:, 0, 0, 0] = torch.where(problem.step == 1, 0.53125, 0.45)
        return x

    assert only(Scripted(script, steps=3), images(0.4375), search=blind).broke


def test_claims_are_judged_by_the_untouched_model() -> None:
    """A copy with a shifted boundary breaks all three; each image's outcome is the subject's."""

    def shifted(x: Tensor) -> Tensor:
        return Threshold()(x + 0.04)

    settled = run(Scripted(lambda problem: problem.x + EPSILON / 4), images(0.44, 0.46, 0.475), search=shifted)
    assert [one.attempt.broke for one in settled] == [False, False, True]
    assert [one.attempt.claims_refused for one in settled] == [1, 1, 0]


class Sometimes(nn.Module):
    """NaN where the first pixel is above 0.5, that is, exactly where an attack would win."""

    def forward(self, x: Tensor) -> Tensor:
        bright = x.flatten(1)[:, :1] > 0.5
        return torch.where(bright, torch.nan, Threshold()(x))


@pytest.mark.parametrize("attack", [Scripted(first_pixel(0.53125)), Scripted(first_pixel(0.53125), steps=4)])
def test_nan_logits_make_an_attempt_invalid_never_a_break(attack: Scripted) -> None:
    (settled,) = run(attack, images(0.4375), Sometimes())
    assert settled.attempt.outcome == Outcome.INVALID
    assert settled.attempt.margin is None
    assert settled.twin is None


def test_infinite_logits_make_an_attempt_invalid_and_leave_no_margin() -> None:
    class Overflowing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits = Threshold()(x)
            return torch.where(logits > 0.1, torch.inf, logits)

    attempt = only(Scripted(first_pixel(0.53125)), images(0.4375), Overflowing())
    assert attempt.outcome == Outcome.INVALID
    assert attempt.margin is None


def test_a_narrow_break_is_marked_fragile() -> None:
    """The first pixel just above the boundary: the margin 1e-6 is small, and so is the spread; a third class is not."""

    class Wide(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits = Threshold()(x)
            return torch.cat([logits, torch.full((len(x), 1), -100.0)], dim=1)

    data = replace(images(0.4375), classes=("a", "b", "c"))
    for value, fragile in ((0.5 + 1e-6, True), (0.55, False)):
        (settled,) = toys.settle(toys.engine(Subject(Wide(), 3), data, Scripted(first_pixel(value)), THREAT))
        assert settled.attempt.broke
        assert settled.attempt.fragile == fragile


@dataclass(frozen=True)
class Many:
    """Evaluates several points a row at once: the rows of one image lie together."""

    offsets: tuple[float, ...]
    steps: int = 1

    def start(self, problem: Problem) -> Point:
        return Point(problem.x)

    def step(self, problem: Problem, state: Point) -> Point:
        x = problem.x.repeat_interleave(len(self.offsets), 0)
        x[:, 0, 0, 0] += torch.tensor(self.offsets).repeat(len(problem.x))
        problem.logits(x)
        return Point(problem.x)


def test_of_several_points_a_row_the_best_counts() -> None:
    settled = run(Many((0.0, 0.09375, 0.03125)), images(0.4375, 0.375, 0.46875))
    assert [one.attempt.broke for one in settled] == [True, False, True]
    assert [float(one.twin.flatten()[0]) if one.twin is not None else None for one in settled] == [
        0.53125,
        None,
        0.5625,
    ]
    assert [one.attempt.margin for one in settled] == [0.3125, -0.3125, 0.625]
    assert [one.attempt.forwards for one in settled] == [4, 4, 4]  # three points and the judge


@dataclass(frozen=True)
class Twice:
    """Asks two questions in one step: a fair point, then one with a larger margin."""

    second: float
    steps: int = 1

    def start(self, problem: Problem) -> Point:
        return Point(problem.x)

    def step(self, problem: Problem, state: Point) -> Point:
        problem.logits(first_pixel(0.53125)(problem))
        problem.logits(first_pixel(self.second)(problem))
        return Point(problem.x)


@pytest.mark.parametrize("second", [0.55, 0.9, math.nan])
def test_the_twin_is_the_point_that_was_judged(second: float) -> None:
    """A later question of the same step, better or outside, does not slip into the place of the accepted one."""
    (settled,) = run(Twice(second), images(0.4375))
    assert settled.twin is not None
    assert settled.twin.flatten().tolist() == [0.53125, 0, 0, 0]
    assert settled.attempt.distance == 0.09375


@dataclass(frozen=True)
class Eager:
    """Asks about its points in `start` already."""

    steps: int = 2

    def start(self, problem: Problem) -> Point:
        x = problem.project(problem.x + 1)
        problem.logits(x)
        return Point(x)

    def step(self, problem: Problem, state: Point) -> Point:
        return state


def test_questions_in_start_are_judged_too() -> None:
    settled = run(Eager(), images(0.4375, 0.3))
    assert [one.attempt.broke for one in settled] == [True, False]


@pytest.mark.parametrize("attack", [Eager(), FGSM(), PGD(), UniformNoise()], ids=lambda attack: type(attack).__name__)
@pytest.mark.parametrize("threat", ["linf:0.1", "l2:0.1", "l1:0.1", "l0:1"])
def test_no_images_are_no_fault(attack: Any, threat: str) -> None:
    none = images(0.4).take(torch.tensor([], dtype=torch.int64))
    assert toys.settle(toys.engine(Subject(Threshold(), 2), none, attack, threat)) == []


def test_an_attack_that_never_asks_is_judged_by_its_last_point() -> None:
    @dataclass(frozen=True)
    class Silent:
        steps: int = 3

        def start(self, problem: Problem) -> Point:
            return Point(problem.x)

        def step(self, problem: Problem, state: Point) -> Point:
            return Point(problem.project(state.x + 0.03))

    settled = run(Silent(), images(0.42, 0.3))
    assert [one.attempt.broke for one in settled] == [True, False]
    assert [one.attempt.forwards for one in settled] == [1, 1]


@dataclass(frozen=True)
class Creeping:
    """Raises the first pixel by 1/64 a step and notes how many rows each step had."""

    steps: int = 8
    widths: list[int] = field(default_factory=list, compare=False)

    def start(self, problem: Problem) -> Point:
        return Point(problem.x)

    def step(self, problem: Problem, state: Point) -> Point:
        self.widths.append(len(state.x))
        problem.logits(state.x)
        x = state.x.clone()
        x[:, 0, 0, 0] += 1 / 64
        return Point(problem.project(x))


def test_a_slot_goes_on_as_soon_as_its_job_is_settled() -> None:
    """Each image needs another number of steps; until the queue is empty, no slot is ever idle."""
    data = images(*[0.5 - step / 64 + 1 / 128 for step in (7, 1, 3, 2, 6, 1, 5, 2, 4, 1)])
    attack = Creeping()
    settled = run(attack, data, slots=3)
    assert all(one.attempt.broke for one in settled)
    assert [one.attempt.steps for one in settled] == [8, 2, 4, 3, 7, 2, 6, 3, 5, 2]
    assert sum(attack.widths) == sum(one.attempt.steps for one in settled)
    full = attack.widths.index(next(width for width in attack.widths if width < 3))
    assert set(attack.widths[:full]) == {3}
    assert sum(attack.widths[full:]) <= 3 * attack.steps


def test_a_job_stops_when_its_image_is_broken() -> None:
    """Of four restarts the second breaks; the others are not run."""
    script = Scripted(lambda problem: problem.x + torch.where(problem.restart == 1, 0.1, 0.0).view(-1, 1, 1, 1), 1, 4)
    data = images(0.4375)
    running = toys.engine(Subject(Threshold(), 2), data, script, THREAT)
    settled = toys.settle(running)
    assert [(one.attempt.restart, one.attempt.broke, running.is_last(one)) for one in settled] == [
        (0, False, False),
        (1, True, True),
    ]


def test_jobs_in_the_ledger_are_not_run_again() -> None:
    subject, data = Subject(Threshold(), 2), images(0.1, 0.1, 0.1, 0.1)
    attack = Scripted(lambda problem: problem.x, restarts=3)
    whole = toys.engine(subject, data, attack, THREAT)
    work = replace(whole.work, done=torch.tensor([0, 2, 3, 1 << 30]))
    settled = toys.settle(Engine(whole.probe, work, Judge(subject), 2))
    assert [(one.row, one.attempt.restart) for one in settled] == [(0, 0), (0, 1), (0, 2), (1, 2)]


@pytest.mark.parametrize(
    ("attack", "goal", "expected"),
    [
        (FGSM(), -1, 1),
        (PGD(restarts=3), -1, 3),
        (PGD(restarts=3, targets=1), -1, 3),
        (PGD(restarts=3, targets=9), -1, 3),  # of two classes only one is wrong
        (PGD(restarts=3, targets=9), 1, 3),
    ],
)
def test_jobs_of_an_image(attack: Any, goal: int, expected: int) -> None:
    work = toys.work(Judge(Subject(Threshold(), 2)), images(0.1), goal)
    assert jobs(attack, work) == expected


class Limited(nn.Module):
    """A net that lacks memory for more than `most` images."""

    def __init__(self, net: nn.Module, most: int, error: Exception):
        super().__init__()
        self.net, self.most, self.error = net, most, error

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.most:
            raise self.error
        logits: Tensor = self.net(x)
        return logits


LACKS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory"),
]


@dataclass(frozen=True)
class EagerPGD:
    """PGD that has a look at its random start before the first step."""

    steps: int = 5

    def start(self, problem: Problem) -> Any:
        state = PGD(self.steps).start(problem)
        problem.logits(state.x)
        return state

    def step(self, problem: Problem, state: Any) -> Any:
        return PGD(self.steps).step(problem, state)


@pytest.mark.parametrize("error", LACKS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("attack", [FGSM(), PGD(steps=5, restarts=2), UniformNoise(), EagerPGD()], ids=str)
def test_lack_of_memory_halves_the_slots_and_changes_no_outcome(attack: Any, error: Exception) -> None:
    net = toys.convolutional(3)
    data = toys.images(net, 3, n=24, shape=(2, 6, 6), spread=0.5)
    expected = toys.settle(toys.engine(Subject(net, 3), data, attack, "linf:0.03", slots=32))
    limited = Subject(Limited(net, 20, error), 3)
    running = toys.engine(limited, data, attack, "linf:0.03", slots=32)
    found = toys.settle(running)
    assert running.halved == 3  # pieces of 128, 64, 32 are too large, 16 is not
    assert running.slots == 4
    assert [(one.row, one.job) for one in found] == [(one.row, one.job) for one in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert replace(ours.attempt, margin=None, distance=None) == replace(theirs.attempt, margin=None, distance=None)
        assert ours.attempt.margin == pytest.approx(theirs.attempt.margin, abs=1e-4)
    assert 0 < sum(one.attempt.broke for one in found) < len(found)


def test_lack_of_memory_for_one_image_is_the_users_to_solve() -> None:
    subject = Subject(Threshold(), 2)
    running = toys.engine(subject, images(0.4), FGSM(), THREAT, search=Limited(Threshold(), 0, LACKS[0]))
    with pytest.raises(InputError, match="single image"):
        toys.settle(running)


def test_other_errors_of_the_model_are_not_swallowed() -> None:
    running = toys.engine(
        Subject(Threshold(), 2), images(0.4), FGSM(), THREAT, search=Limited(Threshold(), 0, RuntimeError("no such op"))
    )
    with pytest.raises(RuntimeError, match="no such op"):
        toys.settle(running)


def test_random_numbers_are_those_of_image_restart_and_target_alone() -> None:
    """Whatever slot and moment a job is run in, it sees the same numbers."""
    seen: dict[tuple[int, int, int], list[Tensor]] = {}

    def script(problem: Problem) -> Tensor:
        for row in range(len(problem.x)):
            place = (int(problem.ids[row]), int(problem.restart[row]), int(problem.step[row]))
            seen.setdefault(place, []).append(problem.uniform()[row])
        return problem.x

    for slots in (1, 3, 64):
        run(Scripted(script, steps=2, restarts=2), images(0.1, 0.2, 0.3, 0.4), slots=slots)
    assert len(seen) == 4 * 2 * 2
    for drawn in seen.values():
        assert len(drawn) == 3
        assert torch.equal(drawn[0], drawn[1])
        assert torch.equal(drawn[0], drawn[2])
    assert len(torch.stack([drawn[0] for drawn in seen.values()]).flatten(1).unique(dim=0)) == len(seen)


def test_probes_of_other_names_and_seeds_draw_other_numbers() -> None:
    keys = [rng.key(0, "pgd", "linf:0.1"), rng.key(1, "pgd", "linf:0.1"), rng.key(0, "curve", "linf:0.1")]
    posed = toys.problem(Subject(Threshold(), 2), images(0.4), Threat("linf", 0.1))
    drawn = [replace(posed, key=key).uniform() for key in keys]
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("name", ["join", "take"])
def test_lack_of_memory_between_two_steps_loses_no_job(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = toys.convolutional(3)
    data = toys.images(net, 3, n=24, shape=(2, 6, 6), spread=0.5)
    attack = PGD(steps=5, restarts=2)
    expected = toys.settle(toys.engine(Subject(net, 3), data, attack, "linf:0.03", slots=8))
    inner, calls = getattr(engine_module, name), iter(range(1000))

    def sometimes(*rows: Any) -> Any:
        if next(calls) in (1, 5):
            raise MemoryError
        return inner(*rows)

    monkeypatch.setattr(engine_module, name, sometimes)
    running = toys.engine(Subject(net, 3), data, attack, "linf:0.03", slots=8)
    found = toys.settle(running)
    assert running.halved == 2
    assert sorted((one.row, one.job) for one in found) == sorted((one.row, one.job) for one in expected)
