"""What the searches for the nearest twin share: the margin they climb, the balls they shrink, the schedules."""

from __future__ import annotations

import math
from functools import partial

import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from faultlight import geometry
from faultlight.attacks._contract import Pixels, Problem
from faultlight.attacks._planes import shortest
from faultlight.losses import UNTARGETED, goal_margin, targeted_margin
from faultlight.threat import Norm

# The norm in which a gradient is measured, so that margin / norm is the distance to the boundary of a linear model.
_DUAL: dict[Norm, Norm] = {"linf": "l1", "l2": "l2", "l1": "linf"}
_TINY = 1e-12
# Rounds in which a projection on ball and box together is found.
_ROUNDS = 4
_HALVINGS = 20


def climb(problem: Problem, x: Pixels, softness: Float32[Tensor, " n"]) -> tuple[Float32[Tensor, " n"], Pixels]:
    """Return by how much the goal is reached at the points x, and the gradient of T·log Σ_{j≠y} exp(z_j / T) − z_y.

    With a target it is z_t − T·log Σ_{j≠t} exp(z_j / T). At T = 1 the gradient has the direction of the
    cross-entropy's, in which all classes near the lead have a share, but does not vanish where the model is sure; as T
    falls to 0 it becomes the margin's.

    Args:
        problem: what is posed.
        x: the points.
        softness: T > 0 of each row.
    """

    def function(logits: Tensor, part: slice) -> Tensor:
        aimed = problem.target[part] != UNTARGETED
        own = torch.where(aimed, problem.target[part], problem.y[part])[:, None]
        others = logits.scatter(1, own, -torch.inf) / softness[part, None]
        lead = others.logsumexp(1) * softness[part] - logits.gather(1, own)[:, 0]
        return torch.where(aimed, -lead, lead)

    logits, _, gradient = problem.oracle.differentiate(x, function)
    return problem.margin(logits), gradient


def softness(
    step: Int64[Tensor, " n"], steps: int, scale: Float32[Tensor, " n"], first: float = 0.1, last: float = 0.0
) -> Float32[Tensor, " n"]:
    """Return T of a run, in shares of the image's own margin: √T falls from `first` to `last`, T never quite to 0."""
    return annealed(step, steps, first, last).square().clamp(min=1e-4) * scale.clamp(min=_TINY)


def annealed(step: Int64[Tensor, " n"], steps: int, first: float, last: float) -> Float32[Tensor, " n"]:
    """Return a value that falls from `first` at step 1 to `last` at step `steps` along half a cosine."""
    part = (step.float() - 1) / max(steps - 1, 1)
    return last + (first - last) * 0.5 * (1 + torch.cos(math.pi * part))


def boundary_distance(
    margin: Float32[Tensor, " n"], gradient: Float32[Tensor, "n c h w"], kind: Norm
) -> Float64[Tensor, " n"]:
    """Return |margin| / ‖gradient‖ in the dual norm: how far the boundary is where the model is linear."""
    return margin.double().abs() / geometry.norm(gradient, _DUAL[kind]).clamp(min=_TINY)


def project(
    delta: Float32[Tensor, "n c h w"], x: Float32[Tensor, "n c h w"], radius: Float64[Tensor, " n"], kind: Norm
) -> Float32[Tensor, "n c h w"]:
    """Return x + δ moved to the nearest point of the ball of each row's own radius that lies in [0, 1] as well.

    Projected on the ball first and on the box then, a point would lie well inside the ball, and a search that grows its
    radius until the boundary is reached would never reach it. For L0 the radius counts pixels.
    """
    room = rooms(x, delta)
    if kind == "linf":
        size = torch.minimum(room, geometry.rows(radius).float())
        return (x + torch.clamp(delta, -size, size)).clamp(0, 1)
    if kind == "l0":
        return (x + _keep_pixels(delta.sign() * torch.minimum(delta.abs(), room), radius)).clamp(0, 1)
    size = _scaled(delta.abs(), room, radius) if kind == "l2" else _lowered(delta.abs(), room, radius)
    return (x + delta.sign() * size).clamp(0, 1)


