"""Training throughput: the product's loop against the plain PyTorch loop, each in a process of its own.

    python -m benchmarks.training                      three cases, three rounds, into docs/benchmarks.md
    python -m benchmarks.training --only s1 --rounds 1

The plain loop is the one of the tutorials: float32, a DataLoader over tensors, an optimiser as it comes, and for
adversarial training PGD by `torch.autograd.grad` with the weights left as they are. It does no augmentation, for which
the product's loop pays, as it does for its averaged weights. Both train the same network on the same images with the
same batch; the first steps of either are not counted. Contenders take turns, and the figures are medians.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from benchmarks import tables
from benchmarks.apart import run_apart
from faultlight.data.load import load_data
from faultlight.models import zoo
from faultlight.runtime import keep_allocator
from faultlight.threat import parse_threat
from faultlight.train.loop import Plan, fit
from faultlight.train.memory import reside
from faultlight.train.numerics import decide, has_bf16_units
from faultlight.train.objectives import build
from faultlight.train.recipe import Optimiser, Recipe, load_recipe
from faultlight.train.state import start

CONTENDERS = ("plain loop", "faultlight")


@dataclass(frozen=True)
class Case:
    """What is trained.

    Args:
        title: for people.
        recipe: of the product; the plain loop takes its network, batch, optimiser and threat from it.
        batch: images a step.
        steps: that are timed.
        warm_up: steps before them.
    """

    title: str
    recipe: str
    batch: int
    steps: int
    warm_up: int = 1

    def asked(self) -> Recipe:
        """Return the recipe for one epoch, without a look at validation images under attack."""
        changes = {"epochs": 1, "batch": self.batch, "robust_validation.images": 0}
        return load_recipe(self.recipe, changes)


CASES = {
    "s1": Case("S1 (mnist-cnn)", "mnist-cnn", 256, 100, 10),
    "resnet18": Case("ResNet-18, standard", "resnet18-cifar10", 128, 10, 2),
    "resnet18-pgd7": Case("ResNet-18, PGD-7", "resnet18-cifar10-robust", 128, 3),
}


def plain(case: Case) -> float:
    """Return the images a second of the plain loop."""
    recipe = case.asked()
    images = load_data(recipe.data, split="train", n=case.batch * case.steps)
    model = zoo.build(recipe.model, len(images.classes), images.shape, **recipe.options)
    optimiser = plain_optimiser(model, recipe.optimiser)
    asked = recipe.objective.model_dump()
    loader = DataLoader(TensorDataset(images.x, images.y), batch_size=case.batch, shuffle=True)

    def step(x: Tensor, y: Tensor) -> None:
        if asked["name"] == "adversarial":
            epsilon = parse_threat(asked["threat"]).epsilon
            x = _pgd(model, x, y, epsilon, asked["step_size"] * epsilon, asked["steps"])
        optimiser.zero_grad()
        functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    x, y = next(iter(loader))
    for _ in range(case.warm_up):
        step(x, y)
    began = time.perf_counter()
    for x, y in loader:
        step(x, y)
    return case.batch * case.steps / (time.perf_counter() - began)


def plain_optimiser(model: nn.Module, spec: Optimiser) -> torch.optim.Optimizer:
    """Return the optimiser of a recipe as a tutorial would make it."""
    weights = list(model.parameters())
    if spec.name == "sgd":
        return torch.optim.SGD(weights, spec.lr, spec.momentum, weight_decay=spec.weight_decay, nesterov=spec.nesterov)
    return torch.optim.Adam(weights, spec.lr)


def _pgd(model: nn.Module, x: Tensor, y: Tensor, epsilon: float, length: float, steps: int) -> Tensor:
    """Return the points of textbook PGD (Madry et al. 2018) from a random start."""
    points = (x + torch.empty_like(x).uniform_(-epsilon, epsilon)).clamp(0, 1)
    for _ in range(steps):
        points.requires_grad_()
        (gradient,) = torch.autograd.grad(functional.cross_entropy(model(points), y), points)
        points = points.detach() + length * gradient.sign()
        points = torch.min(torch.max(points, x - epsilon), x + epsilon).clamp(0, 1)
    return points.detach()


def product(case: Case) -> float:
    """Return the images a second of the product's loop, as `faultlight train` runs it."""
    keep_allocator()
    recipe = case.asked()
    images = load_data(recipe.data, split="train", n=case.batch * case.steps)
    numerics = decide(recipe, "cpu")
    model = numerics.place(zoo.build(recipe.model, len(images.classes), images.shape, **recipe.options))

    def seconds(steps: int) -> float:
        train, validation = (reside(images.first(n), "cpu") for n in (case.batch * steps, 1))
        plan = Plan(recipe, build(recipe), numerics, train, validation, lambda _: None, quiet=True)
        state = start(model, recipe)
        began = time.perf_counter()
        fit(plan, state)
        return time.perf_counter() - began

    seconds(case.warm_up)
    return case.batch * case.steps / seconds(case.steps)


def table(found: dict[str, dict[str, list[float]]]) -> str:
    """Return images a second of both, and their ratio round by round."""
    rows = []
    for name, speeds in found.items():
        ratios = [ours / theirs for theirs, ours in zip(*(speeds[who] for who in CONTENDERS), strict=True)]
        middle = [f"{median(speeds[who]):,.0f}" for who in CONTENDERS]
        spread = f"{min(ratios):.2f} – {max(ratios):.2f}"
        rows.append([CASES[name].title, str(CASES[name].batch), *middle, f"{median(ratios):.2f}×", spread])
    head = ["", "batch", "plain loop, images/s", "Faultlight, images/s", "ratio", "lowest – highest"]
    return tables.table(head, rows)


def main() -> None:
    """Run what is asked and write the page."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    if arguments.order:
        case, who = json.loads(arguments.order)
        print(json.dumps((product if who == "faultlight" else plain)(CASES[case])))
        return
    found: dict[str, dict[str, list[float]]] = {}
    for turn in range(arguments.rounds):
        for name in (each for each in CASES if arguments.only in each):
            for who in CONTENDERS:
                speed = float(run_apart("training", [name, who], arguments.threads))
                found.setdefault(name, {}).setdefault(who, []).append(speed)
                print(f"{name} round {turn + 1}: {who}: {speed:,.1f} images a second", flush=True)
    if not found:
        raise SystemExit(f"no case is named like {arguments.only!r}; there are {', '.join(CASES)}")
    quick = has_bf16_units("cpu")
    arithmetic = f"Faultlight trained in {'bfloat16 products' if quick else 'float32: this machine has no AMX'}."
    text = "\n\n".join([table(found), f"{arguments.rounds} rounds. {arithmetic} {tables.machine(arguments.threads)}"])
    print(text)
    if not (arguments.dry or arguments.only):
        tables.put(tables.PAGE, "training", text)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    parser.add_argument("--only", default="", help="cases whose name holds this; writes no page")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dry", action="store_true", help="print the table, write no page")
    parser.add_argument("--order", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
