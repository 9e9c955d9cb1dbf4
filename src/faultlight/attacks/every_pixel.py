"""Every pixel and every colour of a palette, one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor

from faultlight.attacks._contract import Pixels, Problem
from faultlight.attacks._pixels import paint, palette
from faultlight.errors import InputError
from faultlight.threat import Norm


@dataclass(frozen=True)
class Listed:
    """The image, and whether its list is at an end."""

    x: Pixels
    finished: Bool[Tensor, " n"]


@dataclass(frozen=True)
class EveryPixel:
    """Exhaustive search of one pixel: each place with each colour whose channels are among the levels.

    x'_p = v for all places p and all v ∈ {0, 1/(L−1), …, 1}^c: h·w·L^c queries. An image that stands after a search on
    the model itself stands against every such change; values between the levels are not tried.

    Source: Su et al. 2019, "One pixel attack for fooling deep neural networks", §III-B, the problem with d = 1, here
    solved by enumeration. On a search copy a change is missed where the copy is wrong about it.

    Args:
        levels: values a channel, evenly spaced from 0 to 1.
        batch: places and colours of one image asked about at once.
    """

    norms: ClassVar[tuple[Norm, ...]] = ("l0",)
    knowledge: ClassVar[str] = "scores"

    levels: int = 2
    batch: int = 256

    def __post_init__(self) -> None:
        if not 2 <= self.levels <= 256 or self.batch < 1:
            raise InputError(f"every pixel needs levels from 2 to 256 and batch ≥ 1, not {self}.")

    @property
    def steps(self) -> int:
        """As many as the list is long; an image's state says when it is at an end."""
        return 1 << 40

    @property
    def points(self) -> int:
        """A batch of the list is asked about at once."""
        return self.batch

    def start(self, problem: Problem) -> Listed:
        """Begin with the image as it is."""
        return Listed(problem.x, torch.zeros_like(problem.y, dtype=torch.bool))

    def step(self, problem: Problem, state: Listed) -> Listed:
        """Ask about the next batch; what would lie past the end of the list asks about its last change again."""
        channels, height, width = problem.x.shape[1:]
        places, colours = height * width, palette(channels, self.levels).to(problem.x.device)
        number = (problem.step[:, None] - 1) * self.batch + torch.arange(self.batch, device=problem.x.device)
        number = number.clamp(max=places * len(colours) - 1).flatten()
        points = state.x.repeat_interleave(self.batch, 0)
        problem.logits(paint(points, (number % places)[:, None], colours[number // places][:, None]))
        return Listed(state.x, problem.step * self.batch >= places * len(colours))
