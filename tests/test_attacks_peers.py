"""Equality with independent implementations, where they are installed (`make bench` installs them)."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import faultlight as fl
import toys
from faultlight.attacks.fgsm import FGSM
from faultlight.attacks.pgd import PGD
from faultlight.models.subject import Subject
from faultlight.threat import parse_threat

CLASSES, SHAPE = 5, (2, 6, 6)
STEPS, STEP_SIZE = 7, 0.3


def peer(name: str) -> ModuleType:
    """A peer's package; the deprecations it calls on are not ours."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed; it is only needed to compare with it")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


@pytest.fixture(scope="module")
def net() -> nn.Sequential:
    return toys.convolutional(CLASSES)


@pytest.fixture(scope="module")
def images(net: nn.Sequential) -> fl.Images:
    """Far from black and white in most pixels: in L2, peers clip to the box after the ball and we before."""
    return toys.images(net, CLASSES, shape=SHAPE, spread=0.3)


def ours(net: nn.Module, images: fl.Images, attack: Any, threat: str) -> Tensor:
    return toys.trace(attack, toys.problem(Subject(net, CLASSES), images, threat)).last


ATTACKS = {"fgsm": FGSM(), "pgd": PGD(steps=STEPS, step_size=STEP_SIZE, random_start=False)}


@pytest.mark.parametrize("name", ATTACKS)
def test_linf_equals_torchattacks(net: nn.Sequential, images: fl.Images, name: str) -> None:
    torchattacks = peer("torchattacks")
    epsilon = 0.3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        attack = {
            "fgsm": lambda: torchattacks.FGSM(net, eps=epsilon),
            "pgd": lambda: torchattacks.PGD(net, epsilon, STEP_SIZE * epsilon, STEPS, random_start=False),
        }[name]()
        theirs = attack(images.x, images.y)
    assert torch.allclose(ours(net, images, ATTACKS[name], f"linf:{epsilon}"), theirs, atol=2e-7)


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("threat", ["linf:0.3", "l2:0.3"])
def test_equals_foolbox(net: nn.Sequential, images: fl.Images, name: str, threat: str) -> None:
    foolbox = peer("foolbox")
    ball = parse_threat(threat)
    kinds = {
        ("fgsm", "linf"): "LinfFastGradientAttack",
        ("fgsm", "l2"): "L2FastGradientAttack",
        ("pgd", "linf"): "LinfProjectedGradientDescentAttack",
        ("pgd", "l2"): "L2ProjectedGradientDescentAttack",
    }
    settings = {"rel_stepsize": STEP_SIZE, "steps": STEPS} if name == "pgd" else {}
    attack = getattr(foolbox.attacks, kinds[name, ball.norm])(random_start=False, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
        _, theirs, _ = attack(model, images.x, images.y, epsilons=ball.epsilon)
    assert torch.allclose(ours(net, images, ATTACKS[name], threat), theirs, atol=2e-6)
