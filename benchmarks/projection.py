"""Strongest images and their projections side by side with the passes that they need, and with Captum.

    python -m benchmarks.projection                          all nets, five rounds, into docs/benchmarks.md
    python -m benchmarks.projection --only mnist --n 500 --rounds 1 --dry

Everything but the memory runs in one process, turn and turn about, and the figures are medians. Mining keeps the top
nine of every channel of every watched layer; it races the plain forward passes, in the best of several batch sizes and
layouts. Then, layer by layer, the top nine of all channels are projected; that races as many bare forward and backward
passes between the pixels and the layer, nothing beyond it, also in the best batch size and layout. Captum's
NeuronDeconvolution goes two ways: a call a unit, as its pages show it (timed on a sample of the units and scaled up),
and in batches by a selector that picks a unit for each row, in the best of several batch sizes. Its answers are only
right where every ReLU is a module of its own and none comes before a residual sum; here only its time is compared.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from benchmarks import nets, tables
from benchmarks.apart import run_apart
from faultlight import files
from faultlight.data.images import Images
from faultlight.data.load import load_data
from faultlight.models.subject import Subject
from faultlight.runtime import keep_allocator
from faultlight.views._field import receptive_field
from faultlight.views._layout import in_channels_last, layout_of
from faultlight.views._mine import Top, mine
from faultlight.views._project import Backward, Units, reach
from faultlight.views._windows import project_units
from faultlight.views.listening import modules_of
from faultlight.views.moved import watched_layers
from faultlight.views.strongest import units_of

TOP = 9
BATCHES = (32, 64, 128, 256)
CAPTUM_BATCHES = (32, 128)
# Rows, or images, on which a batch size and a layout are chosen, and units on which Captum's calls are timed.
PART, SAMPLE = 128, 9
MEMORY_IMAGES = 60_000
CASES = {"mnist": ("mnist-plain", 10_000), "cifar": ("cifar-cnn", 10_000), "cifar-narrow": ("cifar-narrow", 10_000)}
MINING = "mining the top nine"

Run = Callable[[], object]


@dataclass(frozen=True)
class Race:
    """The seconds of every contender, round by round: mining, and each layer's projections."""

    projections: int
    mining: dict[str, list[float]] = field(default_factory=dict)
    layers: dict[str, dict[str, list[float]]] = field(default_factory=dict)


def race(name: str, n: int, rounds: int, only: str = "") -> Race:
    """Mine once, then run every contender, round after round; the first round warms up."""
    net = nets.NETS[name]
    images = load_data(net.data, split="test", n=n)
    plain = Subject(nets.load(net), len(images.classes), name)
    quick = in_channels_last(plain, images.x[:4])
    layers = [layer for layer in watched_layers(plain, images.x[:1]) if only in layer]
    tops = mine(quick, images, layers, TOP)
    bare = _best(
        {(one, rows): partial(_forward, one, rows) for one in (plain, quick) for rows in BATCHES}, images.first(PART)
    )
    mining: dict[str, Run] = {"forward passes": bare(images), MINING: lambda: mine(quick, images, layers, TOP)}
    projecting = {layer: _contenders(plain, quick, images, layer, tops[layer]) for layer in layers}
    found = Race(sum(top.value.numel() for top in tops.values()))
    for turn in range(rounds + 1):
        for contender, run in mining.items():
            _note(found.mining, contender, _seconds(run), turn)
        for layer, contenders in projecting.items():
            for contender, (run, scale) in contenders.items():
                _note(found.layers.setdefault(layer, {}), contender, scale * _seconds(run), turn)
    return found


def _note(kept: dict[str, list[float]], name: str, seconds: float, turn: int) -> None:
    if turn:
        kept.setdefault(name, []).append(seconds)


def _contenders(plain: Subject, quick: Subject, images: Images, layer: str, top: Top) -> dict[str, tuple[Run, float]]:
    """Return what races for a layer, each with what its time is multiplied by."""
    units = units_of(top, torch.arange(len(top.value)))
    part = units.take(torch.arange(min(PART, len(units))))
    bare = _best(
        {(one, rows): partial(_there_and_back, one, layer, rows) for one in (plain, quick) for rows in BATCHES},
        images,
        part,
    )
    peer = _best(
        {(plain, rows): partial(_captum, plain, layer, top.sides, rows) for rows in CAPTUM_BATCHES}, images, part
    )
    sample = units.take(torch.arange(min(SAMPLE, len(units))))
    return {
        "passes": (bare(images, units), 1),
        "faultlight": (lambda: _project(quick, images, layer, units), 1),
        "captum, in batches": (peer(images, units), 1),
        "captum, a call a unit": (_captum(plain, layer, top.sides, 1, images, sample), len(units) / len(sample)),
    }


def _project(subject: Subject, images: Images, layer: str, units: Units) -> Tensor:
    """The projections as the view makes them, finding the receptive fields included."""
    fields = receptive_field(subject, images.shape, layer)
    return project_units(subject, images, layer, units, fields, Backward())


def _best(choices: dict[tuple[Subject, int], Callable[..., Run]], *on: object) -> Callable[..., Run]:
    """Return the choice that is fastest on a part: the best of two runs, after one that warms up."""
    spent = {}
    for key, ready in choices.items():
        run = ready(*on)
        spent[key] = min(_seconds(run) for _ in range(3))
    return choices[min(spent, key=spent.__getitem__)]


def _forward(subject: Subject, rows: int, images: Images) -> Run:
    """The forward passes alone."""
    pixels = images.x.contiguous(memory_format=layout_of(subject))

    def run() -> None:
        with torch.no_grad():
            for x in torch.split(pixels, rows):
                subject.module(x)

    return run


