"""PGD side by side: Faultlight, torchattacks and Foolbox on the same images, steps, step length and random start.

    python -m benchmarks.pgd                   both problems and the ladder, into docs/benchmarks.md
    python -m benchmarks.pgd --only mnist-hard --rounds 1 --dry

Each contender runs in a process of its own, one after the other, round after round (A B C A B C …); the figures are
medians. Networks are trained once and kept in `.cache/`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from benchmarks import ladder, nets, tables
from benchmarks.contenders import OURS, PEERS, Problem
from benchmarks.worker import Found, found_apart
from faultlight import files

PROBLEMS = (
    Problem("mnist-plain", 1000, "0.3", 0.3, 0.01, 40, (50, 100, 250, 1000)),
    Problem("mnist-hard", 1000, "0.3", 0.3, 0.01, 40, (50, 100, 250, 1000)),
    Problem("cifar-hard", 200, "8/255", 8 / 255, 2 / 255, 20, (25, 50, 100, 200)),
)
_TOGGLES = ("faultlight, float32 search", "faultlight, default allocator")
_TRIAL_STEPS = 4


@dataclass(frozen=True)
class Contest:
    """One problem, the batch of each contender, and what each came to in every round."""

    problem: Problem
    batches: dict[str, int]
    rounds: dict[str, list[Found]]


def contest(problem: Problem, names: Sequence[str], rounds: int, threads: int) -> Contest:
    """Run the contenders one after the other, round after round."""
    batches = {name: _best_batch(problem, name, threads) for name in names}
    found: dict[str, list[Found]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names:
            result = found_apart(name, problem, batches[name], threads)
            found[name].append(result)
            print(
                f"{problem.net} round {turn + 1}: {name}: {result.seconds:.2f} s, {result.cpu:.2f} s of processor "
                f"time, {result.standing} of {result.n} stand",
                flush=True,
            )
    return Contest(problem, batches, found)


def _best_batch(problem: Problem, name: str, threads: int) -> int:
    """Return the batch size that a contender is fastest with over a few steps; the ladder's rungs use the peer's."""
    if name in OURS or name in _TOGGLES:
        return 0
    if name in ladder.LADDER:
        name = "torchattacks"
    key = (problem.net, name)
    if key not in _chosen:
        short = replace(problem, steps=_TRIAL_STEPS)
        trials = {size: found_apart(name, short, size, threads).seconds for size in problem.batches}
        _chosen[key] = min(trials, key=lambda size: trials[size])
        print(f"{problem.net}: {name}: batch {_chosen[key]} of {trials}", flush=True)
    return _chosen[key]


_chosen: dict[tuple[str, str], int] = {}


def main() -> None:
    """Run what is asked and write the page."""
    arguments = _arguments()
    for problem in PROBLEMS:
        if arguments.only in ("", problem.net):
            _one(problem, arguments)
    if not arguments.dry:
        tables.put(tables.PAGE, "machine", tables.machine(arguments.threads))


def _one(problem: Problem, arguments: argparse.Namespace) -> None:
    nets.trained(nets.NETS[problem.net])
    race = contest(problem, [*PEERS, *OURS], arguments.rounds, arguments.threads)
    _publish(problem.net, _race_table(race), race, arguments.dry)
    if problem.net.endswith("hard"):
        steps = contest(problem, [*ladder.LADDER, *OURS, *_TOGGLES], arguments.rounds, arguments.threads)
        _publish(f"{problem.net}-ladder", _ladder_table(steps), steps, arguments.dry)


def _publish(name: str, text: str, result: Contest, dry: bool) -> None:
    print(f"\n{text}\n", flush=True)
    if not dry:
        files.write_json(nets.CACHE / f"bench-{name}.json", asdict(result))
        tables.put(tables.PAGE, name, text)


def _race_table(race: Contest) -> str:
    ours, _ = tables.middle(race.rounds["faultlight"])
    rows = []
    for name, found in race.rounds.items():
        wall, cpu = tables.middle(found)
        standing = sorted({f.standing for f in found})
        batch = str(race.batches[name] or "its own")
        stands = " – ".join(f"{count / found[0].n:.1%}" for count in dict.fromkeys((standing[0], standing[-1])))
        rows.append([name, batch, stands, f"{wall:.2f}", tables.spread(found), f"{cpu:.2f}", f"{wall / ours:.1f}×"])
    head = ["", "batch", "still right", "wall s", "shortest – longest", "processor s", "wall, Faultlight = 1"]
    return tables.table(head, rows)


def _ladder_table(steps: Contest) -> str:
    first, before = tables.middle(next(iter(steps.rounds.values())))[0], 0.0
    rows = []
    for name, found in steps.rounds.items():
        wall, cpu = tables.middle(found)
        gain = f"{before / wall:.2f}×" if before and name not in _TOGGLES else ""
        rows.append([name, f"{wall:.2f}", f"{cpu:.2f}", gain, f"{first / wall:.1f}×", f"{found[0].standing}"])
        before = wall
    return tables.table(["", "wall s", "processor s", "this step", "in all", "images still right"], rows)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    parser.add_argument("--only", default="", choices=["", *(problem.net for problem in PROBLEMS)])
    parser.add_argument("--dry", action="store_true", help="print the tables, write no page")
    return parser.parse_args()


if __name__ == "__main__":
    main()
