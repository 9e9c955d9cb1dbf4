"""A grey patch slid over images: the batches, and what the net says at each position."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from faultlight.errors import InputError
from faultlight.models.subject import Subject
from faultlight.views.listening import listen, module_named, rows_at_once

# Pixels (rows, c, h, w), and for each row the number of the image that it belongs to.
Batches = Iterator[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Grid:
    """Where the patch is put: every stride-th place at which it lies wholly inside the image.

    Args:
        height: rows of the image.
        width: columns of the image.
        patch: side of the square patch, in pixels.
        stride: pixels from one position to the next.

    Raises:
        InputError: the patch is larger than the image, or patch or stride is below 1.
    """

    height: int
    width: int
    patch: int
    stride: int

    def __post_init__(self) -> None:
        if self.patch < 1 or self.stride < 1:
            raise InputError(f"patch {self.patch} and stride {self.stride} must both be at least 1 pixel.")
        if self.patch > min(self.height, self.width):
            raise InputError(
                f"a patch of {self.patch} pixels is larger than the image of {self.height} × {self.width}; "
                f"choose at most {min(self.height, self.width)}."
            )

    @property
    def top(self) -> range:
        """The first row of the patch, position by position."""
        return range(0, self.height - self.patch + 1, self.stride)

    @property
    def left(self) -> range:
        """The first column of the patch, position by position."""
        return range(0, self.width - self.patch + 1, self.stride)

    @property
    def corners(self) -> list[tuple[int, int]]:
        """First row and first column of every position, row by row."""
        return [(top, left) for top in self.top for left in self.left]

    @property
    def never_covered(self) -> tuple[int, int]:
        """How many rows at the bottom and columns at the right no position reaches."""
        return (self.height - self.patch) % self.stride, (self.width - self.patch) % self.stride


@dataclass(frozen=True)
class Unit:
    """A feature map for each image: a layer's name and, image by image, the number of the channel, shape (n,)."""

    layer: str
    channel: Int64[Tensor, " n"]


@dataclass(frozen=True)
class Answer:
    """What the net says about some images, each field with one value an image; `total` only where a unit was named."""

    probability: Float32[Tensor, " n"]
    prediction: Int64[Tensor, " n"]
    total: Float32[Tensor, " n"]


def map_totals(output: Tensor) -> Float32[Tensor, "n c"]:
    """Return the total activation of each feature map: the sum over its positions, shape (n, c)."""
    return output.detach().float().reshape(*output.shape[:2], -1).sum(2)


def slide(
    subject: Subject,
    x: Float32[Tensor, "n c h w"],
    y: Int64[Tensor, " n"],
    grid: Grid,
    fill: float,
    unit: Unit | None = None,
) -> Answer:
    """Return the net's answer at every position of the patch.

    Args:
        subject: the model.
        x: pixels in [0, 1], shape (n, c, h, w).
        y: the class whose probability is followed, shape (n,).
        grid: the positions, p of them.
        fill: the pixel value of the patch.
        unit: the feature map to follow.

    Returns:
        One value for each image and position: row i·p + j is image i under position j.
    """
    return collect(subject, _covered(x, grid, fill), y, unit)


def collect(subject: Subject, batches: Batches, y: Int64[Tensor, " n"], unit: Unit | None = None) -> Answer:
    """Return the net's answers to batches of pixels, joined; each comes with the image that a row belongs to."""
    answers = []
    for rows, pixels in batches:
        own = Unit(unit.layer, unit.channel[rows]) if unit else None
        answers.append(_answer(subject, pixels, y[rows], own))
    fields = zip(*((one.probability, one.prediction, one.total) for one in answers), strict=True)
    return Answer(*(torch.cat(parts) for parts in fields))


def uncovered(x: Float32[Tensor, "n c h w"]) -> Batches:
    """Yield the images themselves, in batches."""
    for rows in torch.split(torch.arange(len(x)), rows_at_once(x)):
        yield rows, x[rows]


@torch.no_grad()
def _answer(subject: Subject, x: Float32[Tensor, "n c h w"], y: Int64[Tensor, " n"], unit: Unit | None) -> Answer:
    """Return probability of the class y, prediction, and the unit's total activation, all from one forward pass."""
    totals: dict[str, Tensor] = {}

    def take(name: str, output: Tensor) -> None:
        if unit is not None and name == unit.layer:
            totals[name] = map_totals(output).gather(1, unit.channel.to(output.device)[:, None])[:, 0]

    place = subject.device
    logits = listen(subject, x.to(place), [module_named(subject, unit.layer)] if unit else [], take)
    probability = logits.softmax(1).gather(1, y.to(place)[:, None])[:, 0]
    total = totals[unit.layer] if unit else torch.full_like(probability, torch.nan)
    return Answer(probability.cpu(), logits.argmax(1).cpu(), total.cpu())


def _covered(x: Tensor, grid: Grid, fill: float) -> Batches:
    # The copies are laid out once a batch, then only the patches are written.
    corners, most = grid.corners, rows_at_once(x)
    group = max(1, most // len(corners))
    for images in torch.split(torch.arange(len(x)), group):
        for start in range(0, len(corners), most):
            some = corners[start : start + most]
            batch = x[images, None].repeat(1, len(some), 1, 1, 1)
            for position, (top, left) in enumerate(some):
                batch[:, position, :, top : top + grid.patch, left : left + grid.patch] = fill
            yield images.repeat_interleave(len(some)), batch.flatten(0, 1)
