"""PGD against a plain loop written anew, in closed form on linear classifiers, and on nets made for one setting."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import faultlight as fl
import toys
from faultlight.attacks.pgd import PGD
from faultlight.errors import InputError
from faultlight.evaluation.slots import Settled
from faultlight.losses import LOSSES, LossName
from faultlight.models.subject import Subject

CONV = (2, 6, 6)


def attempts(net: nn.Module, images: fl.Images, attack: PGD, threat: str, target: int = -1) -> list[Settled]:
    """Every finished job of an engine's run, by image and job."""
    subject = Subject(net, len(images.classes))
    return toys.settle(toys.engine(subject, images, attack, threat, goal=target))


def plain_loss(name: LossName, logits: Tensor, y: Tensor, target: int) -> Tensor:
    """The sums of the losses, written anew with the textbook's words."""
    if name == "cross-entropy":
        if target >= 0:
            return -functional.cross_entropy(logits, torch.full_like(y, target), reduction="sum")
        return functional.cross_entropy(logits, y, reduction="sum")
    own = logits[torch.arange(len(y)), y]
    others = torch.stack(
        [torch.cat([row[:label], row[label + 1 :]]).max() for row, label in zip(logits, y, strict=True)]
    )
    gain = (logits[:, target] if target >= 0 else others) - own
    if name == "margin":
        return gain.sum()
    ordered = logits.sort(dim=1, descending=True).values
    spread = ordered[:, 0] - (ordered[:, 2:4].mean(1) if target >= 0 else ordered[:, 2])
    return (gain / spread).sum()


def plain_pgd(
    net: nn.Module, images: fl.Images, start: Tensor, attack: PGD, norm: str, epsilon: float, target: int
) -> list[Tensor]:
    """The textbook's loop: gradient, step, clip; nothing shared with the package."""

    def unit(v: Tensor) -> Tensor:
        return v.sign() if norm == "linf" else v / v.flatten(1).norm(dim=1).clamp(min=1e-9).view(-1, 1, 1, 1)

    x, velocity, points = start.clone(), torch.zeros_like(start), [start.clone()]
    for step in range(attack.steps):
        x.requires_grad_(True)
        (gradient,) = torch.autograd.grad(plain_loss(attack.loss, net(x), images.y, target), x)
        velocity = attack.momentum * velocity + unit(gradient)
        size = (attack.step_size or 2.5 / attack.steps) * epsilon
        if attack.schedule == "cosine":
            size *= 0.5 * (1 + math.cos(math.pi * step / attack.steps))
        x = (x.detach() + size * unit(velocity)).clamp(0, 1)
        delta = x - images.x
        if norm == "linf":
            delta = delta.clamp(-epsilon, epsilon)
        else:
            delta = delta * (epsilon / delta.flatten(1).norm(dim=1)).clamp(max=1).view(-1, 1, 1, 1)
        x = images.x + delta
        points.append(x.clone())
    return points


SETTINGS = [
    *[PGD(steps=6, loss=loss) for loss in LOSSES],
    PGD(steps=6, random_start=False),
    PGD(steps=6, step_size=0.1),
    PGD(steps=8, momentum=0.75, loss="margin"),
    PGD(steps=8, schedule="cosine", step_size=2.0, momentum=0.5),
]


@pytest.mark.parametrize("attack", SETTINGS, ids=str)
@pytest.mark.parametrize("threat", ["linf:0.05", "l2:0.3"])
@pytest.mark.parametrize("target", [-1, 2])
def test_every_step_is_the_textbooks(attack: PGD, threat: str, target: int) -> None:
    net = toys.convolutional(5)
    images = toys.images(net, 5, shape=CONV, spread=0.5)
    images = images.take(images.y != target)
    posed = toys.problem(Subject(net, 5), images, threat, target)
    found = toys.trace(attack, posed).points
    expected = plain_pgd(net, images, found[0], attack, posed.threat.norm, posed.threat.epsilon, target)
    assert len(found) == len(expected) == attack.steps + 1
    for ours, plain in zip(found, expected, strict=True):
        assert float((ours - plain).abs().max()) < 2e-5 * posed.threat.epsilon / 0.05
    assert float((found[-1] - images.x).abs().max()) > 0.01


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
@pytest.mark.parametrize("loss", LOSSES)
def test_on_a_linear_classifier_it_breaks_what_can_be_broken(norm: str, dual: int, loss: LossName) -> None:
    """Of two classes: broken iff |margin| < ε·‖w‖ in the dual norm, within 1 % on either side."""
    net, attack = toys.linear(2), PGD(steps=20, step_size=0.5, loss=loss)
    subject, images = Subject(net, 2), toys.images(net, 2, n=4, spread=0.05)
    logits = net(images.x).detach()
    weight = (net[1].weight[0] - net[1].weight[1]).detach()
    critical = (logits[:, 0] - logits[:, 1]).abs() / weight.norm(p=dual)
    for row, epsilon in enumerate(critical.tolist()):
        one = images.take(torch.tensor([row]))
        assert not fl.attack(subject, one, replace(attack, restarts=2), f"{norm}:{0.99 * epsilon}").broken[0]
        assert fl.attack(subject, one, attack, f"{norm}:{1.01 * epsilon}").broken[0]


