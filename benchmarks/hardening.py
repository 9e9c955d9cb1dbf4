"""A short adversarial training, so that a benchmark has a network on which most images stand."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from faultlight import rng
from faultlight.data.images import Images
from faultlight.models.search import has_fast_bfloat16
from faultlight.train.augment import augment
from faultlight.train.recipe import Augment


@dataclass(frozen=True)
class Hardening:
    """Adversarial training with a few signed steps from a random start.

    One step of 1.25 ε is the method of Wong, Rice & Kolter 2020, "Fast is better than free", algorithm 3; more and
    smaller steps are that of Madry et al. 2018.

    Args:
        steps_in_all: training steps.
        batch: images a step.
        epsilon: radius of the L∞ ball; it grows from 0 over the first `growth` of all steps.
        growth: that share.
        inner: attack steps on each batch.
        length: length of an attack step in units of ε.
        rate: the highest learning rate; it rises over a fifth of the run, then falls to 0.
        sgd: SGD with Nesterov momentum 0.9 and weight decay 5e-4, else Adam.
        change: random changes of the images.
    """

    steps_in_all: int
    batch: int
    epsilon: float
    growth: float
    inner: int
    length: float
    rate: float
    sgd: bool
    change: Augment


def harden(module: nn.Module, images: Images, plan: Hardening) -> nn.Module:
    """Train a network in place by the plan, in bfloat16 where the processor has units for it, and return it frozen."""
    module = module.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimiser = _optimiser(module, plan)
    fast = has_fast_bfloat16(torch.device("cpu"))
    for step in range(plan.steps_in_all):
        done = step / plan.steps_in_all
        for group in optimiser.param_groups:
            group["lr"] = plan.rate * min(done / 0.2, (1 - done) / 0.8)
        x, y = _batch(images, plan, step)
        with torch.autocast("cpu", torch.bfloat16, enabled=fast):
            delta = _attack(module, x, y, plan, min(1.0, done / plan.growth) if plan.growth else 1.0)
            loss = functional.cross_entropy(module(x + delta).float(), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 25 == 0:
            print(f"  step {step} of {plan.steps_in_all}: loss {float(loss.detach()):.3f}", flush=True)
    return module.to(memory_format=torch.contiguous_format).eval().requires_grad_(False)  # type: ignore[call-overload]


def _optimiser(module: nn.Module, plan: Hardening) -> torch.optim.Optimizer:
    if plan.sgd:
        return torch.optim.SGD(module.parameters(), plan.rate, momentum=0.9, weight_decay=5e-4, nesterov=True)
    return torch.optim.Adam(module.parameters(), plan.rate)


def _batch(images: Images, plan: Hardening, step: int) -> tuple[Tensor, Tensor]:
    each = len(images) // plan.batch
    generator = torch.Generator().manual_seed(rng.key(0, "order", step // each) >> 1)
    order = torch.randperm(len(images), generator=generator)
    rows = order[step % each * plan.batch :][: plan.batch]
    x = augment(images.x[rows], plan.change, 0, 0, step)
    return x.contiguous(memory_format=torch.channels_last), images.y[rows]


def _attack(module: nn.Module, x: Tensor, y: Tensor, plan: Hardening, share: float) -> Tensor:
    epsilon = plan.epsilon * share
    delta = torch.empty_like(x).uniform_(-epsilon, epsilon)
    for _ in range(plan.inner):
        leaf = (x + delta).clamp(0, 1).requires_grad_()
        (gradient,) = torch.autograd.grad(functional.cross_entropy(module(leaf).float(), y), leaf)
        delta = (delta + plan.length * epsilon * gradient.sign()).clamp(-epsilon, epsilon)
    return (x + delta).clamp(0, 1) - x
