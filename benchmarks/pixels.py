"""One, three and five pixels: Faultlight against torchattacks' OnePixel and ART's PixelAttack on the same images.

    python -m benchmarks.pixels                          an MNIST and a CIFAR-10 network, into docs/benchmarks.md
    python -m benchmarks.pixels --only cifar-narrow --images 2 --dry

The peers evolve 400 agents for 100 generations, which is up to 40,400 queries and many seconds an image; so they get
few images, and Faultlight's evolution gets the same images and the same number of agents and generations. Each
contender runs in a process of its own. Faultlight's time includes the clean pass and the judge's passes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

import faultlight as fl
from benchmarks import nets, tables
from benchmarks.apart import run_apart
from benchmarks.counting import Counting
from faultlight import files, geometry
from faultlight.attacks._contract import Attack
from faultlight.attacks.corner_beam import CornerBeam
from faultlight.attacks.every_pixel import EveryPixel
from faultlight.attacks.one_pixel import OnePixel
from faultlight.data.images import Images
from faultlight.data.load import load_data
from faultlight.evaluation.judge import Judge
from faultlight.models.subject import Subject
from faultlight.runtime import keep_allocator

DEFAULT = ("mnist-plain", "cifar-plain")
TARGET = 3
UNTARGETED = -1
MANY = 50


@dataclass(frozen=True)
class Contest:
    """What all contenders do.

    Args:
        net: which of `benchmarks.nets.NETS`.
        images: the first so many test images that are right and not of class `TARGET`.
        pixels: how many may change, one contest after the other.
        population: agents of the evolutions.
        generations: after the first population.
    """

    net: str
    images: int
    pixels: tuple[int, ...]
    population: int
    generations: int


@dataclass(frozen=True)
class Game:
    """One attack of a contest: how many pixels, and the class aimed at or −1."""

    pixels: int
    target: int


@dataclass(frozen=True)
class Outcome:
    """What one contender came to in one game.

    Args:
        seconds: wall time.
        queries: images sent through the network, a backward pass counted as one more.
        broken: images that the float32 judge finds broken within so many pixels.
        n: images in all.
    """

    seconds: float
    queries: int
    broken: int
    n: int


Contender = Callable[[nn.Module, Images, Game, Contest], tuple[Tensor, int]]


def torchattacks(module: nn.Module, images: Images, game: Game, contest: Contest) -> tuple[Tensor, int]:
    """torchattacks.OnePixel, image by image as it goes itself."""
    import torchattacks

    counting = Counting(module)
    attack = torchattacks.OnePixel(counting, game.pixels, contest.generations, contest.population)
    if game.target != UNTARGETED:
        attack.set_mode_targeted_by_label(quiet=True)
    return attack(images.x, _labels(images, game)), counting.forwards


def art(module: nn.Module, images: Images, game: Game, contest: Contest) -> tuple[Tensor, int]:
    """ART's PixelAttack by differential evolution; its population of 400 is its own."""
    from art.attacks.evasion import PixelAttack
    from art.estimators.classification import PyTorchClassifier

    counting, classes = Counting(module), len(images.classes)
    classifier = PyTorchClassifier(
        counting, nn.CrossEntropyLoss(), images.shape, classes, clip_values=(0.0, 1.0), device_type="cpu"
    )
    attack = PixelAttack(
        classifier, th=game.pixels, es=1, max_iter=contest.generations, targeted=game.target != UNTARGETED
    )
    found = attack.generate(images.x.numpy(), _labels(images, game).numpy())
    return torch.from_numpy(found).float(), counting.forwards


def ours(attack: Callable[[Contest], Attack]) -> Contender:
    """`fl.attack` as it comes."""

    def run(module: nn.Module, images: Images, game: Game, contest: Contest) -> tuple[Tensor, int]:
        subject = Subject(module, len(images.classes))
        target = None if game.target == UNTARGETED else game.target
        result = fl.attack(subject, images, attack(contest), f"l0:{game.pixels}", target=target)
        return result.x, int(result.forwards.sum() + result.backwards.sum())

    return run


def _evolution(contest: Contest) -> Attack:
    return OnePixel(contest.generations + 1, contest.population)


PEERS: dict[str, Contender] = {"torchattacks OnePixel": torchattacks, "ART PixelAttack": art}
OURS: dict[str, Contender] = {
    "one-pixel": ours(_evolution),
    "corner-beam": ours(lambda _: CornerBeam()),
    "every-pixel": ours(lambda _: EveryPixel()),
}
CONTENDERS = PEERS | OURS


def _labels(images: Images, game: Game) -> Tensor:
    return images.y if game.target == UNTARGETED else torch.full_like(images.y, game.target)


def games(contest: Contest, name: str) -> list[Game]:
    """Return the games that a contender takes part in; the exhaustive search knows one pixel only."""
    counts = contest.pixels[:1] if name == "every-pixel" else contest.pixels
    return [Game(pixels, target) for target in (UNTARGETED, TARGET) for pixels in counts]


