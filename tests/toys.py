"""Subjects whose answers are known in closed form, and an attack run one step at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from faultlight import rng
from faultlight.attacks._contract import Problem
from faultlight.data.images import Images
from faultlight.evaluation.engine import Engine
from faultlight.evaluation.judge import Judge
from faultlight.evaluation.oracle import Model, RecordingOracle
from faultlight.evaluation.probing import first_look
from faultlight.evaluation.slots import Probe, Settled, Work
from faultlight.models.subject import Subject
from faultlight.threat import Threat, parse_threat

SHAPE = (1, 4, 4)


def linear(classes: int = 2, seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> nn.Sequential:
    """A linear classifier with weights of about 1 and no bias on grey images."""
    generator = torch.Generator().manual_seed(seed)
    size = shape[0] * shape[1] * shape[2]
    last = nn.Linear(size, classes)
    with torch.no_grad():
        last.weight.copy_(torch.randn(classes, size, generator=generator))
        last.bias.copy_(-0.5 * last.weight.sum(1))
    return nn.Sequential(nn.Flatten(), last).eval()


def convolutional(classes: int = 10, seed: int = 0, shape: tuple[int, int, int] = (2, 6, 6)) -> nn.Sequential:
    """A small net with a convolution, a pool and a hidden layer; its decisions bend within small balls."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        side = shape[1] // 2
        net = nn.Sequential(
            nn.Conv2d(shape[0], 4, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(4 * side * side, 16),
            nn.ReLU(),
            nn.Linear(16, classes),
        )
    with torch.no_grad():
        # Untrained nets answer the same for every image: the mean answer over noise is taken away, the rest enlarged.
        noise = torch.rand(512, *shape, generator=torch.Generator().manual_seed(seed))
        last = net[6]
        assert isinstance(last, nn.Linear)
        last.bias -= net(noise).mean(0)
        last.weight *= 40
        last.bias *= 40
    return net.eval()


def images(
    module: nn.Module, classes: int, n: int = 8, shape: tuple[int, int, int] = SHAPE, spread: float = 0.2, seed: int = 0
) -> Images:
    """Images around mid-grey, labelled as the model sees them, with ids that are not their rows."""
    generator = torch.Generator().manual_seed(seed)
    x = 0.5 + spread * (2 * torch.rand(n, *shape, generator=generator) - 1)
    with torch.no_grad():
        y = module(x).argmax(1)
    ids = torch.arange(n) * 3 + 100
    return Images(x, y, ids, tuple(f"class {i}" for i in range(classes)), "toys")


@dataclass(frozen=True)
class Trace:
    """What an attack did, step by step: the points after `start` and after each step, and what it asked for."""

    points: list[Tensor]
    questions: int

    @property
    def last(self) -> Tensor:
        return self.points[-1]


def problem(
    subject: Subject, data: Images, threat: str | Threat, target: int = -1, restart: int = 0, step: int = 0
) -> Problem:
    """The problem an engine would pose for these images."""
    n = len(data)
    return Problem(
        x=data.x,
        y=data.y,
        target=torch.full((n,), target),
        ids=data.ids,
        restart=torch.full((n,), restart),
        step=torch.full((n,), step),
        threat=parse_threat(threat),
        key=rng.key(0, "test"),
        oracle=RecordingOracle(subject, 8),
    )


def trace(attack: Any, posed: Problem) -> Trace:
    """Run an attack to its end, whatever it breaks on the way."""
    state = attack.start(posed)
    points = [state.x]
    for step in range(1, attack.steps + 1):
        state = attack.step(replace(posed, step=torch.full_like(posed.step, step)), state)
        points.append(state.x)
    assert isinstance(posed.oracle, RecordingOracle)
    return Trace(points, len(posed.oracle.questions))


def work(judge: Judge, data: Images, goal: int = -1) -> Work:
    """The work on all images, whatever the model says of them."""
    _, ranking = first_look(judge, data)
    goals = torch.full_like(data.y, goal)
    return Work(data.x, data.y, data.ids, ranking, goals, torch.zeros_like(goals))


def engine(
    subject: Subject,
    data: Images,
    attack: Any,
    threat: str | Threat,
    slots: int = 4,
    goal: int = -1,
    search: Model | None = None,
) -> Engine:
    """An engine that searches on the subject itself, or on another model."""
    judge = Judge(subject)
    probe = Probe("toy", attack, parse_threat(threat), search or subject, rng.key(0, "toy"), search is None)
    return Engine(probe, work(judge, data, goal), judge, slots)


def settle(running: Engine) -> list[Settled]:
    """Every finished job, by image and job."""
    return sorted((one for batch in running.run() for one in batch), key=lambda one: (one.row, one.job))
