"""Nearest twins side by side: DDN, FMN, DeepFool and C&W of Faultlight, Foolbox, adv-lib and torchattacks.

    python -m benchmarks.minimal                          all attacks, 200 images, into docs/benchmarks.md
    python -m benchmarks.minimal --only ddn --rounds 1 --dry

Each contender runs in a process of its own, one after the other, round after round; the figures are medians. Distances
are measured and twins judged by the same float32 judge for all; an image that a contender leaves unbroken, or hands
back still classified correctly, lies at distance ∞. Images that are wrong without any attack are left out of the
figures. Faultlight's time includes the clean pass and the judge's passes.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

import faultlight as fl
from benchmarks import advlib, nets, tables
from benchmarks.apart import run_apart
from faultlight import files, geometry
from faultlight.attacks._contract import Attack
from faultlight.attacks.carlini_wagner import CarliniWagner
from faultlight.attacks.ddn import DDN
from faultlight.attacks.deep_fool import DeepFool
from faultlight.attacks.fmn import FMN
from faultlight.data.images import Images
from faultlight.data.load import load_data
from faultlight.evaluation.judge import Judge
from faultlight.models.subject import Subject
from faultlight.runtime import keep_allocator
from faultlight.threat import Norm

STEPS = 100
# Of the peers' C&W: weights tried, and iterations for each.
SEARCHES, ITERATIONS = 9, 100
_CAPS: dict[Norm, str] = {"l2": "l2:20", "linf": "linf:1", "l1": "l1:700", "l0": "l0:784"}
_P: dict[Norm, float] = {"l2": 2, "linf": math.inf, "l1": 1, "l0": 0}

Run = Callable[[nn.Module, Images], Tensor]


@dataclass(frozen=True)
class Contender:
    """Who runs, in which contest and norm, and whether it is Faultlight's."""

    contest: str
    norm: Norm
    run: Run
    ours: bool = False


@dataclass(frozen=True)
class Found:
    """What one run came to.

    Args:
        seconds: wall time of the attack.
        median: of the distances, unbroken images at ∞ (null in JSON).
        mean: of the distances of the broken.
        broken: images that the judge finds broken.
        n: images that were right.
    """

    seconds: float
    median: float | None
    mean: float | None
    broken: int
    n: int


def ours(attack: Attack, norm: Norm) -> Run:
    """`fl.attack` as it comes."""
    return lambda module, images: fl.attack(Subject(module, len(images.classes)), images, attack, _CAPS[norm]).x


def foolbox(name: str, **settings: Any) -> Run:
    """An attack of Foolbox on all images in one batch."""

    def run(module: nn.Module, images: Images) -> Tensor:
        import foolbox

        model = foolbox.PyTorchModel(module, bounds=(0, 1), device="cpu")
        _, x, _ = getattr(foolbox.attacks, name)(**settings)(model, images.x, images.y, epsilons=None)
        return x.detach()

    return run


def adv_lib(module: str, function: str, **settings: Any) -> Run:
    """A function of adv-lib on all images in one batch."""

    def run(net: nn.Module, images: Images) -> Tensor:
        attack = getattr(advlib.load(module), function)
        return attack(net, images.x, images.y, **settings).detach()

    return run


def torchattacks(name: str, **settings: Any) -> Run:
    """An attack of torchattacks on all images in one batch."""

    def run(module: nn.Module, images: Images) -> Tensor:
        import torchattacks

        return getattr(torchattacks, name)(module, **settings)(images.x, images.y).detach()

    return run


def _fmn(norm: Norm, name: str) -> dict[str, Contender]:
    contest = f"FMN-{STEPS}, {norm_title(norm)}"
    return {
        f"foolbox {name}": Contender(contest, norm, foolbox(name, steps=STEPS)),
        f"adv-lib fmn {norm}": Contender(
            contest, norm, adv_lib("fast_minimum_norm", "fmn", norm=_P[norm], steps=STEPS)
        ),
        f"faultlight FMN {norm}": Contender(contest, norm, ours(FMN(STEPS), norm), ours=True),
        f"faultlight FMN {norm}, 30 steps": Contender(contest, norm, ours(FMN(30), norm), ours=True),
    }


def norm_title(norm: Norm) -> str:
    """Return a norm as a reader would write it."""
    return {"linf": "L∞", "l2": "L2", "l1": "L1", "l0": "L0"}[norm]


