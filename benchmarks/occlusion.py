"""Occlusion side by side with the forward passes that it needs, and with Captum's.

    python -m benchmarks.occlusion                         both cases, five rounds, into docs/benchmarks.md
    python -m benchmarks.occlusion --only mnist --n 10 --rounds 1 --dry

Everything runs in one process, turn and turn about, and the figures are medians. The bare passes are as many as there
are images and positions, on pixels that lie ready, in the best of several batch sizes and layouts; Captum runs at the
best of several `perturbations_per_eval`. Both are chosen on a part of the images before the race. Captum's numbers are
the averages of differences over the positions that cover a pixel, so only the passes are the same, not the answer.
"""

from __future__ import annotations

import argparse
import copy
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median

import torch
from torch import Tensor, nn

from benchmarks import nets, tables
from faultlight import files
from faultlight.data.images import Images
from faultlight.data.load import load_data
from faultlight.models.search import search_copy
from faultlight.models.subject import Subject
from faultlight.runtime import keep_allocator
from faultlight.views.occlusion import Occlusion
from faultlight.views.sliding import Grid, slide

FILL = 0.5
BATCHES = (64, 128, 256, 512)
AT_ONCE = (1, 2, 4, 8, 16, 32, 64)
# Images on which batch sizes, layouts and Captum's setting are chosen.
PART = 8


@dataclass(frozen=True)
class Case:
    """What is covered, and how."""

    net: str
    n: int
    patch: int
    stride: int

    def grid(self, images: Images) -> Grid:
        """Return the positions on images of this size."""
        return Grid(*images.shape[1:], self.patch, self.stride)


@dataclass(frozen=True)
class Race:
    """The seconds of each contender, round by round, and what was found beside them."""

    passes: int
    seconds: dict[str, list[float]]
    bare: str
    at_once: int
    arithmetic: str
    deviation: float
    flipped: float


CASES = {"mnist": Case("mnist-plain", 100, 12, 4), "cifar": Case("cifar-narrow", 50, 8, 2)}
LAYOUTS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "as it comes": copy.deepcopy,
    "channels-last": lambda net: copy.deepcopy(net).to(memory_format=torch.channels_last),
}
Run = Callable[[], object]


def race(case: Case, n: int, rounds: int) -> Race:
    """Run every contender, round after round."""
    net = nets.NETS[case.net]
    images, module = load_data(net.data, split="test", n=n), nets.load(net).requires_grad_(False)
    subject = Subject(module, len(images.classes), case.net)
    part, grid = images.first(PART), case.grid(images)
    bare = _best(
        {f"{layout}, {rows} at once": partial(_bare, layout, rows, module) for layout in LAYOUTS for rows in BATCHES},
        part,
        grid,
    )
    captum = _best(
        {str(count): partial(_captum, count, module) for count in AT_ONCE if count <= len(grid.corners)}, part, grid
    )
    view = Occlusion(case.patch, case.stride, FILL)
    contenders: dict[str, Run] = {
        "bare passes": bare[1](images, grid),
        "faultlight": lambda: view(subject, images),
        "captum": captum[1](images, grid),
    }
    quick, arithmetic = _quick(subject, images)
    if quick is not None:
        contenders["faultlight, search copy"] = lambda: slide(quick, images.x, images.y, grid, FILL)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, run in contenders.items():
            spent = _seconds(run)
            # The first round warms up.
            if turn:
                seconds[name].append(spent)
    return Race(
        n * len(grid.corners), seconds, bare[0], int(captum[0]), arithmetic, *_apart(subject, quick, images, grid)
    )


Ready = Callable[[Images, Grid], Run]


def _best(choices: dict[str, Ready], images: Images, grid: Grid) -> tuple[str, Ready]:
    """Return the choice that is fastest on some images: the best of two runs each, after one that warms up."""
    spent = {}
    for name, ready in choices.items():
        run = ready(images, grid)
        spent[name] = min(_seconds(run) for _ in range(3))
    name = min(spent, key=spent.__getitem__)
    return name, choices[name]


