"""Accuracy against time: a recipe of the product beside the plain PyTorch loop, as a table and a picture.

    python -m benchmarks.learning                    MNIST, into docs/benchmarks.md and docs/learning-mnist.svg
    python -m benchmarks.learning --only cifar10     CIFAR-10, which takes far longer

Each runs in a process of its own, one after the other. The plain loop is the one of the tutorials, as in
`benchmarks.training`, on the network, images, batch, optimiser and augmentation of a recipe of its own. It ends with
its epochs, or once it has taken as long as the product, ten minutes at least. Both look at the validation images after
each epoch, at CIFAR-10 the plain loop four times an epoch; that time counts.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from benchmarks import tables
from benchmarks.apart import run_apart
from benchmarks.training import plain_optimiser
from faultlight import files
from faultlight.models import zoo
from faultlight.runtime import keep_allocator
from faultlight.train import load_recipe, train
from faultlight.train.augment import augment
from faultlight.train.memory import load_splits

CONTENDERS = ("faultlight", "plain loop")
# Seconds since the start, and the share of the validation images that are right.
Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Case:
    """What is compared.

    Args:
        title: for people.
        recipe: of the product.
        plain: the recipe that the plain loop takes everything from.
        looks: how often an epoch the plain loop looks at the validation images.
        marks: accuracies whose time is told.
    """

    title: str
    recipe: str
    plain: str
    looks: int
    marks: tuple[float, ...]


CASES = {
    "mnist": Case("MNIST, the network of S1", "mnist-cnn", "mnist-cnn-plain", 1, (0.97, 0.98, 0.985, 0.99)),
    "cifar10": Case(
        "CIFAR-10, the fast network against ResNet-18", "fast-cifar", "resnet18-cifar10", 4, (0.5, 0.7, 0.8, 0.9, 0.94)
    ),
}


def product(recipe: str) -> tuple[Points, float]:
    """Return how the product's run went, and its test accuracy."""
    keep_allocator()
    with tempfile.TemporaryDirectory() as folder:
        result = train(load_recipe(recipe), out=Path(folder) / "run", quiet=True)
        rows = files.read_json(Path(folder) / "run" / "records" / "training.json")["epochs"]
    points, spent = [], 0.0
    for row in rows:
        spent += row["seconds"]
        points.append((spent, row["validation_accuracy"]))
    return points, result.test_accuracy


def plain(recipe: str, looks: int, limit: float) -> tuple[Points, float]:
    """Return how the plain loop went until its epochs or the seconds were over, and its test accuracy."""
    asked = load_recipe(recipe)
    splits = load_splits(asked.data, asked.split_seed)
    torch.manual_seed(asked.seed)
    model = zoo.build(asked.model, len(splits.train.classes), splits.train.shape, **asked.options)
    optimiser = plain_optimiser(model, asked.optimiser)
    loader = DataLoader(TensorDataset(splits.train.x, splits.train.y), batch_size=asked.batch, shuffle=True)
    every = max(1, len(loader) // looks)
    points: Points = []
    began = time.perf_counter()
    for epoch in range(asked.epochs):
        for step, (x, y) in enumerate(loader):
            model.train()
            optimiser.zero_grad()
            x = augment(x, asked.augment, asked.seed, epoch, step)
            functional.cross_entropy(model(x), y, label_smoothing=asked.label_smoothing).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            over = time.perf_counter() - began > limit
            if over or (step + 1) % every == 0:
                accuracy = _right(model, splits.validation.x, splits.validation.y)
                points.append((time.perf_counter() - began, accuracy))
            if over:
                return points, _right(model, splits.test.x, splits.test.y)
    return points, _right(model, splits.test.x, splits.test.y)


def _right(model: nn.Module, x: Tensor, y: Tensor) -> float:
    model.eval()
    with torch.no_grad():
        found = torch.cat([model(part).argmax(1) for part in torch.split(x, 500)])
    return float((found == y).double().mean())


def reached(points: Points, mark: float) -> float | None:
    """Return the seconds after which an accuracy was first seen."""
    return next((seconds for seconds, accuracy in points if accuracy >= mark), None)


def table(case: Case, found: dict[str, tuple[Points, float]]) -> str:
    """Return when each accuracy was first seen, and how much sooner the product saw it."""
    rows = []
    for mark in case.marks:
        ours, theirs = (reached(found[who][0], mark) for who in CONTENDERS)
        gain = f"{theirs / ours:.1f}×" if ours and theirs else ""
        said = ["never" if each is None else f"{each:.0f} s" for each in (ours, theirs)]
        rows.append([f"{100 * mark:g} %", *said, gain])
    ends = [f"{100 * found[who][1]:.2f} % after {found[who][0][-1][0]:.0f} s" for who in CONTENDERS]
    rows.append(["on the test images at the end", *ends, ""])
    return tables.table(["validation accuracy first seen", "Faultlight", "plain loop", "sooner"], rows)


def picture(case: Case, found: dict[str, tuple[Points, float]], path: Path) -> None:
    """Draw accuracy against time as SVG."""
    with mpl.rc_context({"svg.hashsalt": "learning", "svg.fonttype": "none"}):
        figure = Figure(figsize=(6.4, 3.4), layout="constrained")
        axes = figure.subplots()
        for who, marker in zip(CONTENDERS, ("o", "s"), strict=True):
            seconds, accuracy = zip(*found[who][0], strict=True)
            axes.plot(seconds, [100 * each for each in accuracy], marker=marker, markersize=4, label=who)
        axes.set(xlabel="seconds", ylabel="validation accuracy, %", title=case.title)
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right")
        figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Run what is asked and write the page, or carry out one order."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    if arguments.order:
        name, settings = json.loads(arguments.order)
        print(json.dumps(product(**settings) if name == "faultlight" else plain(**settings)))
        return
    case = CASES[arguments.only]
    ours = run_apart("learning", ["faultlight", {"recipe": case.recipe}], arguments.threads)
    print(f"faultlight: {ours}", flush=True)
    settings = {"recipe": case.plain, "looks": case.looks, "limit": arguments.limit or max(600.0, ours[0][-1][0])}
    found = {"faultlight": ours, "plain loop": run_apart("learning", ["plain loop", settings], arguments.threads)}
    text = "\n\n".join(
        [
            table(case, found),
            f"![{case.title}: accuracy against time](learning-{arguments.only}.svg)",
            f"`{case.recipe}` beside a plain loop of `{case.plain}`. {tables.machine(arguments.threads)}",
        ]
    )
    print(text)
    if not arguments.dry:
        picture(case, found, tables.PAGE.parent / f"learning-{arguments.only}.svg")
        tables.put(tables.PAGE, f"learning-{arguments.only}", text)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    parser.add_argument("--only", choices=CASES, default="mnist")
    parser.add_argument("--limit", type=float, default=0.0, help="seconds of the plain loop, in place of the product's")
    parser.add_argument("--dry", action="store_true", help="print the table, write neither page nor picture")
    parser.add_argument("--order", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
