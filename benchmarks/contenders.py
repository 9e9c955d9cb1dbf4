"""Who is timed: Faultlight and its peers on one problem, each called the way its users call it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import faultlight as fl
from faultlight.attacks.pgd import PGD
from faultlight.data.images import Images
from faultlight.models.subject import Subject


@dataclass(frozen=True)
class Problem:
    """PGD on the cross-entropy in an L∞ ball, from one random start an image.

    Args:
        net: which of `benchmarks.nets.NETS`.
        n: the first so many images of the test split.
        epsilon: radius of the ball, as text.
        radius: the same as a number.
        length: of a step, in pixel values.
        steps: gradient steps.
        batches: batch sizes tried for the peers; each runs at the one it is fastest with.
    """

    net: str
    n: int
    epsilon: str
    radius: float
    length: float
    steps: int
    batches: tuple[int, ...]


Contender = Callable[[nn.Module, Images, Problem, int], Tensor]


def faultlight(module: nn.Module, images: Images, problem: Problem, batch: int) -> Tensor:
    """`fl.attack` as it comes; it chooses its own batches. The clean pass and the judge's passes are in its time."""
    return _faultlight(module, images, problem, fast=True)


def faultlight_float32(module: nn.Module, images: Images, problem: Problem, batch: int) -> Tensor:
    """`fl.attack` without the bfloat16, folded, channels-last search copy."""
    return _faultlight(module, images, problem, fast=False)


def torchattacks(module: nn.Module, images: Images, problem: Problem, batch: int) -> Tensor:
    """torchattacks.PGD, batch after batch. It reports no success; finding that out is not in its time."""
    import torchattacks

    attack = torchattacks.PGD(module, eps=problem.radius, alpha=problem.length, steps=problem.steps, random_start=True)
    torch.manual_seed(0)
    return torch.cat([attack(x, y) for x, y in _batches(images, batch)])


def foolbox(module: nn.Module, images: Images, problem: Problem, batch: int) -> Tensor:
    """foolbox.attacks.LinfPGD, batch after batch; it tests the last point for success itself."""
    import foolbox

    model = foolbox.PyTorchModel(module, bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.LinfPGD(steps=problem.steps, abs_stepsize=problem.length, random_start=True)
    torch.manual_seed(0)
    return torch.cat([attack(model, x, y, epsilons=problem.radius)[1] for x, y in _batches(images, batch)])


def torchattacks_careful(module: nn.Module, images: Images, problem: Problem, batch: int) -> Tensor:
    """torchattacks.PGD by a careful user: no weight asks for a gradient, and images that are wrong already are left."""
    module = module.requires_grad_(False)
    with torch.no_grad():
        right = torch.cat([module(x).argmax(1) == y for x, y in _batches(images, batch)])
    out = images.x.clone()
    out[right] = torchattacks(module, images.take(right.nonzero()[:, 0]), problem, batch)
    return out


PEERS: dict[str, Contender] = {
    "torchattacks": torchattacks,
    "torchattacks, careful": torchattacks_careful,
    "foolbox": foolbox,
}
OURS: dict[str, Contender] = {"faultlight": faultlight}


def _faultlight(module: nn.Module, images: Images, problem: Problem, fast: bool) -> Tensor:
    attack = PGD(steps=problem.steps, step_size=problem.length / problem.radius)
    subject = Subject(module, len(images.classes))
    return fl.attack(subject, images, attack, f"linf:{problem.epsilon}", fast=fast).x


def _batches(images: Images, batch: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(images.x.split(batch), images.y.split(batch), strict=True))
