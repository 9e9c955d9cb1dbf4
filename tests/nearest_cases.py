"""Nearest twins that are known: of linear classifiers in closed form, and a small net of the digits for comparisons."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import faultlight as fl
import toys
from faultlight import losses
from faultlight.evaluation.engine import Engine
from faultlight.evaluation.judge import Judge
from faultlight.evaluation.slots import Probe
from faultlight.models.subject import Subject
from faultlight.threat import parse_threat

CAPS = {"linf": "linf:1", "l2": "l2:4", "l1": "l1:16", "l0": "l0:16"}  # of images of 16 pixels: the box's own size
CLASSES = (2, 3, 10)
# How far from grey the images lie: so near that no twin meets the box, and up to black and white.
SPREADS = {"free": 0.05, "at the box": 0.5}

widths = pytest.mark.parametrize("classes", CLASSES)
spreads = pytest.mark.parametrize("spread", SPREADS.values(), ids=SPREADS)
slots = pytest.mark.parametrize("slots", [1, 3, 64])


def linear_case(classes: int, spread: float, n: int = 6) -> tuple[nn.Sequential, fl.Images]:
    """A linear classifier and images that are not nearer to a boundary than rounding can tell."""
    net = toys.linear(classes, seed=classes)
    images = toys.images(net, classes, n=10 * n, spread=spread)
    best = net(images.x).detach().topk(2, dim=1).values
    return net, images.take((best[:, 0] - best[:, 1] > 0.05).nonzero()[:n, 0])


def found(net: nn.Module, images: fl.Images, attack: Any, norm: str, slots: int = 64, goal: int = -1) -> np.ndarray:
    """The distance of the nearest twin that the engine finds for each image; ∞ where it finds none."""
    subject = Subject(net, len(images.classes))
    base = toys.engine(subject, images, attack, parse_threat(CAPS[norm]), slots, goal)
    probe = Probe("toy", attack, base.probe.threat, subject, base.probe.key, True, nearest=True)
    distance = np.full(len(images), np.inf)
    for one in toys.settle(Engine(probe, base.work, Judge(subject), slots)):
        if one.twin is not None:
            delta = (one.twin.double() - images.x[one.row].double()).numpy()
            assert one.twin.min() >= 0
            assert one.twin.max() <= 1
            assert one.attempt.distance == pytest.approx(length(delta, norm), rel=1e-12)
            # Alone in its batch a twin at the boundary may be rounded to the other side.
            assert float(losses.margin(net(one.twin[None]).detach(), images.y[one.row, None])) > -1e-5
            distance[one.row] = min(distance[one.row], one.attempt.distance or 0.0)
    return distance


def closed_form(net: nn.Sequential, images: fl.Images, norm: str, goal: int = -1) -> np.ndarray:
    """The distance of the nearest twin inside the box, in numpy: the least over the classes (or the goal)."""
    layer = net[1]
    assert isinstance(layer, nn.Linear)
    weight, bias = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()
    flat, labels = images.x.flatten(1).double().numpy(), images.y.tolist()
    classes = range(len(weight))

    def distance(x: np.ndarray, y: int, j: int) -> float:
        slope = weight[j] - weight[y]
        return to_plane(x, slope, -(slope @ x + bias[j] - bias[y]), norm)

    return np.array(
        [
            min(distance(x, y, j) for j in classes if j != y and goal in (-1, j))
            for x, y in zip(flat, labels, strict=True)
        ]
    )


def to_plane(x: np.ndarray, slope: np.ndarray, gap: float, norm: str) -> float:
    """The size of the smallest δ with ⟨slope, δ⟩ = gap > 0 and x + δ in [0, 1]; ∞ where there is none."""
    room = np.where(slope > 0, 1 - x, x)
    gain = np.abs(slope) * room
    if gain.sum() < gap:
        return np.inf
    if norm == "l0":
        return 1.0 + int((np.cumsum(np.sort(gain)[::-1]) < gap).sum())
    if norm == "l1":
        total = 0.0
        for i in np.argsort(-np.abs(slope)):
            if gain[i] >= gap:
                return total + gap / abs(slope[i])
            total, gap = total + room[i], gap - gain[i]
    size = np.abs(slope) if norm == "l2" else np.ones_like(slope)
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        reached = np.abs(slope) @ np.minimum(middle * size, room)
        low, high = (middle, high) if reached < gap else (low, middle)
    return length(np.minimum(high * size, room), norm)


def length(delta: np.ndarray, norm: str) -> float:
    flat = np.abs(delta).reshape(-1)
    if norm == "l0":
        return float((delta != 0).any(0).sum()) if delta.ndim == 3 else float((flat != 0).sum())
    return float({"linf": flat.max, "l1": flat.sum, "l2": lambda: np.sqrt((flat**2).sum())}[norm]())


@cache
def digits() -> tuple[nn.Module, fl.Images]:
    """A small net trained on the digits that scikit-learn carries, and thirty test images that it gets right."""
    train, test = fl.load_data("digits", split="train", n=600), fl.load_data("digits", split="test", n=40)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10))
        optimiser = torch.optim.Adam(net.parameters(), lr=0.02)
        for _ in range(60):
            optimiser.zero_grad()
            functional.cross_entropy(net(train.x), train.y).backward()
            optimiser.step()
    net.eval()
    right = (net(test.x).argmax(1) == test.y).nonzero()[:30, 0]
    return net, test.take(right)


def foolbox_median(name: str, net: nn.Module, images: fl.Images, p: float, **settings: Any) -> float:
    """The median distance of Foolbox's twins; ∞ for those that are none."""
    foolbox = pytest.importorskip("foolbox", reason="the peers are installed by `make peers` only")
    model = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
    _, twins, _ = getattr(foolbox.attacks, name)(**settings)(model, images.x, images.y, epsilons=None)
    distance = (twins.detach() - images.x).flatten(1).norm(p=p, dim=1)
    return median(torch.where(net(twins).argmax(1) != images.y, distance, torch.inf))


def median(distance: Tensor | np.ndarray) -> float:
    return float(np.median(np.asarray(distance)))