def test_it_ends_in_the_corner_of_the_linear_classifier() -> None:
    net = toys.linear(2)
    images = toys.images(net, 2, spread=0.5)
    found = toys.trace(PGD(steps=10), toys.problem(Subject(net, 2), images, "linf:0.2")).last
    weight = net[1].weight.detach()
    corner = images.x + 0.2 * (weight[1 - images.y] - weight[images.y]).sign().view(images.x.shape)
    assert torch.allclose(found, corner.clamp(0, 1), atol=1e-6)


def test_random_starts_differ_by_restart_and_stay_where_they_were() -> None:
    net = toys.linear(2)
    images = toys.images(net, 2)
    subject = Subject(net, 2)
    starts = [PGD().start(toys.problem(subject, images, "linf:0.1", restart=restart)).x for restart in (0, 1, 2, 1)]
    assert torch.equal(starts[1], starts[3])
    assert not torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[1], starts[2])


def test_without_a_random_start_the_first_restart_begins_at_the_image() -> None:
    net = toys.linear(2)
    images = toys.images(net, 2)
    subject, attack = Subject(net, 2), PGD(random_start=False, restarts=2)
    assert torch.equal(attack.start(toys.problem(subject, images, "linf:0.1")).x, images.x)
    assert not torch.equal(attack.start(toys.problem(subject, images, "linf:0.1", restart=1)).x, images.x)


class Plateau(nn.Module):
    """Two classes; at a grey image class 1 has no slope, and it wins where the first pixel exceeds 0.55."""

    def forward(self, x: Tensor) -> Tensor:
        first = x.flatten(1)[:, 0]
        return torch.stack([torch.zeros_like(first), 20 * functional.relu(first - 0.54) - 0.2], dim=1)


def grey(classes: int, n: int = 6) -> fl.Images:
    x = torch.full((n, 1, 2, 2), 0.5)
    return fl.Images(x, torch.zeros(n, dtype=torch.int64), torch.arange(n), tuple("abcd"[:classes]))


def test_restarts_find_what_lies_behind_a_plateau() -> None:
    """From the image the gradient is zero; a start with the first pixel above 0.54, 3 in 10 of all, sees the slope."""
    still = attempts(Plateau(), grey(2), PGD(steps=5, loss="margin", random_start=False), "linf:0.1")
    assert not any(one.attempt.broke for one in still)
    found = attempts(Plateau(), grey(2), PGD(steps=5, loss="margin", restarts=20), "linf:0.1")
    by_image = {row: [one for one in found if one.row == row] for row in range(6)}
    for jobs in by_image.values():
        assert [one.attempt.broke for one in jobs] == [False] * (len(jobs) - 1) + [True]
        assert [one.attempt.restart for one in jobs] == list(range(len(jobs)))
    counts = [len(jobs) for jobs in by_image.values()]
    assert 1 < sum(counts) / len(counts) < 10  # geometric with p = 0.3: 3.3 on average


class Decoy(nn.Module):
    """Four classes; the likeliest wrong one, 1, cannot be raised; 2 and 3 rise with the first and second pixel."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1) - 0.5
        zero = torch.zeros(len(x))
        return torch.stack([zero, zero - 0.1, 30 * flat[:, 0] - 2, 30 * flat[:, 1] - 2.5], dim=1)


def test_targets_find_the_class_that_the_margin_overlooks() -> None:
    """Untargeted, the margin's slope is that of the flat class 1; the second of the targets is class 2."""
    attack = PGD(steps=10, loss="margin", random_start=False)
    assert not any(one.attempt.broke for one in attempts(Decoy(), grey(4), attack, "linf:0.1"))
    targeted = PGD(steps=10, loss="margin", random_start=False, targets=3)
    for row in range(6):
        jobs = [one.attempt for one in attempts(Decoy(), grey(4), targeted, "linf:0.1") if one.row == row]
        assert [job.target for job in jobs] == [1, 2]
        assert [job.broke for job in jobs] == [False, True]
        assert jobs[1].twin_prediction == 2


def test_each_target_gets_each_restart() -> None:
    jobs = attempts(Decoy(), grey(4, n=1), PGD(steps=2, loss="margin", restarts=2, targets=9), "linf:0.001")
    assert [(one.attempt.target, one.attempt.restart) for one in jobs] == [(t, r) for t in (1, 2, 3) for r in (0, 1)]


@pytest.mark.parametrize("loss", LOSSES)
def test_a_goal_is_reached_or_nothing_is(loss: LossName) -> None:
    """Aiming at class 3 only class 3 counts, though class 2 is nearer."""
    subject, images, attack = Subject(Decoy(), 4), grey(4), PGD(steps=30, loss=loss, random_start=False)
    result = fl.attack(subject, images, attack, "linf:0.1", target=3)
    assert result.broken.all()
    assert result.prediction.tolist() == [3] * 6
    assert not fl.attack(subject, images, attack, "linf:0.08", target=3).broken.any()
    assert fl.attack(subject, images, attack, "linf:0.08", target=2).broken.all()


def test_a_goal_is_not_tried_once_for_each_target() -> None:
    jobs = attempts(Decoy(), grey(4, n=1), PGD(steps=2, targets=3, restarts=2), "linf:0.001", target=3)
    assert [(one.attempt.target, one.attempt.restart) for one in jobs] == [(3, 0), (3, 1)]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"steps": 0}, "steps"),
        ({"restarts": 0}, "restarts"),
        ({"targets": -1}, "targets"),
        ({"step_size": -0.1}, "step_size"),
        ({"momentum": 1.0}, "momentum"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        PGD(**settings)
