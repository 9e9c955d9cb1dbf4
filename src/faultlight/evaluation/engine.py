"""The one loop: keeps a fixed number of slots full of jobs, and gives a slot on as soon as its job is settled.

A job is an image × a restart × a target. An image has one job in flight at a time, in a fixed order, so that what
becomes of it depends on nothing but the image, the probe and the seed.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import fields
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from faultlight import geometry
from faultlight.attacks._contract import (
    Problem,
    check_norm,
    join,
    points,
    restarts,
    take,
    targets,
)
from faultlight.errors import InputError
from faultlight.evaluation.judge import Judge
from faultlight.evaluation.oracle import RecordingOracle, piece_rows
from faultlight.evaluation.rows import Attempt, Outcome
from faultlight.evaluation.slots import Probe, Settled, Slots, Work, jobs
from faultlight.evaluation.watch import Watch
from faultlight.runtime import is_out_of_memory

# What a settled attempt takes from its slot.
_COLUMNS = tuple(
    field.name for field in fields(Slots) if field.name not in ("value", "judged", "best", "reach", "lower", "upper")
)


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
        self._count = jobs(probe.attack, work)
        rows = probe.rows or piece_rows(tuple(work.x.shape[1:]), work.x.device)
        self._oracle = RecordingOracle(probe.model, rows, probe.sampling)
        self._watch = Watch(probe, work, judge, self._oracle)
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
        self._watch.absorb(slots)
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
        self._watch.absorb(slots)
        spent = slots.step >= self.probe.attack.steps
        if (finished := getattr(state, "finished", None)) is not None:
            spent = spent | finished
        self._watch.rule_spent(slots, spent, state.x)
        done = spent if self.probe.nearest else spent | slots.accepted
        if self.probe.together and not self.probe.nearest:
            done = done | torch.isin(slots.row, slots.row[slots.accepted])
        if not done.any():
            return (slots, state), []
        # What goes on is taken first: if memory runs out here, nothing is settled and all of it starts anew.
        rest = None if done.all() else (take(slots, ~done), take(state, ~done))
        return rest, self._settle(take(slots, done))

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


def _outcome(accepted: bool, invalid: bool, outside: bool) -> Outcome:
    if accepted:
        return Outcome.BROKE
    if invalid:
        return Outcome.INVALID
    return Outcome.REFUSED if outside else Outcome.STOOD
