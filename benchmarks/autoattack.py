"""Against the original AutoAttack: the same images, per image who broke it, wall time and passes through the network.

    python -m benchmarks.autoattack                           both networks, into docs/benchmarks.md
    python -m benchmarks.autoattack --only mnist-hard --n 100 --dry

The contenders are the original code (`pyautoattack`, its standard version), Faultlight's `--effort standard` and its
`--effort exact`. Each runs in a process of its own, one after the other, round after round. Faultlight's time is the
whole audit's: clean look, attacks, canary, exact sample, curve, checks, the judge's re-check of every twin, records.
What stands at the end is decided for all of them by the same float32 judge.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks import nets, tables
from benchmarks.apart import run_apart
from benchmarks.counting import Counting
from faultlight import files
from faultlight.data.images import Images
from faultlight.data.load import load_data
from faultlight.evaluation.audit import audit_images
from faultlight.evaluation.judge import Judge
from faultlight.evaluation.probing import rows_of
from faultlight.evaluation.settings import Settings
from faultlight.models.subject import Subject
from faultlight.runtime import keep_allocator
from faultlight.threat import parse_threat

ORIGINAL = "AutoAttack"


@dataclass(frozen=True)
class Contest:
    """A network, the first images of its test split, a threat, and the batch that the original is fastest with."""

    net: str
    n: int
    threat: str
    batch: int


@dataclass(frozen=True)
class Outcome:
    """What one contender came to.

    Args:
        seconds: wall time.
        cpu: processor time over all threads.
        forwards: images sent through the network.
        backwards: images whose gradient was asked for.
        standing: ids of the images that the judge finds standing.
        clean: ids of the images that are right without attack.
    """

    seconds: float
    cpu: float
    forwards: int
    backwards: int
    standing: list[int]
    clean: list[int]


CONTESTS = (Contest("mnist-hard", 500, "linf:0.3", 250), Contest("cifar-narrow", 500, "linf:8/255", 125))


@dataclass(frozen=True)
class Attacked:
    """Points, and the passes that were spent on them."""

    x: Tensor
    forwards: int
    backwards: int


def original(module: nn.Module, images: Images, contest: Contest) -> Attacked:
    """The original's standard version, as its users call it, from a fixed seed."""
    from pyautoattack import AutoAttack

    logging.basicConfig(level=logging.DEBUG, format="%(message)s")  # what each of its parts did, on standard error
    counting, radius = Counting(module), parse_threat(contest.threat).epsilon
    attack = AutoAttack(counting, norm="Linf", eps=radius, version="standard", seed=0, device="cpu")
    x = attack.run_standard_evaluation(images.x, images.y, batch_size=contest.batch)[0]
    return Attacked(x, counting.forwards, counting.backwards)


def ours(effort: str) -> Callable[[nn.Module, Images, Contest], Attacked]:
    """A whole audit of that effort, the report's page alone left out."""

    def run(module: nn.Module, images: Images, contest: Contest) -> Attacked:
        with tempfile.TemporaryDirectory() as folder:
            settings = Settings(parse_threat(contest.threat), effort)
            subject = Subject(module, len(images.classes), name=contest.net)
            verdict = audit_images(subject, images, settings, Path(folder), quiet=True).verdict
            print(verdict.sentence, *(f"{f.check}: {f.evidence}" for f in verdict.findings), sep="\n", file=sys.stderr)
            twins = load_file(Path(folder) / "arrays" / "adversarial.safetensors")
            cost = files.read_json(Path(folder) / "verdict.json")["cost"]
        x = images.x.clone()
        x[rows_of(images, twins["ids"].tolist())] = twins["x"]
        return Attacked(x, cost["forward"], cost["backward"])

    return run


CONTENDERS = {ORIGINAL: original, "standard": ours("standard"), "exact": ours("exact")}


def measure(name: str, contest: Contest) -> Outcome:
    """Run one contender once, in this process."""
    net = nets.NETS[contest.net]
    images = load_data(net.data, split="test", n=contest.n)
    if name != ORIGINAL:
        keep_allocator()
    module = nets.load(net)
    with torch.no_grad():
        module(images.x[:32])  # the first call sets up the library's kernels
    wall, cpu = time.perf_counter(), time.process_time()
    attacked = CONTENDERS[name](module, images, contest)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    clean = _right(net, images, images.x)
    standing = clean & _right(net, images, _within(attacked.x, images, contest))
    return Outcome(wall, cpu, attacked.forwards, attacked.backwards, sorted(standing), sorted(clean))


