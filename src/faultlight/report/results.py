"""What runs came to, a row each, and what those that differ in seed alone share."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

FINISHED, UNFINISHED = "finished", "unfinished"


@dataclass(frozen=True)
class Result:
    """One run; what it has not recorded is None or empty.

    Args:
        folder: where it lies, as it was found.
        kind: "train", "audit", "text" and the like for networks that are no classifiers, or "" where none is said.
        state: "finished", "unfinished", or what is wrong with its records.
        recipe: the recipe's name; of an audit, that of the run it audited, where that can be read.
        seed: of training, or of the audit.
        epochs: passes over the training images that are finished.
        best_epoch: the epoch, from 1, whose weights were kept.
        validation: share of the validation images classified correctly by them, in [0, 1].
        test: share of the test images classified correctly; of an audit, its clean accuracy.
        count: how many images that was measured on.
        loss: of a network that is no classifier, held-out: what it is judged by.
        robust: share that withstood what `threat` says.
        certified: share that provably withstands the audit's threat.
        met: whether every target was reached.
        seconds: spent on training, or on the whole audit.
        commit, dirty: of the git work tree that the command ran in.
        kin: equal for runs that differ in their seeds alone; empty where that cannot be known.
        lot: what tells such runs apart: of two with the same one, the second repeats the first.
    """

    folder: str
    kind: str = ""
    state: str = FINISHED
    recipe: str = ""
    data: str = ""
    model: str = ""
    seed: int | None = None
    epochs: int | None = None
    best_epoch: int | None = None
    validation: float | None = None
    test: float | None = None
    count: int | None = None
    loss: float | None = None
    robust: float | None = None
    threat: str = ""
    certified: float | None = None
    met: bool | None = None
    seconds: float | None = None
    commit: str = ""
    dirty: bool | None = None
    device: str = ""
    written: str = ""
    kin: str = field(default="", repr=False)
    lot: str = field(default="", repr=False)


@dataclass(frozen=True)
class Spread:
    """A figure over several runs.

    Args:
        mean: Σ x / n.
        deviation: of the sample, √(Σ (x − mean)² / (n − 1)).
        n: how many runs.
    """

    mean: float
    deviation: float
    n: int


@dataclass(frozen=True)
class Group:
    """Runs that differ in seed alone, and their figures; one that not all of them have is None.

    Args:
        like: one of the runs.
        seeds: of the runs counted.
        repeated: runs left out because another with the same seed is counted already.
        commits: git states that the runs were made at; more than one may be more than a difference in seed.
    """

    like: Result
    seeds: tuple[int, ...]
    validation: Spread | None
    test: Spread | None
    loss: Spread | None
    robust: Spread | None
    certified: Spread | None
    seconds: Spread | None
    repeated: int
    commits: int


def spread(values: Sequence[float]) -> Spread:
    """Return mean and sample deviation of at least two numbers."""
    return Spread(statistics.fmean(values), statistics.stdev(values), len(values))


def group(results: Sequence[Result]) -> list[Group]:
    """Return a summary of each set of finished runs that differ in seed alone; a run without its like is in none."""
    kin: dict[str, list[Result]] = {}
    for row in results:
        if row.kin and row.state == FINISHED:
            kin.setdefault(row.kin, []).append(row)
    distinct = [(runs, list({row.lot: row for row in reversed(runs)}.values())[::-1]) for runs in kin.values()]
    return [_group(once, len(runs) - len(once)) for runs, once in distinct if len(once) > 1]


def _group(runs: list[Result], repeated: int) -> Group:
    def over(figure: Callable[[Result], float | None]) -> Spread | None:
        known = [value for row in runs if (value := figure(row)) is not None]
        return spread(known) if len(known) == len(runs) else None

    return Group(
        like=runs[0],
        seeds=tuple(sorted(row.seed for row in runs if row.seed is not None)),
        validation=over(lambda row: row.validation),
        test=over(lambda row: row.test),
        loss=over(lambda row: row.loss),
        robust=over(lambda row: row.robust),
        certified=over(lambda row: row.certified),
        seconds=over(lambda row: row.seconds),
        repeated=repeated,
        commits=len({(row.commit, row.dirty) for row in runs}),
    )
