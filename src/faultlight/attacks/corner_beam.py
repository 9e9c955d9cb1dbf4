"""A few pixels, chosen by gradient and set to the corners of the colour cube."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from faultlight.attacks._contract import Pixels, Problem
from faultlight.attacks._pixels import paint, palette
from faultlight.errors import InputError
from faultlight.threat import Norm


@dataclass(frozen=True)
class Beam:
    """What each row has tried, and the images it grows.

    A change is one pixel set to one colour, numbered colour · h·w + place.

    Args:
        x: the best image of the beam.
        order: the changes of the clean image, the most promising first.
        margin: what each came to; −∞ where it is untried.
        begun: pixels that a beam has begun with.
        beam: the images that the next pixel is added to.
        finished: all that was to be tried is.
    """

    x: Pixels
    order: Int64[Tensor, "n changes"]
    margin: Float32[Tensor, "n changes"]
    begun: Bool[Tensor, "n places"]
    beam: Float32[Tensor, "n width c h w"]
    finished: Bool[Tensor, " n"]


@dataclass(frozen=True)
class CornerBeam:
    """The most promising pixels first, each in the colours of {0, 1}^c; for k > 1 a beam search, pixel by pixel.

    To set pixel p to colour v promises ⟨∇ₓ margin at p, v − x_p⟩. A round tries the next batch of changes of the clean
    image in this order. Of all changes tried so far, the best at pixels that began no beam yet begin one; each of its
    images grows by its own most promising changes, and the best images of all go on, until k pixels are changed. For
    k = 1, steps × batch ≥ h·w·2^c tries every corner of every pixel.

    Source: Croce & Hein 2019, "Sparse and imperceivable adversarial attacks", §3.1 (CornerSearch) asks about the
    corners of each pixel alone and joins the best at random. The order by gradient and the beam are Faultlight's own.

    Args:
        steps: batches of queries; k of them make a round.
        batch: changes of one image asked about at once.
        width: images in the beam; each begins with another pixel.
    """

    norms: ClassVar[tuple[Norm, ...]] = ("l0",)

    steps: int = 15
    batch: int = 128
    width: int = 4

    def __post_init__(self) -> None:
        if self.steps < 1 or self.width < 1 or self.batch < 1 or self.batch % self.width:
            raise InputError(f"corner beam needs steps ≥ 1 and a batch that is a multiple of its width, not {self}.")

    @property
    def points(self) -> int:
        """Count a batch of small images as a quarter of itself: more in flight fill the model's pieces better."""
        return max(1, self.batch // 4)

    def start(self, problem: Problem) -> Beam:
        """Order the changes of the clean image by what they promise."""
        _, slope = problem.gradient(problem.x, "margin")
        promise = _promise(problem.x, slope)
        order = promise.argsort(dim=1, descending=True, stable=True)
        untried = torch.full_like(promise, -torch.inf)
        begun = torch.zeros_like(problem.x[:, 0], dtype=torch.bool).flatten(1)
        beam = problem.x[:, None].repeat_interleave(self.width, 1)
        return Beam(problem.x, order, untried, begun, beam, torch.zeros_like(problem.y, dtype=torch.bool))

    def step(self, problem: Problem, state: Beam) -> Beam:
        """Ask about a batch of changes: of the clean image where a round begins, else of the beam's images."""
        pixels = int(problem.threat.epsilon)
        depth = (problem.step - 1) % pixels
        fresh = self._fresh(state.order, (problem.step - 1) // pixels)
        changes = fresh
        if pixels > 1:
            changes = torch.where((depth == 0)[:, None], fresh, self._promising(problem, state.beam))
        each = self.batch // self.width
        points = _changed(state.beam.flatten(0, 1).repeat_interleave(each, 0), changes.flatten())
        found = problem.margin(problem.logits(points)).view_as(changes)
        finished = (depth == pixels - 1) & (problem.step // pixels * self.batch >= state.order.shape[1])
        if pixels == 1:
            return replace(state, finished=finished)
        first = (depth == 0)[:, None]
        margin = torch.where(first, state.margin.scatter(1, fresh, found), state.margin)
        begin, begun = self._begin(problem.x, margin, state.begun)
        beam = torch.where(_over(depth == 0), begin, self._grown(points, found))
        beam = torch.where(_over(depth == pixels - 1), problem.x[:, None], beam)
        return Beam(beam[:, 0], state.order, margin, torch.where(first, begun, state.begun), beam, finished)

    def _fresh(self, order: Tensor, round_: Tensor) -> Tensor:
        """Return the next batch of the order; past its end, its last change over and over."""
        place = round_[:, None] * self.batch + torch.arange(self.batch, device=order.device)
        return order.gather(1, place.clamp(max=order.shape[1] - 1))

    def _promising(self, problem: Problem, beam: Tensor) -> Tensor:
        """Return the most promising changes of each image of the beam."""
        x = beam.flatten(0, 1)
        _, slope = problem.gradient(x, "margin")
        best = _promise(x, slope).topk(self.batch // self.width, dim=1).indices
        return best.view(len(beam), self.batch)

    def _begin(self, x: Pixels, margin: Tensor, begun: Tensor) -> tuple[Tensor, Tensor]:
        """Return the clean image with one of the best pixels changed, for each of several, and what has begun now."""
        best, colour = margin.view(len(x), -1, begun.shape[1]).max(1)
        place = best.masked_fill(begun, -torch.inf).topk(self.width, dim=1).indices
        change = colour.gather(1, place) * begun.shape[1] + place
        images = _changed(x.repeat_interleave(self.width, 0), change.flatten())
        return images.view(len(x), self.width, *x.shape[1:]), begun.scatter(1, place, value=True)

    def _grown(self, points: Pixels, found: Tensor) -> Tensor:
        """Return the best points of each row."""
        value, order = found.sort(dim=1, descending=True, stable=True)
        # The same two pixels in another order give the same image, so the very same margin.
        twice = torch.zeros_like(value, dtype=torch.bool)
        twice[:, 1:] = value[:, 1:] == value[:, :-1]
        best = order.gather(1, twice.to(torch.int8).argsort(dim=1, stable=True)[:, : self.width])
        rows = torch.arange(len(found), device=found.device)[:, None]
        return points.view(*found.shape, *points.shape[1:])[rows, best]


def _promise(x: Pixels, slope: Pixels) -> Tensor:
    """Return what each change promises to first order, (m, colours · h · w)."""
    colours = palette(x.shape[1]).to(x.device)
    now = (slope * x).sum(1).flatten(1)
    then = torch.einsum("vc,mcp->mvp", colours, slope.flatten(2))
    return (then - now[:, None]).flatten(1)


def _changed(x: Pixels, change: Tensor) -> Pixels:
    """Make one change in each image, in place."""
    places = x.shape[2] * x.shape[3]
    colours = palette(x.shape[1]).to(x.device)
    return paint(x, (change % places)[:, None], colours[change // places][:, None])


def _over(rows: Tensor) -> Tensor:
    return rows.view(-1, 1, 1, 1, 1)
