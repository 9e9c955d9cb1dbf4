"""Attacks run to their end, for what they find beyond the first success."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from faultlight import geometry, rng
from faultlight.attacks._contract import Attack, Problem, check_norm
from faultlight.catalogue import lookup
from faultlight.data.images import Images
from faultlight.evaluation.judge import ROUNDING
from faultlight.evaluation.oracle import RecordingOracle, piece_rows
from faultlight.evaluation.probing import sampling_of
from faultlight.losses import UNTARGETED
from faultlight.studies._case import Bench
from faultlight.threat import Threat


def named(attack: str) -> Attack:
    """Return the attack of that name with its default settings.

    Raises:
        InputError: there is no such attack; the message names the nearest one.
    """
    found: Attack = lookup("attacks", attack).load()()
    return found


@dataclass(frozen=True)
class Run:
    """What an attack came by: each image's point of largest goal margin inside the ball, and its last point."""

    strongest: Float32[Tensor, "n c h w"]
    last: Float32[Tensor, "n c h w"]


def to_the_end(
    bench: Bench, images: Images, attack: Attack, threat: Threat, seed: int, goal: Int64[Tensor, " n"] | None = None
) -> Run:
    """Return where an attack gets on each image, its first run taken to the end.

    The engine stops at the first success; what is asked here is how far an attack gets, and what its noise looks like
    even where it fails.

    Args:
        bench: the subject.
        images: where the attack begins, a row each.
        attack: what is run.
        threat: the ball.
        seed: of its random numbers.
        goal: the class that each image shall be seen as; None is any other than its label.

    Raises:
        InputError: the attack is not made for the norm.
    """
    check_norm(attack, threat)
    posed, oracle = _problem(bench, images, attack, threat, seed, goal)
    state = attack.start(posed)
    best = _Best(posed, posed.x, torch.full_like(images.y, -torch.inf, dtype=torch.float32)).after(oracle)
    for step in range(1, attack.steps + 1):
        state = attack.step(replace(posed, step=torch.full_like(images.y, step)), state)
        best = best.after(oracle)
        finished: Any = getattr(state, "finished", None)
        if finished is not None and finished.all():
            break
    oracle.logits(state.x)
    return Run(best.after(oracle).x, state.x)


@dataclass(frozen=True)
class _Best:
    """The point of largest margin of each row so far."""

    posed: Problem
    x: Float32[Tensor, "n c h w"]
    margin: Float32[Tensor, " n"]

    def after(self, oracle: RecordingOracle) -> _Best:
        """Return the best after what the oracle has been asked since; points outside the ball do not count."""
        x, highest = self.x, self.margin
        for question in oracle.forget():
            n = len(x)
            points = question.x.view(n, -1, *x.shape[1:])
            margin = self.posed.margin(question.logits).view(n, -1)
            clean = self.posed.x.repeat_interleave(points.shape[1], 0)
            distance = geometry.norm(question.x.double() - clean.double(), self.posed.threat.norm).view(n, -1)
            margin = margin.where(distance <= self.posed.threat.epsilon * (1 + ROUNDING), -torch.inf)
            value, place = margin.max(1)
            better = value > highest
            chosen = points[torch.arange(n, device=x.device), place]
            x, highest = torch.where(geometry.rows(better), chosen, x), torch.where(better, value, highest)
        return _Best(self.posed, x, highest)


def _problem(
    bench: Bench, images: Images, attack: Attack, threat: Threat, seed: int, goal: Tensor | None
) -> tuple[Problem, RecordingOracle]:
    sampling = sampling_of(bench.judge, bench.subject, seed)
    rows = min(len(images), piece_rows(images.shape, images.x.device))
    oracle = RecordingOracle(bench.subject, rows, sampling)
    goals = torch.full_like(images.y, UNTARGETED) if goal is None else goal
    posed = Problem(
        x=images.x,
        y=images.y,
        target=goals,
        ids=images.ids,
        restart=torch.zeros_like(images.y),
        step=torch.zeros_like(images.y),
        threat=threat,
        key=rng.key(seed, type(attack).__name__.lower(), str(threat)),
        oracle=oracle,
        goal=goals,
    )
    return posed, oracle
