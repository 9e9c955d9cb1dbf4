"""One contender in a process of its own: it loads, warms up, times the attack alone, and prints what it found as JSON.

The allocator's setting, the threads and what a library does on import belong to the whole process; so each
contender gets one, and the peers' is left as they leave it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from benchmarks import contenders, ladder, nets
from benchmarks.apart import run_apart
from benchmarks.contenders import Contender, Problem
from faultlight.data.images import Images
from faultlight.data.load import load_data
from faultlight.evaluation.judge import Judge
from faultlight.models.subject import Subject
from faultlight.runtime import keep_allocator


@dataclass(frozen=True)
class Entry:
    """A contender's function, and whether its process asks the allocator to keep memory, as Faultlight's does."""

    attack: Contender
    keep: bool


@dataclass(frozen=True)
class Found:
    """What one run came to.

    Args:
        seconds: wall time of the attack.
        cpu: processor time of the attack, over all threads.
        standing: images that are predicted right at the end, by the float32 judge.
        n: images in all.
        farthest: the largest L∞ distance of any point from its image.
    """

    seconds: float
    cpu: float
    standing: int
    n: int
    farthest: float


ENTRIES: dict[str, Entry] = {
    **{name: Entry(attack, keep=False) for name, attack in contenders.PEERS.items()},
    **{name: Entry(attack, keep=True) for name, attack in contenders.OURS.items()},
    "faultlight, float32 search": Entry(contenders.faultlight_float32, keep=True),
    "faultlight, default allocator": Entry(contenders.faultlight, keep=False),
    **{name: Entry(partial(ladder.climb, rung), rung.keep) for name, rung in ladder.LADDER.items()},
}


def found_apart(name: str, problem: Problem, batch: int, threads: int) -> Found:
    """Return what a contender comes to in a new process with so many threads."""
    return Found(**run_apart("worker", {"name": name, "problem": problem.__dict__, "batch": batch}, threads))


def measure(entry: Entry, module: Callable[[], nn.Module], images: Images, problem: Problem, batch: int) -> Found:
    """Time an attack after a warm-up of one step on the same images, and have the result judged.

    Args:
        entry: the contender.
        module: returns the network afresh, so that nothing a run changes in it reaches the next.
        images: what is attacked.
        problem: how.
        batch: images at once.
    """
    entry.attack(module(), images, replace(problem, steps=1), batch)
    net = module()
    wall, cpu = time.perf_counter(), time.process_time()
    x = entry.attack(net, images, problem, batch)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Found(wall, cpu, *_judged(module(), images, x))


def _judged(module: nn.Module, images: Images, x: Tensor) -> tuple[int, int, float]:
    logits = Judge(Subject(module, len(images.classes))).logits(x.contiguous())
    farthest = float((x.double() - images.x.double()).abs().max())
    return int((logits.argmax(1) == images.y).sum()), len(images), farthest


def main(order: dict[str, Any]) -> None:
    """Carry out one order: {"name", "problem", "batch"}."""
    entry, problem = ENTRIES[order["name"]], Problem(**order["problem"])
    if entry.keep:
        keep_allocator()
    net = nets.NETS[problem.net]
    images = load_data(net.data, split="test", n=problem.n)
    print(json.dumps(measure(entry, partial(nets.load, net), images, problem, order["batch"]).__dict__))


if __name__ == "__main__":
    main(json.loads(sys.argv[sys.argv.index("--order") + 1]))