def measure(name: str, contest: Contest) -> list[Outcome]:
    """Play all of a contender's games, in this process."""
    if name in OURS:
        keep_allocator()
    images = chosen(contest)
    torch.manual_seed(0)
    short = Contest(contest.net, 1, contest.pixels, contest.population, 1)
    CONTENDERS[name](nets.load(nets.NETS[contest.net]), images.take(torch.arange(1)), Game(1, TARGET), short)
    outcomes = []
    for game in games(contest, name):
        module = nets.load(nets.NETS[contest.net])
        began = time.perf_counter()
        x, queries = CONTENDERS[name](module, images, game, contest)
        seconds = time.perf_counter() - began
        outcomes.append(Outcome(seconds, queries, _broken(contest, images, x, game), len(images)))
        print(f"{contest.net}: {name}, {_title(game)}: {outcomes[-1]}", file=sys.stderr, flush=True)
    return outcomes


def chosen(contest: Contest) -> Images:
    """Return the first test images that are right and not of the class aimed at."""
    net = nets.NETS[contest.net]
    images = load_data(net.data, split="test", n=4 * contest.images + 40)
    logits = Judge(Subject(nets.load(net), len(images.classes))).logits(images.x)
    rows = ((logits.argmax(1) == images.y) & (images.y != TARGET)).nonzero()[: contest.images, 0]
    return images.take(rows)


def _broken(contest: Contest, images: Images, x: Tensor, game: Game) -> int:
    logits = Judge(Subject(nets.load(nets.NETS[contest.net]), len(images.classes))).logits(x.contiguous())
    few = geometry.norm(x - images.x, "l0") <= game.pixels
    inside = (x.flatten(1).amin(1) >= 0) & (x.flatten(1).amax(1) <= 1)
    hit = logits.argmax(1) != images.y if game.target == UNTARGETED else logits.argmax(1) == game.target
    return int((hit & few & inside).sum())


def _outcomes(name: str, contest: Contest, threads: int) -> list[Outcome]:
    played = run_apart("pixels", {"name": name, "contest": asdict(contest)}, threads)
    return [Outcome(**outcome) for outcome in played]


def table(contest: Contest, found: dict[str, list[Outcome]]) -> str:
    """Return what each contender came to, game by game, and how many times longer the faster peer took."""
    rows = []
    for game in games(contest, "corner-beam"):
        played = {name: one for name in found if (one := _outcome(contest, found, name, game)) is not None}
        fastest = min((played[name].seconds for name in PEERS if name in played), default=0.0)
        for name, one in played.items():
            gain = "" if name in PEERS or not fastest else f"{fastest / one.seconds:.1f}×"
            each, rate = one.seconds / one.n, one.queries / one.seconds
            figures = [f"{one.broken} of {one.n}", f"{one.queries / one.n:,.0f}", f"{each:.3f}", f"{rate:,.0f}", gain]
            rows.append([_title(game), name, *figures])
    head = ["", "", "broken", "queries an image", "s an image", "queries a second", "less time than the faster peer"]
    return tables.table(head, rows)


def _outcome(contest: Contest, found: dict[str, list[Outcome]], name: str, game: Game) -> Outcome | None:
    return dict(zip(games(contest, name), found[name], strict=True)).get(game)


def _title(game: Game) -> str:
    aim = "" if game.target == UNTARGETED else f", to class {game.target}"
    return f"{game.pixels} pixel{'s' * (game.pixels > 1)}{aim}"


def main() -> None:
    """Run what is asked and write the page, or carry out one order."""
    arguments = _arguments()
    if arguments.order:
        order = json.loads(arguments.order)
        contest = Contest(**order["contest"] | {"pixels": tuple(order["contest"]["pixels"])})
        print(json.dumps([asdict(outcome) for outcome in measure(order["name"], contest)]))
        return
    names = [arguments.only] if arguments.only else DEFAULT
    texts = [text for name in names for text in _one(name, arguments)]
    if not arguments.dry:
        tables.put(tables.PAGE, "pixels", "\n\n".join([*texts, tables.machine(arguments.threads)]))


def _one(net: str, arguments: argparse.Namespace) -> list[str]:
    nets.trained(nets.NETS[net])
    few = Contest(net, arguments.images, tuple(arguments.pixels), arguments.population, arguments.generations)
    many = Contest(net, arguments.many, few.pixels, few.population, few.generations)
    cheap = ["corner-beam", "every-pixel"] if nets.NETS[net].data == "mnist" else ["corner-beam"]
    texts = []
    for contest, names in ((few, [*CONTENDERS]), (many, cheap)):
        print(f"{net}: {contest.images} images, {', '.join(names)}", flush=True)
        found = {name: _outcomes(name, contest, arguments.threads) for name in names}
        texts.append(f"{net}, {contest.images} images:\n\n{table(contest, found)}")
        print(f"\n{texts[-1]}\n", flush=True)
        if not arguments.dry:
            kept = {name: [asdict(one) for one in outcomes] for name, outcomes in found.items()}
            files.write_json(nets.CACHE / f"bench-pixels-{net}-{contest.images}.json", kept)
    return texts


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    parser.add_argument("--only", default="", choices=["", *nets.NETS])
    parser.add_argument("--images", type=int, default=3, help="that the peers get too")
    parser.add_argument("--many", type=int, default=MANY, help="that the query-efficient attacks get besides")
    parser.add_argument("--pixels", type=int, nargs="+", default=[1, 3, 5])
    parser.add_argument("--population", type=int, default=400)
    parser.add_argument("--generations", type=int, default=100)
    parser.add_argument("--dry", action="store_true", help="print the tables, write no page")
    parser.add_argument("--order", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the peers call on what numpy and torch have deprecated
        main()