_DDN = f"DDN-{STEPS}"
_SOUGHT = {"binary_search_steps": SEARCHES}
CONTENDERS: dict[str, Contender] = {
    "foolbox DDNAttack": Contender(_DDN, "l2", foolbox("DDNAttack", steps=STEPS)),
    "adv-lib ddn": Contender(_DDN, "l2", adv_lib("decoupled_direction_norm", "ddn", steps=STEPS, levels=None)),
    "faultlight DDN": Contender(_DDN, "l2", ours(DDN(STEPS), "l2"), ours=True),
    "faultlight DDN, 30 steps": Contender(_DDN, "l2", ours(DDN(30), "l2"), ours=True),
    **_fmn("l2", "L2FMNAttack"),
    **_fmn("linf", "LInfFMNAttack"),
    **_fmn("l1", "L1FMNAttack"),
    **_fmn("l0", "L0FMNAttack"),
    "foolbox L2DeepFoolAttack": Contender("DeepFool, L2", "l2", foolbox("L2DeepFoolAttack")),
    "torchattacks DeepFool": Contender("DeepFool, L2", "l2", torchattacks("DeepFool")),
    "faultlight DeepFool": Contender("DeepFool, L2", "l2", ours(DeepFool(), "l2"), ours=True),
    "foolbox LinfDeepFoolAttack": Contender("DeepFool, L∞", "linf", foolbox("LinfDeepFoolAttack")),
    "faultlight DeepFool linf": Contender("DeepFool, L∞", "linf", ours(DeepFool(), "linf"), ours=True),
    "foolbox L2CarliniWagnerAttack": Contender(
        "C&W, L2", "l2", foolbox("L2CarliniWagnerAttack", steps=ITERATIONS, **_SOUGHT)
    ),
    "adv-lib carlini_wagner_l2": Contender(
        "C&W, L2", "l2", adv_lib("carlini_wagner.l2", "carlini_wagner_l2", max_iterations=ITERATIONS, **_SOUGHT)
    ),
    "torchattacks CW": Contender("C&W, L2", "l2", torchattacks("CW", steps=SEARCHES * ITERATIONS)),
    "faultlight CarliniWagner": Contender("C&W, L2", "l2", ours(CarliniWagner(), "l2"), ours=True),
}


def measure(name: str, module: Callable[[], nn.Module], images: Images) -> Found:
    """Run a contender on two images to warm up, then on all, and have its twins judged."""
    contender = CONTENDERS[name]
    if contender.ours:
        keep_allocator()
    torch.manual_seed(0)
    contender.run(module(), images.take(torch.arange(2)))
    net = module()
    began = time.perf_counter()
    x = contender.run(net, images)
    return judged(module(), images, x.contiguous(), contender.norm, time.perf_counter() - began)


def judged(module: nn.Module, images: Images, x: Tensor, norm: Norm, seconds: float) -> Found:
    """Return how near the twins lie, by the float32 judge, over the images that were right."""
    judge = Judge(Subject(module, len(images.classes)))
    right = judge.logits(images.x).argmax(1) == images.y
    inside = (x.flatten(1).amin(1) >= -1e-6) & (x.flatten(1).amax(1) <= 1 + 1e-6)
    broken = (judge.logits(x).argmax(1) != images.y) & inside & right
    distance = geometry.norm(x.double() - images.x.double(), norm)
    ranked = torch.where(broken, distance, torch.inf)[right]
    middle, mean = float(ranked.quantile(0.5, interpolation="lower")), float(distance[broken].mean())
    return Found(seconds, _finite(middle), _finite(mean), int(broken.sum()), int(right.sum()))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def table(found: dict[str, list[Found]]) -> str:
    """Return the figures of every contender, contest by contest, and Faultlight's gain on the fastest peer."""
    rows = []
    for contest in dict.fromkeys(CONTENDERS[name].contest for name in found):
        names = [name for name in found if CONTENDERS[name].contest == contest]
        peers = [_seconds(found[name]) for name in names if not CONTENDERS[name].ours]
        for name in names:
            runs, first = found[name], found[name][0]
            gain = f"{min(peers) / _seconds(runs):.1f}×" if CONTENDERS[name].ours and peers else ""
            distances = ["∞" if value is None else f"{value:.4g}" for value in (first.median, first.mean)]
            rows.append([contest, name, f"{first.broken} of {first.n}", *distances, f"{_seconds(runs):.2f}", gain])
    head = ["", "", "broken", "median distance", "mean of the broken", "wall s", "less time than the fastest peer"]
    return tables.table(head, rows)


def _seconds(runs: list[Found]) -> float:
    return median(run.seconds for run in runs)


def main() -> None:
    """Run what is asked and write the page, or carry out one order."""
    arguments = _arguments()
    if arguments.order:
        order = json.loads(arguments.order)
        net = nets.NETS[order["net"]]
        images = load_data(net.data, split="test", n=order["n"])
        print(json.dumps(asdict(measure(order["name"], lambda: nets.load(net), images))))
        return
    nets.trained(nets.NETS[arguments.net])
    names = [name for name in CONTENDERS if _wanted(name, arguments.only)]
    found: dict[str, list[Found]] = {name: [] for name in names}
    for turn in range(arguments.rounds):
        for name in names:
            order = {"name": name, "net": arguments.net, "n": arguments.n}
            found[name].append(Found(**run_apart("minimal", order, arguments.threads)))
            print(f"round {turn + 1}: {name}: {found[name][-1]}", flush=True)
    text = f"{arguments.net}, {arguments.n} images.\n\n{table(found)}\n\n{tables.machine(arguments.threads)}"
    print(f"\n{text}\n", flush=True)
    if not arguments.dry:
        kept = {name: [asdict(run) for run in runs] for name, runs in found.items()}
        files.write_json(nets.CACHE / "bench-minimal.json", kept)
        tables.put(tables.PAGE, "minimal", text)


def _wanted(name: str, only: str) -> bool:
    return only.lower() in f"{name} {CONTENDERS[name].contest}".lower()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    parser.add_argument("--net", default="mnist-plain", choices=list(nets.NETS))
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="contenders or contests whose name holds this, such as ddn")
    parser.add_argument("--dry", action="store_true", help="print the table, write no page")
    parser.add_argument("--order", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the peers call on what numpy and torch have deprecated
        main()