def _within(x: Tensor, images: Images, contest: Contest) -> Tensor:
    """Points that have left the ball by more than rounding are no points at all."""
    far = (x.double() - images.x.double()).abs().flatten(1).amax(1) > parse_threat(contest.threat).epsilon * (1 + 1e-5)
    return torch.where(far.view(-1, 1, 1, 1), images.x, x).contiguous()


def _right(net: nets.Net, images: Images, x: Tensor) -> set[int]:
    right = Judge(Subject(nets.load(net), len(images.classes))).logits(x).argmax(1) == images.y
    return set(images.ids[right].tolist())


def race_table(rounds: dict[str, list[Outcome]], n: int) -> str:
    """Return who left how much standing at which cost."""
    first = rounds[ORIGINAL]
    wall, passes = median(o.seconds for o in first), median(o.forwards + o.backwards for o in first)
    rows = []
    for name, found in rounds.items():
        seconds, spent = median(o.seconds for o in found), median(o.forwards + o.backwards for o in found)
        stands = " – ".join(dict.fromkeys(f"{len(o.standing) / n:.1%}" for o in found))
        span = f"{min(o.seconds for o in found):.1f} – {max(o.seconds for o in found):.1f}"
        passes_each = f"{found[0].forwards:,} + {found[0].backwards:,}"
        rows.append(
            [name, stands, f"{seconds:.1f}", span, f"{wall / seconds:.1f}×", passes_each, f"{passes / spent:.1f}×"]
        )
    head = ["", "still right", "wall s", "shortest – longest", "less time", "passes forward + backward", "fewer passes"]
    return tables.table(head, rows)


def pairs_table(rounds: dict[str, list[Outcome]]) -> str:
    """Return, per image that is right without attack, who broke it: in the first round of each."""
    theirs = rounds[ORIGINAL][0]
    clean = set(theirs.clean)
    rows = []
    for name, found in rounds.items():
        if name == ORIGINAL:
            continue
        us, them = clean - set(found[0].standing), clean - set(theirs.standing)
        counts = [us & them, us - them, them - us, clean - us - them]
        rows.append([name, *(str(len(group)) for group in counts)])
    return tables.table(["images broken by", "both", "only Faultlight", "only AutoAttack", "neither"], rows)


def main() -> None:
    """Run what is asked and write the page."""
    arguments = _arguments()
    if arguments.order:
        order = json.loads(arguments.order)
        print(json.dumps(asdict(measure(order["name"], Contest(**order["contest"])))))
        return
    for contest in CONTESTS:
        if arguments.only in ("", contest.net):
            _one(contest, arguments)


def _one(contest: Contest, arguments: argparse.Namespace) -> None:
    nets.trained(nets.NETS[contest.net])
    contest = Contest(contest.net, arguments.n or contest.n, contest.threat, contest.batch)
    names = arguments.contenders.split(",")
    rounds: dict[str, list[Outcome]] = {name: [] for name in names}
    for turn in range(arguments.rounds):
        for name in names:
            order = {"name": name, "contest": asdict(contest)}
            found = Outcome(**run_apart("autoattack", order, arguments.threads))
            rounds[name].append(found)
            print(
                f"{contest.net} round {turn + 1}: {name}: {found.seconds:.1f} s, {len(found.standing)} stand",
                flush=True,
            )
            files.write_json(nets.CACHE / f"autoattack-{contest.net}-{name}.json", [asdict(o) for o in rounds[name]])
    if ORIGINAL in rounds:
        text = f"{race_table(rounds, contest.n)}\n\n{pairs_table(rounds)}"
        print(f"\n{text}\n", flush=True)
        if not arguments.dry:
            tables.put(tables.PAGE, f"autoattack-{contest.net}", text)
            tables.put(tables.PAGE, "machine", tables.machine(arguments.threads))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    parser.add_argument("--only", default="", choices=["", *(contest.net for contest in CONTESTS)])
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help="separated by commas")
    parser.add_argument("--n", type=int, default=0, help="images; 0 is each contest's own number")
    parser.add_argument("--dry", action="store_true", help="print the tables, write no page")
    parser.add_argument("--order", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
