"""The one loop: keeps a fixed number of slots full of jobs, and gives a slot on as soon as its job is settled.

A job is an image × a restart × a target. An image has one job in flight at a time, in a fixed order, so that what
becomes of it depends on nothing but the image, the probe and the seed.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import partial
from itertools import islice
from typing import Any

import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from faultlight import geometry
from faultlight.attacks._contract import (
    Attack,
    Problem,
    check_norm,
    is_minimal,
    join,
    points,
    restarts,
    take,
    targets,
)
from faultlight.errors import InputError
from faultlight.evaluation.judge import ROUNDING, Judge, restore
from faultlight.evaluation.ledger import Attempt, Outcome
from faultlight.evaluation.oracle import ONCE, Model, Question, RecordingOracle, Sampling, piece_rows
from faultlight.losses import goal_margin
from faultlight.runtime import is_out_of_memory
from faultlight.threat import Threat


@dataclass(frozen=True)
class Probe:
    """An attack as the engine runs it.

    Args:
        name: unique in a run; the key of its ledger rows.
        attack: the attack.
        threat: the ball it may move in.
        model: what it searches on: the subject itself, or a search copy.
        key: the key of its random numbers.
        exact: whether `model` is the judge's own model, so that its logits count as judged.
        nearest: go on after a break, for the nearest twin; else an image is done with its first.
        together: run all jobs of an image side by side, in step, till one breaks it; else one after the other. It costs
            passes that an earlier break would have saved, and saves time where few images are left.
        sampling: what the model's answers are averaged over in the search.
    """

    name: str
    attack: Attack
    threat: Threat
    model: Model
    key: int
    exact: bool
    nearest: bool = False
    together: bool = False
    rows: int = 0
    sampling: Sampling = ONCE


@dataclass(frozen=True)
class Work:
    """The images a probe is let loose on, a row an image.

    Args:
        x: clean pixels in [0, 1].
        y: labels.
        ids: image ids.
        ranking: the wrong classes of each image, the most likely first; targeted jobs aim at them in turn.
        goal: the class that a break has to reach, −1 where any wrong class will do.
        done: jobs of each image that are already in the ledger.
    """

    x: Float32[Tensor, "n c h w"]
    y: Int64[Tensor, " n"]
    ids: Int64[Tensor, " n"]
    ranking: Int64[Tensor, "n others"]
    goal: Int64[Tensor, " n"]
    done: Int64[Tensor, " n"]


@dataclass(frozen=True)
class Settled:
    """A finished attempt, the row of `Work` and the job it belongs to, and the accepted pixels (c, h, w)."""

    row: int
    job: int
    attempt: Attempt
    twin: Tensor | None


@dataclass(frozen=True)
class Slots:
    """The jobs in flight, a row each: where each stands, what it has cost, the best it has seen, what was judged.

    Args:
        row: its row of `Work`.
        job: which of the image's jobs it is.
        target: the class aimed at, or −1.
        step: the step it is at.
        value: the largest goal margin seen in the search, inside the ball.
        best: the point where it was seen; once accepted, the twin.
        reach: in a search for the nearest twin, how far the nearest claimed one is; then `best` is that one.
        lower, upper: the box around the image, found once.
        judged: the largest margin that the judge has confirmed.
        accepted, distance, prediction, fragile: the judge's ruling on the twin.
        refused: claims of success that the judge did not uphold.
        outside: a candidate left the ball or the box.
        invalid: the model gave NaN or infinity for a candidate.
    """

    row: Int64[Tensor, " n"]
    job: Int64[Tensor, " n"]
    target: Int64[Tensor, " n"]
    step: Int64[Tensor, " n"]
    forwards: Int64[Tensor, " n"]
    backwards: Int64[Tensor, " n"]
    value: Float32[Tensor, " n"]
    best: Float32[Tensor, "n c h w"]
    reach: Float64[Tensor, " n"]
    lower: Float32[Tensor, "n c h w"]
    upper: Float32[Tensor, "n c h w"]
    judged: Float32[Tensor, " n"]
    accepted: Bool[Tensor, " n"]
    distance: Float64[Tensor, " n"]
    prediction: Int64[Tensor, " n"]
    fragile: Bool[Tensor, " n"]
    refused: Int64[Tensor, " n"]
    outside: Bool[Tensor, " n"]
    invalid: Bool[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.row)


# What a settled attempt takes from its slot.
_COLUMNS = tuple(
    field.name for field in fields(Slots) if field.name not in ("value", "judged", "best", "reach", "lower", "upper")
)


def jobs(attack: Attack, work: Work) -> int:
    """Return how many jobs an image has: restarts × targets (one run when `targets` is 0, or the goal is one class)."""
    aims = 1 if bool((work.goal >= 0).any()) else max(1, min(targets(attack), work.ranking.shape[1]))
    return restarts(attack) * aims


# On a copy's word a twin is put before the judge when it is nearer by this share: each ruling costs a forward pass.
_GAIN = 1e-3


class Engine:
    """Runs one probe over its work.

    Args:
        probe: what to run.
        work: on which images.
        judge: who decides.
        slots: jobs in flight at once where each asks about one point at a time; fewer for attacks that ask about many;
            halved when memory runs out.

    Raises:
        InputError: the attack is not made for the norm.
    """

    def __init__(self, probe: Probe, work: Work, judge: Judge, slots: int):
        check_norm(probe.attack, probe.threat)
        self.probe, self.work, self.judge = probe, work, judge
        self.slots = max(1, slots // points(probe.attack))
        self.halved = 0
        self._radius = probe.threat.epsilon * (1 + ROUNDING)
        self._count = jobs(probe.attack, work)
        rows = probe.rows or piece_rows(tuple(work.x.shape[1:]), work.x.device)
        self._oracle = RecordingOracle(probe.model, rows, probe.sampling)
        self._group = self._count if probe.together else 1
        self.slots = max(self.slots, self._group)
        self._queue = deque(self._waiting())

    def run(self) -> Iterator[list[Settled]]:
        """Yield finished attempts as they come; stopping between two of them loses only the jobs in flight."""
        flight: tuple[Slots, Any] | None = None
        while flight or self._queue:
            try:
                flight = self._fill(flight)
                flight, settled = self._advance(*flight)
            except (RuntimeError, MemoryError) as error:
                self._halve(flight, error)
                flight, settled = None, []
            if settled:
                yield settled

    def is_last(self, settled: Settled) -> bool:
        """Return whether nothing more will be tried on the image of a finished attempt."""
        return (settled.attempt.broke and not self.probe.nearest) or settled.job + 1 >= self._count

    def _waiting(self) -> Iterator[tuple[int, int]]:
        """Yield the jobs to begin with: each image's next, or, where its jobs run together, all of them."""
        for row, done in enumerate(self.work.done.tolist()):
            if done < self._count:
                yield from ((row, job) for job in (range(self._count) if self.probe.together else [done]))

    def _fill(self, flight: tuple[Slots, Any] | None) -> tuple[Slots, Any]:
        """Return the jobs in flight with every free slot given to the next job of the queue."""
        room = min(self.slots - (len(flight[0]) if flight else 0), len(self._queue))
        room -= room % self._group  # the jobs of an image that run together begin together
        if flight and room <= 0:
            return flight
        slots, state = self._admit(list(islice(self._queue, room)))
        if flight:
            slots, state = join(flight[0], slots), join(flight[1], state)
        # Only now: had memory run out above, these jobs would be in neither the flight nor the queue.
        for _ in range(room):
            self._queue.popleft()
        return slots, state

    def _admit(self, pairs: list[tuple[int, int]]) -> tuple[Slots, Any]:
        slots = self._fresh(torch.tensor(pairs, dtype=torch.int64, device=self.work.x.device))
        state = self.probe.attack.start(self._problem(slots))
        self._absorb(slots)
        return slots, state

    def _fresh(self, pairs: Tensor) -> Slots:
        row, job = pairs.unbind(1)
        n, device = len(row), row.device
        count, flag = (
            partial(torch.zeros, n, dtype=torch.int64, device=device),
            partial(torch.zeros, n, dtype=torch.bool, device=device),
        )
        lowest = torch.full((n,), -torch.inf, device=device)
        lower, upper = geometry.box(self.work.x[row], self.probe.threat)
        return Slots(
            row=row,
            job=job,
            target=self._aim(row, job),
            step=count(),
            forwards=count(),
            backwards=count(),
            value=lowest,
            best=self.work.x[row],
            reach=torch.full((n,), torch.inf, dtype=torch.float64, device=device),
            lower=lower,
            upper=upper,
            judged=lowest.clone(),
            accepted=flag(),
            distance=torch.zeros(n, dtype=torch.float64, device=device),
            prediction=count(),
            fragile=flag(),
            refused=count(),
            outside=flag(),
            invalid=flag(),
        )

    def _aim(self, row: Tensor, job: Tensor) -> Tensor:
        goal = self.work.goal[row]
        if targets(self.probe.attack) == 0:
            return goal
        chosen = self.work.ranking[row, job // restarts(self.probe.attack)]
        return torch.where(goal >= 0, goal, chosen)

    def _problem(self, slots: Slots) -> Problem:
        return Problem(
            x=self.work.x[slots.row],
            y=self.work.y[slots.row],
            target=slots.target,
            ids=self.work.ids[slots.row],
            restart=slots.job % restarts(self.probe.attack),
            step=slots.step,
            threat=self.probe.threat,
            key=self.probe.key,
            oracle=self._oracle,
            bounds=(slots.lower, slots.upper),
            goal=self.work.goal[slots.row],
        )

    def _advance(self, slots: Slots, state: Any) -> tuple[tuple[Slots, Any] | None, list[Settled]]:
        slots.step.add_(1)
        state = self.probe.attack.step(self._problem(slots), state)
        self._absorb(slots)
        spent = slots.step >= self.probe.attack.steps
        if (finished := getattr(state, "finished", None)) is not None:
            spent = spent | finished
        if self.probe.nearest:
            self._rule_nearest(slots, spent, state.x)
            done = spent
        else:
            self._rule_last(slots, spent, state.x)
            done = spent | slots.accepted
            if self.probe.together:
                done = done | torch.isin(slots.row, slots.row[slots.accepted])
        if not done.any():
            return (slots, state), []
        # What goes on is taken first: if memory runs out here, nothing is settled and all of it starts anew.
        rest = None if done.all() else (take(slots, ~done), take(state, ~done))
        return rest, self._settle(take(slots, done))

    def _absorb(self, slots: Slots) -> None:
        """Count what the attack asked, keep each row's best point, and have claims of success judged."""
        for question in self._oracle.forget():
            asked = len(question.x) // max(len(slots), 1)
            slots.forwards.add_(asked * question.draws)
            slots.backwards.add_(asked * question.draws * question.backward)
            x = question.x.view(len(slots), asked, *question.x.shape[1:])
            value = self._values(slots, question, asked)
            if self.probe.nearest:
                self._keep_nearest(slots, value, x)
            else:
                self._keep_strongest(slots, value, x)

    def _values(self, slots: Slots, question: Question, asked: int) -> Tensor:
        """Return the goal margin of each row's points, (n, points); −∞ where a minimal attack has left the ball."""
        y, goal = (values[slots.row].repeat_interleave(asked) for values in (self.work.y, self.work.goal))
        value = goal_margin(question.logits, y, goal).nan_to_num(nan=-torch.inf)
        if is_minimal(self.probe.attack):
            distance = self._distance(slots, question.x, asked)
            value = torch.where(distance <= self._radius, value, -torch.inf)
        return value.view(len(slots), asked)

    def _distance(self, slots: Slots, x: Tensor, asked: int = 1) -> Tensor:
        clean = self.work.x[slots.row].repeat_interleave(asked, dim=0)
        return geometry.norm(restore(x).double() - clean.double(), self.probe.threat.norm)

    def _keep_strongest(self, slots: Slots, values: Tensor, points: Tensor) -> None:
        """Keep each row's point of the largest margin; where it is a success, have the judge rule at once."""
        value, x = _chosen(values, points)
        better = (value > slots.value) & ~slots.accepted
        slots.best.copy_(torch.where(geometry.rows(better), x, slots.best))
        slots.value.copy_(torch.where(better, value, slots.value))
        claimed = (value > 0) & ~slots.accepted
        self._rule(slots, claimed, x)
        slots.refused.add_(claimed & ~slots.accepted)

    def _keep_nearest(self, slots: Slots, values: Tensor, points: Tensor) -> None:
        """Keep each row's nearest success. What the judge's own model says is judged once, at the end."""
        slots.value.copy_(torch.maximum(slots.value, values.amax(1)))
        rows = ((values > 0).any(1)).nonzero()[:, 0]
        if not len(rows):
            return
        asked = points.shape[1]
        distance = self._distance(take(slots, rows), points[rows].flatten(0, 1), asked).view(len(rows), asked)
        reach, x = _chosen(torch.where(values[rows] > 0, -distance, -torch.inf), points[rows])
        nearer = -reach < slots.reach[rows] * (1 if self.probe.exact else 1 - _GAIN)
        rows, reach, x = rows[nearer], -reach[nearer], x[nearer]
        if self.probe.exact:
            slots.best[rows], slots.reach[rows] = x, reach
            return
        won = self._rule(slots, rows, x)
        slots.refused[rows] += ~won
        slots.reach[rows[won]] = slots.distance[rows[won]]

    def _rule_last(self, slots: Slots, spent: Tensor, x: Tensor) -> None:
        """Have the judge rule on the last points of rows that are spent; after a search on a copy, on their best."""
        last = spent & ~slots.accepted
        if is_minimal(self.probe.attack):
            last &= self._distance(slots, x) <= self._radius
        if self.probe.exact:
            self._rule(slots, last, x)
            return
        self._look(slots, last, x)
        self._rule(slots, spent & ~slots.accepted & torch.isfinite(slots.value), slots.best)

    def _look(self, slots: Slots, which: Tensor, x: Tensor) -> None:
        """Keep the points x of the masked rows where the search model finds them better than the best so far."""
        rows = which.nonzero()[:, 0]
        if not len(rows):
            return
        at = slots.row[rows]
        logits = self._oracle.logits(x[rows])
        value = goal_margin(logits, self.work.y[at], self.work.goal[at]).nan_to_num(nan=-torch.inf)
        slots.forwards[rows] += sum(question.draws for question in self._oracle.forget())
        better = value > slots.value[rows]
        slots.best[rows[better]] = x[rows[better]]
        slots.value[rows[better]] = value[better]

    def _rule_nearest(self, slots: Slots, spent: Tensor, x: Tensor) -> None:
        """Have the judge rule on the nearest point of rows that are spent, and on their last where that is nearer."""
        claimed = spent & ~slots.accepted & torch.isfinite(slots.reach)
        self._rule(slots, claimed, slots.best)
        slots.refused.add_(claimed & ~slots.accepted)
        distance = self._distance(slots, x)
        self._rule(slots, spent & (distance < slots.reach) & (distance <= self._radius), x)

    def _rule(self, slots: Slots, which: Tensor, candidates: Tensor) -> Tensor:
        """Have the judge rule, write down what it found, and return where it accepted.

        Args:
            slots: the jobs in flight.
            which: a mask of rows, with candidates for all rows, or the numbers of rows, with a candidate for each.
            candidates: pixels.
        """
        if which.dtype == torch.bool:
            which = which.nonzero()[:, 0]
            candidates = candidates[which]
        rows = which
        if not len(rows):
            return torch.zeros(0, dtype=torch.bool, device=rows.device)
        at = slots.row[rows]
        ruling = self.judge.rule(candidates, self.work.x[at], self.work.y[at], self.work.goal[at], self.probe.threat)
        slots.forwards[rows] += self.judge.draws
        slots.outside[rows] |= ruling.outside
        slots.invalid[rows] |= ruling.invalid & ~ruling.outside
        margin = torch.where(ruling.outside | ruling.invalid, -torch.inf, ruling.margin)
        slots.judged[rows] = torch.maximum(slots.judged[rows], margin)
        won, accepted = rows[ruling.accepted], ruling.accepted
        slots.accepted[won] = True
        slots.best[won] = ruling.x[accepted]
        slots.distance[won] = ruling.distance[accepted]
        slots.prediction[won] = ruling.prediction[accepted]
        slots.fragile[won] = ruling.fragile[accepted]
        return accepted

    def _settle(self, done: Slots) -> list[Settled]:
        unsafe = done.outside | done.invalid | (not self.probe.exact)
        margin = torch.where(unsafe, done.judged, torch.maximum(done.judged, done.value))
        ids = self.work.ids[done.row].tolist()
        # One transfer a column: asked one by one, the numbers of thousands of rows cost more than a step.
        columns = {name: getattr(done, name).tolist() for name in _COLUMNS} | {"id": ids, "margin": margin.tolist()}
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        settled = [self._settled(row, done.best[i]) for i, row in enumerate(rows)]
        if not self.probe.together:
            self._queue.extend((result.row, result.job + 1) for result in settled if not self.is_last(result))
        return settled

    def _settled(self, row: dict[str, Any], best: Tensor) -> Settled:
        accepted = row["accepted"]
        attempt = Attempt(
            id=row["id"],
            probe=self.probe.name,
            threat=str(self.probe.threat),
            restart=row["job"] % restarts(self.probe.attack),
            target=row["target"],
            outcome=_outcome(accepted, row["invalid"], row["outside"]),
            margin=row["margin"] if math.isfinite(row["margin"]) else None,
            distance=row["distance"] if accepted else None,
            twin_prediction=row["prediction"] if accepted else None,
            fragile=row["fragile"],
            steps=row["step"],
            forwards=row["forwards"],
            backwards=row["backwards"],
            claims_refused=row["refused"],
        )
        return Settled(row["row"], row["job"], attempt, best.clone() if accepted else None)

    def _halve(self, flight: tuple[Slots, Any] | None, error: Exception) -> None:
        """Put the jobs in flight back and halve slots and piece; raise anything but lack of memory."""
        if not is_out_of_memory(error):
            raise error
        if self._oracle.rows == 1:
            raise InputError("memory ran out with a single image in the model; use a machine with more.") from error
        self._oracle.forget()
        self._oracle.rows, self.slots = self._oracle.rows // 2, max(1, self.slots // 2)
        self._group = 1  # too few slots for whole groups
        self.halved += 1
        if flight:
            slots = flight[0]
            self._queue.extendleft(reversed(list(zip(slots.row.tolist(), slots.job.tolist(), strict=True))))


def _chosen(values: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest value of each row, (n, k) → (n,), and the point (of n, k, c, h, w) that has it."""
    if values.shape[1] == 1:
        return values[:, 0], points[:, 0]
    highest, place = values.max(1)
    return highest, points[torch.arange(len(values), device=values.device), place]


def _outcome(accepted: bool, invalid: bool, outside: bool) -> Outcome:
    if accepted:
        return Outcome.BROKE
    if invalid:
        return Outcome.INVALID
    return Outcome.REFUSED if outside else Outcome.STOOD