def _there_and_back(subject: Subject, layer: str, rows: int, images: Images, units: Units) -> Run:
    """As many forward and backward passes as there are units, on pixels and signals that lie ready."""
    x = images.x[torch.arange(rows) % len(images)].contiguous(memory_format=layout_of(subject))
    signal = torch.rand_like(reach(subject, x, layer))

    def run() -> None:
        for first in range(0, len(units), rows):
            some = min(rows, len(units) - first)
            leaf = x[:some].requires_grad_()
            torch.autograd.grad(reach(subject, leaf, layer), leaf, signal[:some])

    return run


def _captum(subject: Subject, layer: str, sides: tuple[int, int], rows: int, images: Images, units: Units) -> Run:
    """Captum's NeuronDeconvolution of the units, so many rows at a time, times their activations."""
    from captum.attr import NeuronDeconvolution

    peer = NeuronDeconvolution(subject.module, modules_of(subject)[layer.partition("#")[0]])

    def run() -> None:
        for part in torch.split(torch.arange(len(units)), rows):
            some = units.take(part)
            kept: list[Tensor] = []

            def select(output: Tensor, some: Units = some, kept: list[Tensor] = kept) -> Tensor:
                maps = output.flatten(2) if output.ndim > 2 else output[..., None]
                kept.append(maps[torch.arange(len(some)), some.channel, some.position])
                return kept[-1]

            found = peer.attribute(images.x[some.image].requires_grad_(), select)
            found.detach() * kept[-1].detach().view(-1, 1, 1, 1)

    return run


def _seconds(run: Run) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def peak(name: str, n: int) -> float:
    """Return by how many mebibytes the memory at its largest exceeds what images and net hold, while they are mined."""
    net = nets.NETS[name]
    module, shape = nets.load(net), load_data(net.data, split="test", n=1).shape
    images = Images(torch.rand(n, *shape), torch.zeros(n, dtype=torch.int64), torch.arange(n), tuple("0123456789"))
    subject = Subject(module, 10, name)
    mine(subject, images.first(2), watched_layers(subject, images.x[:1]), TOP)
    float(images.x.sum())  # pages long unused may have left the resident set, and would be counted as added
    held = _resident("VmRSS")
    mine(in_channels_last(subject, images.x[:4]), images, watched_layers(subject, images.x[:1]), TOP)
    return _resident("VmHWM") - held


def _resident(field: str) -> float:
    """Return the resident memory of this process in mebibytes: VmRSS, or VmHWM, the most there was.

    Not `getrusage`: its maximum is passed on to a child, so it would be that of the process that asked.
    """
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) / 2**10


def table(name: str, n: int, found: Race, memory: float, held: int) -> str:
    """Return the figures of a net: mining, each layer's projections, their sum, and the memory."""
    passes, mined = (median(seconds) for seconds in found.mining.values())
    rows = [_row(layer, {name: median(spent) for name, spent in own.items()}) for layer, own in found.layers.items()]
    names = next(iter(found.layers.values()))
    total = {name: sum(median(own[name]) for own in found.layers.values()) for name in names}
    head = [
        "layer",
        "bare passes s",
        "faultlight s",
        "of their speed",
        "Captum in batches s",
        "a call a unit s",
        "less time",
    ]
    return "\n".join(
        [
            f"{name}, {n:,} images, {len(found.layers)} layers, {found.projections:,} projections.",
            "",
            f"Mining the top nine of every channel of every layer takes {mined:.2f} s, the forward passes alone "
            f"{passes:.2f} s ({100 * passes / mined:.0f} % of their speed); {held:,} images add {memory:.0f} MiB.",
            "",
            tables.table(head, [*rows, _row("all", total)]),
        ]
    )


def _row(layer: str, spent: dict[str, float]) -> list[str]:
    passes, ours, batched, single = spent.values()
    return [
        layer,
        f"{passes:.2f}",
        f"{ours:.2f}",
        f"{100 * passes / ours:.0f} %",
        f"{batched:.2f}",
        f"{single:.2f}",
        f"{batched / ours:.1f}×, {single / ours:.1f}×",
    ]


def main() -> None:
    """Run what is asked and write the page, or carry out one order."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    if arguments.order:
        print(peak(**json.loads(arguments.order)))
        return
    keep_allocator()
    parts, kept = [], {}
    for case, (name, n) in CASES.items():
        if arguments.only not in case:
            continue
        n, held = arguments.n or n, arguments.held
        found = race(name, n, arguments.rounds, arguments.layer)
        parts.append(table(name, n, found, run_apart("projection", {"name": name, "n": held}, arguments.threads), held))
        kept[name] = {"mining": found.mining, "layers": found.layers}
        print(f"{parts[-1]}\n", flush=True)
    if not arguments.dry:
        files.write_json(nets.CACHE / "bench-projection.json", kept)
        tables.put(tables.PAGE, "projection", "\n\n".join([*parts, tables.machine(arguments.threads)]))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    parser.add_argument("--only", default="", help="cases whose name holds this: mnist, cifar or cifar-narrow")
    parser.add_argument("--layer", default="", help="layers whose name holds this")
    parser.add_argument("--n", type=int, default=0, help="images mined; the case's own number when left out")
    parser.add_argument("--held", type=int, default=MEMORY_IMAGES, help="images of the measurement of memory")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dry", action="store_true", help="print the tables, write no page")
    parser.add_argument("--order", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Captum calls on what torch has deprecated
        main()
