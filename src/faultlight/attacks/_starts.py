"""Where runs begin: points that attacks share."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from faultlight import geometry, rng
from faultlight.attacks._contract import Pixels, Problem


def surface(problem: Problem) -> Pixels:
    """Return a random point at the full radius, moved into the box: x + ε·t/‖t‖ (Croce & Hein 2020, algorithm 1).

    t is uniform in the cube [−1, 1]^d for L∞ and normal for the other norms.
    """
    norm = problem.threat.norm
    noise = 2 * problem.uniform() - 1 if norm == "linf" else problem.normal()
    size = geometry.norm(noise, norm).float().clamp(min=1e-12)
    return problem.project(problem.x + problem.threat.epsilon * (noise / geometry.rows(size)))


def diversified(problem: Problem, x: Pixels, steps: int) -> Pixels:
    """Return x after steps of the full radius along ∇ₓ w·z(x), projected, w uniform in [−1, 1]^K for each row and run.

    Points that differ much in their outputs are better starts than points that differ in their pixels: from there the
    attack comes to other classes. Each step costs one forward and one backward pass.

    Source: Tashiro et al. 2020, "Diversity can be transferred: output diversification for white- and black-box
    attacks", §3.1 and 4.1 (two steps, of length ε).
    """
    # Numbers of their own: those of the problem have already chosen a random start.
    own = replace(problem, key=rng.key(problem.key, "output diversification"))

    def weighted(logits: Tensor, part: slice) -> Tensor:
        weights = 2 * own.uniform((logits.shape[1],))[part] - 1
        return (weights * logits).sum(1)

    for _ in range(steps):
        _, _, gradient = problem.oracle.differentiate(x, weighted)
        x = problem.project(x + problem.threat.epsilon * geometry.ascent(gradient, problem.threat.norm))
    return x


def begin(problem: Problem, random: Pixels, *, random_start: bool, diversify: int) -> Pixels:
    """Return where a run begins: at the image or the random point, then diversified.

    Args:
        problem: what is posed.
        random: a random point for each row.
        random_start: begin at the random point; always so from the second restart on.
        diversify: output-diversified steps from there.
    """
    chosen = geometry.rows((problem.restart > 0) | random_start)
    return diversified(problem, torch.where(chosen, random, problem.x), diversify)
