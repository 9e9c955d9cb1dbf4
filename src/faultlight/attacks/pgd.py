"""Projected gradient descent (ascent, in truth) on the loss."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from faultlight import geometry
from faultlight.attacks._contract import Pixels, Problem
from faultlight.attacks._starts import begin
from faultlight.errors import InputError
from faultlight.losses import LossName


@dataclass(frozen=True)
class Moving:
    """Where each row stands and the direction it has gathered."""

    x: Pixels
    velocity: Pixels


@dataclass(frozen=True)
class PGD:
    """Steepest steps on the loss, each projected back into the ball.

    v ← μ·v + s(∇ₓ L), x ← Π(x + α·s(v)) with s the sign for L∞ and the unit vector for L2. With momentum 0 this is
    the attack of Madry et al.; with it, that of Dong et al. The best point of each image is kept by the engine, so the
    last one need not be the best.

    Source: Madry et al. 2018, "Towards deep learning models resistant to adversarial attacks", §2.1; momentum: Dong et
    al. 2018, "Boosting adversarial attacks with momentum", algorithm 1 (here the gradient is normalised by the norm of
    the threat, not by L1).

    Args:
        steps: gradient steps a run.
        step_size: α in units of ε; 0 stands for 2.5 / steps.
        schedule: "constant", or "cosine": α falls to 0 over the run along half a cosine.
        momentum: μ in [0, 1).
        loss: what is increased: "cross-entropy", "margin" or "dlr".
        random_start: begin at a random point of the ball (always so from the second restart on).
        restarts: runs an image.
        targets: runs at each of the k most likely wrong classes; 0 is untargeted.
        diversify: output-diversified steps before the first (Tashiro et al. 2020), each a forward and a backward pass.
    """

    steps: int = 40
    step_size: float = 0.0
    schedule: Literal["constant", "cosine"] = "constant"
    momentum: float = 0.0
    loss: LossName = "cross-entropy"
    random_start: bool = True
    restarts: int = 1
    targets: int = 0
    diversify: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1 or self.targets < 0 or self.diversify < 0:
            raise InputError(f"PGD needs steps ≥ 1, restarts ≥ 1, targets ≥ 0 and diversify ≥ 0, not {self}.")
        if self.step_size < 0 or not 0 <= self.momentum < 1:
            raise InputError(f"PGD needs step_size ≥ 0 and momentum in [0, 1), not {self}.")
        if self.schedule not in ("constant", "cosine"):
            raise InputError(f"PGD's schedule must be constant or cosine, not {self.schedule!r}.")

    def start(self, problem: Problem) -> Moving:
        """Start at the image, or at a random point of the ball, and diversify the outputs from there."""
        random = geometry.random_in_ball(problem.uniform(), problem.x, problem.threat)
        x = begin(problem, random, random_start=self.random_start, diversify=self.diversify)
        return Moving(x, torch.zeros_like(x))

    def step(self, problem: Problem, state: Moving) -> Moving:
        """Take one projected step."""
        _, gradient = problem.gradient(state.x, self.loss)
        velocity = geometry.ascent(gradient, problem.threat.norm)
        if self.momentum:
            velocity = self.momentum * state.velocity + velocity
        direction = geometry.ascent(velocity, problem.threat.norm)
        length = geometry.rows(self._step_size(problem.step)) * problem.threat.epsilon
        return Moving(problem.project(state.x + length * direction), velocity)

    def _step_size(self, step: Tensor) -> Tensor:
        size = torch.full_like(step, self.step_size or 2.5 / self.steps, dtype=torch.float32)
        if self.schedule == "constant":
            return size
        return size * 0.5 * (1 + torch.cos(math.pi * (step - 1) / self.steps))