def _bare(layout: str, rows: int, module: nn.Module, images: Images, grid: Grid) -> Run:
    """The passes alone: as many as there are images and positions, on pixels that lie ready."""
    net, form = LAYOUTS[layout](module), torch.contiguous_format if layout == "as it comes" else torch.channels_last
    passes = len(images) * len(grid.corners)
    x = images.x.repeat(-(-rows // len(images)), 1, 1, 1)[:rows].contiguous(memory_format=form)

    def run() -> None:
        with torch.no_grad():
            for first in range(0, passes, rows):
                net(x[: min(rows, passes - first)])

    return run


def _captum(at_once: int, module: nn.Module, images: Images, grid: Grid) -> Run:
    """Captum's Occlusion of the true class's probability."""
    from captum.attr import Occlusion as Peer

    def probabilities(x: Tensor) -> Tensor:
        return module(x).softmax(1)

    channels = images.shape[0]
    peer, window = Peer(probabilities), (channels, grid.patch, grid.patch)
    strides = (channels, grid.stride, grid.stride)

    def run() -> Tensor:
        with torch.no_grad():
            found: Tensor = peer.attribute(
                images.x, window, strides, baselines=FILL, target=images.y, perturbations_per_eval=at_once
            )
            return found

    return run


def _quick(subject: Subject, images: Images) -> tuple[Subject | None, str]:
    """Return a subject that answers by the search copy, and its arithmetic."""
    found, agreement = search_copy(subject, images.x)
    if found is None or agreement is None:
        return None, ""
    # Not Subject(found): a subject is in float32, and would make the copy so.
    quick = copy.copy(subject)
    quick.module = found
    return quick, str(agreement.dtype).removeprefix("torch.")


def _apart(subject: Subject, quick: Subject | None, images: Images, grid: Grid) -> tuple[float, float]:
    """Return the search copy's largest deviation of a probability, and the share of other predictions."""
    if quick is None:
        return 0.0, 0.0
    exact, found = (slide(one, images.x, images.y, grid, FILL) for one in (subject, quick))
    deviation = float((exact.probability - found.probability).abs().max())
    return deviation, float((exact.prediction != found.prediction).float().mean())


def _seconds(run: Run) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def table(case: Case, n: int, found: Race) -> str:
    """Return the figures of a case: time, time a pass, speed against the bare passes, and gain on Captum."""
    middle = {name: median(seconds) for name, seconds in found.seconds.items()}
    rows = [
        [
            name,
            f"{spent:.2f}",
            f"{1e6 * spent / found.passes:.0f}",
            f"{100 * middle['bare passes'] / spent:.0f} %",
            f"{middle['captum'] / spent:.1f}×",
        ]
        for name, spent in middle.items()
    ]
    head = ["", "wall s", "µs a pass", "of the bare passes' speed", "less time than Captum"]
    lines = [
        f"{case.net}, {n} images, patch {case.patch}×{case.patch}, stride {case.stride}: {found.passes:,} passes.",
        "",
        tables.table(head, rows),
        "",
        f"Bare passes: {found.bare}. Captum: perturbations_per_eval={found.at_once}.",
    ]
    if found.arithmetic:
        lines[-1] += (
            f" The search copy is in {found.arithmetic}: probabilities deviate by up to {found.deviation:.1e}, and "
            f"{100 * found.flipped:.2f} % of its predictions are others."
        )
    return "\n".join(lines)


def main() -> None:
    """Run what is asked and write the page."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    keep_allocator()
    parts = []
    for name, case in CASES.items():
        if arguments.only not in name:
            continue
        n = arguments.n or case.n
        found = race(case, n, arguments.rounds)
        parts.append(table(case, n, found))
        print(f"{parts[-1]}\n", flush=True)
        if not arguments.dry:
            files.write_json(nets.CACHE / f"bench-occlusion-{name}.json", asdict(found))
    if not arguments.dry:
        tables.put(tables.PAGE, "occlusion", "\n\n".join([*parts, tables.machine(arguments.threads)]))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    parser.add_argument("--only", default="", help="cases whose name holds this: mnist or cifar")
    parser.add_argument("--n", type=int, default=0, help="images; the case's own number when left out")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dry", action="store_true", help="print the tables, write no page")
    return parser.parse_args()


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Captum calls on what torch has deprecated
        main()
