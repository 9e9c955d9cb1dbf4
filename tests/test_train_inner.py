"""Attacks inside training: the same points as an audit's attack, and no trace left in the network."""

from __future__ import annotations

import torch
from torch import nn

from faultlight.attacks.fgsm import FGSM
from faultlight.attacks.pgd import PGD
from faultlight.models.subject import Subject
from faultlight.threat import parse_threat
from faultlight.train.inner import evaluating, pose, run_attack
from toys import images, linear, trace
from toys import problem as audited


def test_an_attack_in_training_visits_the_points_of_the_audit() -> None:
    module = linear(3)
    data = images(module, 3)
    there = audited(Subject(module, 3), data, "linf:0.1")
    for attack in (PGD(steps=5, step_size=0.25), PGD(steps=3, random_start=False, momentum=0.5), FGSM()):
        here = pose(module, data.x, data.y, data.ids, parse_threat("linf:0.1"), there.key)
        torch.testing.assert_close(run_attack(attack, here), trace(attack, there).last, atol=0, rtol=0)


def test_the_loss_given_replaces_the_attacks_own() -> None:
    module = linear(3)
    data = images(module, 3)
    posed = pose(module, data.x, data.y, data.ids, parse_threat("linf:0.1"), 0, lambda logits: logits[:, 2])
    weight = module[1].weight[2].view(1, 1, 4, 4)
    torch.testing.assert_close(run_attack(FGSM(), posed), data.x + 0.1 * weight.sign())


def test_a_begin_replaces_the_first_points() -> None:
    module = linear(2)
    data = images(module, 2)
    posed = pose(module, data.x, data.y, data.ids, parse_threat("l2:0.5"), 0)
    far = torch.zeros_like(data.x)
    attack = PGD(steps=1, step_size=1e-9)
    assert float((run_attack(attack, posed, far) - posed.project(far)).abs().max()) < 1e-6


def test_weights_get_no_gradient_and_batch_norm_stays() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2)).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    x, y = torch.rand(6, 1, 4, 4), torch.zeros(6, dtype=torch.int64)
    with evaluating(net):
        run_attack(PGD(steps=2), pose(net, x, y, y, parse_threat("linf:0.1"), 0))
    assert net.training
    assert net[1].training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_channels_last_stays_channels_last() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2))
    x = torch.rand(6, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    y = torch.zeros(6, dtype=torch.int64)
    found = run_attack(PGD(steps=2), pose(net, x, y, y, parse_threat("linf:0.1"), 0))
    assert found.is_contiguous(memory_format=torch.channels_last)
