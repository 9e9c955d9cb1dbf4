"""What attacks maximise: functions of logits, a value an image, all larger when the image is closer to broken."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor
from torch.nn import functional

from faultlight.errors import InputError, nearest

LossName = Literal["cross-entropy", "margin", "dlr"]
LOSSES: tuple[LossName, ...] = get_args(LossName)

Logits = Float32[Tensor, "n classes"]
Labels = Int64[Tensor, " n"]
Values = Float32[Tensor, " n"]
UNTARGETED = -1


def loss(name: LossName, logits: Logits, y: Labels, target: Labels) -> Values:
    """Return the loss of that name, targeted in the rows whose target is not `UNTARGETED` (−1).

    Raises:
        InputError: there is no loss of that name.
    """
    if name not in LOSSES:
        raise InputError(f"there is no loss named {name!r}; {nearest(name, LOSSES)}.")
    targeted = target != UNTARGETED
    if not targeted.any():
        return _UNTARGETED[name](logits, y)
    aim = torch.where(targeted, target, 0)
    return torch.where(targeted, _TARGETED[name](logits, y, aim), _UNTARGETED[name](logits, y))


def margin(logits: Logits, y: Labels) -> Values:
    """Return max_{j≠y} z_j − z_y: above 0 exactly when another class wins (Carlini & Wagner 2017, f₆)."""
    return _others(logits, y).amax(1) - _of(logits, y)


def cross_entropy(logits: Logits, y: Labels) -> Values:
    """Return −log softmax(z)_y."""
    return functional.cross_entropy(logits, y, reduction="none")


def dlr(logits: Logits, y: Labels) -> Values:
    """Return the difference of logits ratio −(z_y − max_{j≠y} z_j) / (z_π1 − z_π3) (Croce & Hein 2020, eq. 6).

    With fewer than three classes the ratio is constant, so the plain margin stands in for it.
    """
    if logits.shape[1] < 3:
        return margin(logits, y)
    ordered = logits.topk(3, dim=1).values
    return margin(logits, y) / (ordered[:, 0] - ordered[:, 2] + 1e-12)


def targeted_margin(logits: Logits, y: Labels, target: Labels) -> Values:
    """Return z_t − z_y: above 0 when the target beats the label."""
    return _of(logits, target) - _of(logits, y)


def targeted_cross_entropy(logits: Logits, y: Labels, target: Labels) -> Values:  # noqa: ARG001 — one signature for all
    """Return log softmax(z)_t, at most 0."""
    return -functional.cross_entropy(logits, target, reduction="none")


def targeted_dlr(logits: Logits, y: Labels, target: Labels) -> Values:
    """Return −(z_y − z_t) / (z_π1 − (z_π3 + z_π4)/2) (Croce & Hein 2020, eq. 7); below four classes, z_t − z_y."""
    if logits.shape[1] < 4:
        return targeted_margin(logits, y, target)
    ordered = logits.topk(4, dim=1).values
    return targeted_margin(logits, y, target) / (ordered[:, 0] - ordered[:, 2:4].mean(1) + 1e-12)


def goal_margin(logits: Logits, y: Labels, goal: Labels) -> Values:
    """Return by how much the attacker's goal is reached: max_{j≠y} z_j − z_y, or z_t − max_{j≠t} z_j for a goal t."""
    aimed = goal != UNTARGETED
    if not aimed.any():
        return margin(logits, y)
    return torch.where(aimed, -margin(logits, goal.clamp(min=0)), margin(logits, y))


def is_broken(logits: Logits, y: Labels) -> Bool[Tensor, " n"]:
    """Return where the prediction (the first largest logit) is not the label and all logits are finite."""
    return (logits.argmax(1) != y) & torch.isfinite(logits).all(1)


def _of(logits: Tensor, y: Tensor) -> Tensor:
    return logits.gather(1, y[:, None])[:, 0]


def _others(logits: Tensor, y: Tensor) -> Tensor:
    return logits.scatter(1, y[:, None], -torch.inf)


_UNTARGETED = {"cross-entropy": cross_entropy, "margin": margin, "dlr": dlr}
_TARGETED = {"cross-entropy": targeted_cross_entropy, "margin": targeted_margin, "dlr": targeted_dlr}