def rivals(problem: Problem, logits: Float32[Tensor, "n classes"], count: int) -> Int64[Tensor, "n k"]:
    """Return the classes each row may move to: its target, else the `count` likeliest wrong ones at these logits."""
    aimed = problem.target != UNTARGETED
    if bool(aimed.all()):
        return problem.target[:, None]
    wrong = logits.nan_to_num(nan=-torch.inf).scatter(1, problem.y[:, None], -torch.inf)
    order = wrong.argsort(dim=1, descending=True, stable=True)[:, : min(count, logits.shape[1] - 1)]
    return torch.where(aimed[:, None], problem.target[:, None], order)


def climb_each(
    problem: Problem, x: Pixels, classes: Int64[Tensor, "n k"]
) -> tuple[Float32[Tensor, "n k"], Float32[Tensor, "n k c h w"]]:
    """Return z_j − z_y for each row's classes j, and its gradient: k questions, of one point a row each.

    Where the goal is one class, its margin over every other class stands in for that over the label.
    """
    goal = torch.full_like(problem.y, UNTARGETED) if problem.goal is None else problem.goal

    def lead(logits: Tensor, part: slice, aim: Tensor) -> Tensor:
        over_label = targeted_margin(logits, problem.y[part], aim[part])
        return torch.where(goal[part] < 0, over_label, goal_margin(logits, problem.y[part], goal[part]))

    asked = [problem.oracle.differentiate(x, partial(lead, aim=aim)) for aim in classes.unbind(1)]
    return torch.stack([value for _, value, _ in asked], 1), torch.stack([gradient for *_, gradient in asked], 1)


def first_crossing(problem: Problem, candidates: int, overshoot: float) -> tuple[Pixels, Float32[Tensor, " n"]]:
    """Return the point a little beyond the nearest linearised boundary, and by how much the image misses its goal.

    A search that follows one gradient cannot tell which class is nearest, only which one leads.

    Args:
        problem: what is posed.
        candidates: the likeliest wrong classes that are looked at; with 0 the point is the image.
        overshoot: how much farther the point is than the boundary.
    """
    logits = problem.logits(problem.x)
    if not candidates:
        return problem.x, problem.margin(logits).abs()
    value, gradient = climb_each(problem, problem.x, rivals(problem, logits, candidates))
    step = shortest(problem.x, value, gradient, problem.threat.norm)
    return (problem.x + (1 + overshoot) * step).clamp(0, 1), problem.margin(logits).abs()


def _scaled(size: Tensor, room: Tensor, radius: Tensor) -> Tensor:
    """Return min(s·|δ|, room) with the s ≤ 1 that makes the L2 norm the radius; found from below."""
    scale = (radius / geometry.norm(size, "l2").clamp(min=_TINY)).clamp(max=1)
    for _ in range(_ROUNDS):
        found = geometry.norm(torch.minimum(size * geometry.rows(scale).float(), room), "l2")
        scale = (scale * radius / found.clamp(min=_TINY)).clamp(max=1)
    return torch.minimum(size * geometry.rows(scale).float(), room)


def _lowered(size: Tensor, room: Tensor, radius: Tensor) -> Tensor:
    """Return min(max(|δ| − θ, 0), room) with the θ ≥ 0 that makes the L1 norm the radius; found by halving."""
    low = torch.zeros_like(radius)
    high = size.flatten(1).amax(1).double()
    inside = torch.minimum(size, room).flatten(1).sum(1) <= radius
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        found = torch.minimum((size - geometry.rows(middle).float()).clamp(min=0), room).flatten(1).sum(1)
        low, high = torch.where(found > radius, middle, low), torch.where(found > radius, high, middle)
    theta = torch.where(inside, 0, high)
    return torch.minimum((size - geometry.rows(theta).float()).clamp(min=0), room)


def _keep_pixels(delta: Tensor, count: Tensor) -> Tensor:
    """Keep the pixels of the largest change, as many as each row may change."""
    strength = delta.square().sum(1).flatten(1)
    order = strength.argsort(dim=1, descending=True, stable=True)
    rank = torch.arange(strength.shape[1], device=delta.device).expand_as(order)
    kept = torch.zeros_like(strength).scatter_(1, order, (rank < count[:, None]).to(strength.dtype))
    return delta * kept.view(len(delta), 1, *delta.shape[2:])


def rooms(x: Float[Tensor, "*batch"], direction: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Return how far each pixel may move along the sign of its direction before it leaves [0, 1]."""
    return torch.where(direction > 0, 1 - x, x)
