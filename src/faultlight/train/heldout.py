"""How an epoch does under attack, on validation images: what the checkpoint is chosen by, and what the guards watch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn
from torch.nn import functional

from faultlight import geometry, rng
from faultlight.attacks.pgd import PGD
from faultlight.certify._ball import ball
from faultlight.certify._margins import every_other_class
from faultlight.certify.certificate import CASCADE, certify_images, read_network
from faultlight.certify.interval import Interval
from faultlight.threat import Threat, parse_threat
from faultlight.train.inner import BatchOracle, Pixels, evaluating, pose, run_attack
from faultlight.train.memory import Resident
from faultlight.train.numerics import Numerics
from faultlight.train.objectives import Objective
from faultlight.train.recipe import Recipe

_BATCH = 256
# Where an average is kept, the network that learns is watched as well, on fewer images: a collapse is no subtle thing.
_WATCHED_SHARE = 4
# CROWN proper takes seconds an epoch, and such networks are trained on the cheaper two.
_BOUNDS = (CASCADE["interval"], CASCADE["crown-interval"])
# Interval bounds of a deep network that has not met them yet may not fit into float32.
_LARGEST = torch.finfo(torch.float32).max

Labels = Int64[Tensor, " n"]


@dataclass(frozen=True)
class HeldOut:
    """What a network is asked at the end of each epoch.

    Args:
        threat: the ball, at its full radius whatever the objective's is at the time.
        by: "pgd" from a random start, without restarts, the last point deciding; or "certificate".
        attack: the attack, the same random numbers each epoch.
        images: how many of the first validation images.
        key: of the random numbers.
    """

    threat: Threat
    by: Literal["pgd", "certificate"]
    attack: PGD
    images: int
    key: int


def held_out(recipe: Recipe, objective: Objective) -> HeldOut | None:
    """Return what a recipe asks, or None where neither it nor its objective names a threat, or `images` is 0."""
    asked = recipe.robust_validation
    threat: str = asked.threat or getattr(objective, "threat", "")
    if not threat or not asked.images:
        return None
    own: Literal["pgd", "certificate"] = "certificate" if getattr(objective, "certified", False) else "pgd"
    by = own if asked.by == "auto" else asked.by
    attack = PGD(steps=asked.steps, step_size=asked.step_size)
    return HeldOut(parse_threat(threat), by, attack, asked.images, rng.key(recipe.seed, "held out"))


def watched(asked: HeldOut, images: Resident, averaged: bool) -> HeldOut:
    """Return what the guard asks the network that learns: a share of the images where another one is kept."""
    return replace(asked, images=-(-counted(images, asked) // _WATCHED_SHARE)) if averaged else asked


def judge(
    kept: nn.Module, learner: nn.Module, images: Resident, asked: HeldOut, numerics: Numerics
) -> dict[str, float]:
    """Return an epoch's figures under attack: of the network to be kept, and for the guard of the one that learns."""
    accuracy, loss = accuracy_and_loss_under_attack(kept, images, asked, numerics)
    figures = {"validation_robust_loss": loss, "validation_robust_accuracy": accuracy}
    if asked.by == "certificate":
        return figures
    figures["gradient_alignment"] = gradient_alignment(learner, images, asked, numerics)
    if learner is not kept:
        fewer = watched(asked, images, averaged=True)
        figures["plain_robust_accuracy"], _ = accuracy_and_loss_under_attack(learner, images, fewer, numerics)
    return figures


def accuracy_and_loss_under_attack(
    model: nn.Module, images: Resident, asked: HeldOut, numerics: Numerics
) -> tuple[float, float]:
    """Return the share of the first images that withstand, and the mean cross-entropy at the points found.

    By certificate it is the share that is proven, and the mean cross-entropy of the worst logits that interval bounds
    leave open. Both in float32 and evaluation mode.
    """
    right, loss = 0, 0.0
    with evaluating(model):
        for x, y, ids in _batches(images, asked, numerics):
            stood, total = (_proven if asked.by == "certificate" else _attacked)(model, x, y, ids, asked)
            right += stood
            loss += total
    count = counted(images, asked)
    return right / count, loss / count


def gradient_alignment(model: nn.Module, images: Resident, asked: HeldOut, numerics: Numerics) -> float:
    """Return the mean cosine of the angle between the loss's gradients at an image and at a random point of its ball.

    E_x[cos(∇ₓ CE(z(x), y), ∇ₓ CE(z(x + η), y))], η uniform in the ball; 1 where the loss is linear within it. Where it
    falls towards 0, one step along the gradient says nothing about the ball, and training by it fails.

    Source: Andriushchenko & Flammarion 2020, "Understanding and improving fast adversarial training", section 4.
    Departures: x + η is clipped to [0, 1]; images where a gradient vanishes have no angle and are left out, and where
    all do the mean is 0.
    """
    with evaluating(model):
        cosines = [_cosine(model, x, y, ids, asked) for x, y, ids in _batches(images, asked, numerics)]
    every = torch.cat(cosines)
    return float(every.mean()) if len(every) else 0.0


def counted(images: Resident, asked: HeldOut) -> int:
    """Return how many images are asked about."""
    return min(asked.images, len(images))


def _batches(images: Resident, asked: HeldOut, numerics: Numerics) -> list[tuple[Pixels, Labels, Labels]]:
    rows = torch.split(torch.arange(counted(images, asked)), _BATCH)
    parts = [(each, *images.take(each)) for each in rows]
    return [(numerics.lay(x), y, ids.to(y.device)) for ids, x, y in parts]


def _attacked(model: nn.Module, x: Pixels, y: Labels, ids: Labels, asked: HeldOut) -> tuple[int, float]:
    points = run_attack(asked.attack, pose(model, x, y, ids, asked.threat, asked.key))
    with torch.no_grad():
        logits = model(points)
        stood = (model(x).argmax(1) == y) & (logits.argmax(1) == y)
    return int(stood.sum()), float(functional.cross_entropy(logits, y, reduction="sum"))


def _proven(model: nn.Module, x: Pixels, y: Labels, ids: Labels, asked: HeldOut) -> tuple[int, float]:
    del ids
    with torch.no_grad():
        network = read_network(model, (int(x.shape[1]), int(x.shape[2]), int(x.shape[3])), check=False)
        proven = certify_images(network, x, y, asked.threat, _BOUNDS).certified
        margins = Interval().margins(network, ball(x, asked.threat), y, every_other_class(y, network.classes))
    loss = functional.cross_entropy((-margins).scatter(1, y[:, None], 0.0), y, reduction="none")
    return int(proven.sum()), float(loss.nan_to_num(_LARGEST, _LARGEST).sum())


def _cosine(model: nn.Module, x: Pixels, y: Labels, ids: Labels, asked: HeldOut) -> Float32[Tensor, " m"]:
    uniform = rng.uniform(asked.key, ids, torch.full_like(ids, -1), tuple(x.shape[1:]))
    around = geometry.random_in_ball(uniform, x, asked.threat)
    here, there = (geometry.ascent(_gradient(model, at, y), "l2").flatten(1) for at in (x, around))
    cosine = (here * there).sum(1)
    return cosine[here.any(1) & there.any(1)]


def _gradient(model: nn.Module, x: Pixels, y: Labels) -> Pixels:
    def loss(logits: Tensor, rows: slice) -> Tensor:
        return functional.cross_entropy(logits, y[rows], reduction="none")

    return BatchOracle(model).differentiate(x, loss)[2]
