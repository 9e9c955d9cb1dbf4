"""One pixel, or a few, by differential evolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float32
from torch import Tensor

from faultlight.attacks._contract import Pixels, Problem
from faultlight.attacks._pixels import paint
from faultlight.errors import InputError
from faultlight.threat import Norm


@dataclass(frozen=True)
class Evolving:
    """The population of each row, the children to be tried next, and the best image so far.

    Args:
        x: the image with the pixels of the fittest.
        parents: pixels by agent: row and column as shares of the image's sides, then the colour.
        fitness: the parents' margins.
        children: one for each parent.
    """

    x: Pixels
    parents: Float32[Tensor, "n agents k genes"]
    fitness: Float32[Tensor, "n agents"]
    children: Float32[Tensor, "n agents k genes"]


@dataclass(frozen=True)
class OnePixel:
    """Differential evolution over the places and colours of k pixels; k is the radius of the L0 ball.

    Child i of generation g + 1 is v_i = p_r1 + F·(p_r2 − p_r3) with r1, r2, r3 and i all different; it takes its
    parent's place where it is fitter. Places begin uniform, colours normal with mean 128/255 and deviation 127/255.

    Source: Su et al. 2019, "One pixel attack for fooling deep neural networks", §III. Here the fitness is the margin of
    the goal in logits, not the probability of a class, which is rounded to 1 where the model is sure; and what
    leaves the image or the colours is put back on their border.

    Args:
        steps: generations, the first population included.
        population: agents an image, so queries a generation.
        weight: F, how far a difference carries, in (0, 2].
        restarts: runs an image.
    """

    norms: ClassVar[tuple[Norm, ...]] = ("l0",)
    knowledge: ClassVar[str] = "scores"

    steps: int = 100
    population: int = 400
    weight: float = 0.5
    restarts: int = 1

    def __post_init__(self) -> None:
        if self.steps < 1 or self.population < 4 or self.restarts < 1 or not 0 < self.weight <= 2:
            raise InputError(
                f"one pixel needs steps ≥ 1, population ≥ 4, restarts ≥ 1 and weight in (0, 2], not {self}."
            )

    @property
    def points(self) -> int:
        """Count a generation as a quarter of itself: several in flight leave less of the model's last piece empty."""
        return max(1, self.population // 4)

    def start(self, problem: Problem) -> Evolving:
        """Draw the first population."""
        channels, pixels = problem.x.shape[1], int(problem.threat.epsilon)
        places = problem.uniform((self.population, pixels, 2))
        colours = problem.normal((self.population, pixels, channels)) * (127 / 255) + 128 / 255
        children = torch.cat([places, colours], 3).clamp(0, 1)
        unborn = torch.full_like(places[:, :, 0, 0], -torch.inf)
        return Evolving(problem.x, children, unborn, children)

    def step(self, problem: Problem, state: Evolving) -> Evolving:
        """Try the children, keep the fitter of each and its parent, and breed."""
        points = _paint(problem.x.repeat_interleave(self.population, 0), state.children.flatten(0, 1))
        margin = problem.margin(problem.logits(points)).view_as(state.fitness)
        fitter = margin > state.fitness
        parents = torch.where(fitter[:, :, None, None], state.children, state.parents)
        fitness = torch.where(fitter, margin, state.fitness)
        best = parents[torch.arange(len(parents), device=parents.device), fitness.argmax(1)]
        return Evolving(_paint(problem.x.clone(), best), parents, fitness, self._breed(problem, parents))

    def _breed(self, problem: Problem, parents: Tensor) -> Tensor:
        base, plus, minus = _others(problem.uniform((3, self.population)))
        rows = torch.arange(len(parents), device=parents.device)[:, None]
        return (parents[rows, base] + self.weight * (parents[rows, plus] - parents[rows, minus])).clamp(0, 1)


def _others(uniform: Float32[Tensor, "n 3 agents"]) -> tuple[Tensor, Tensor, Tensor]:
    """Return three agents for each that differ from it and from one another, all such choices alike."""
    agents = uniform.shape[2]
    first, second, third = (uniform[:, i].mul(agents - 1 - i).long().clamp(max=agents - 2 - i) for i in range(3))
    second = second + (second >= first)
    third = third + (third >= torch.minimum(first, second))
    third = third + (third >= torch.maximum(first, second))
    after = torch.arange(1, agents + 1, device=uniform.device)
    return (first + after) % agents, (second + after) % agents, (third + after) % agents


def _paint(x: Pixels, agents: Float32[Tensor, "m k genes"]) -> Pixels:
    height, width = x.shape[2:]
    row = (agents[:, :, 0] * height).long().clamp(max=height - 1)
    column = (agents[:, :, 1] * width).long().clamp(max=width - 1)
    return paint(x, row * width + column, agents[:, :, 2:])
