"""A grey patch slid over images: the batches, and what the net says at each position."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from faultlight.errors import InputError
from faultlight.models.subject import Subject
from faultlight.views._layout import layout_of
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
    # Four times the usual rows, for no layer's output is kept.
    groups = _groups(len(x), len(grid.corners), 4 * rows_at_once(x))
    batches = _covered(x.to(subject.device), grid, fill, groups, layout_of(subject))
    answer = collect(subject, batches, y, unit)
    order = torch.cat([_places(images, part, len(grid.corners)) for images, parts in groups for part in parts])
    return Answer(*(values[order.argsort()] for values in (answer.probability, answer.prediction, answer.total)))


def collect(subject: Subject, batches: Batches, y: Int64[Tensor, " n"], unit: Unit | None = None) -> Answer:
    """Return the net's answers to batches of pixels, joined; each comes with the image that a row belongs to."""
    layer, channel = (unit.layer, unit.channel) if unit else (None, y)
    return _joined(
        [_ask(subject, pixels, y[rows], layer, partial(_followed, channel[rows])) for rows, pixels in batches]
    )


def uncovered(x: Float32[Tensor, "n c h w"]) -> Batches:
    """Yield the images themselves, in batches."""
    for rows in torch.split(torch.arange(len(x)), rows_at_once(x)):
        yield rows, x[rows]


def strongest(
    subject: Subject, x: Float32[Tensor, "n c h w"], y: Int64[Tensor, " n"], layer: str
) -> tuple[Answer, Int64[Tensor, " n"]]:
    """Return the net's answers to images and, image by image, the layer's map of greatest total, which it follows."""
    parts, channels = [], []
    for rows, pixels in uncovered(x):
        kept: list[Tensor] = []
        parts.append(_ask(subject, pixels, y[rows], layer, partial(_greatest, kept)))
        channels += kept
    return _joined(parts), torch.cat(channels)


def _greatest(kept: list[Tensor], output: Tensor) -> Tensor:
    total, channel = map_totals(output).max(1)
    kept.append(channel.cpu())
    return total


def _followed(channel: Tensor, output: Tensor) -> Tensor:
    # The one map alone: a sum over all of the layer's would cost as much as the layer.
    rows = torch.arange(len(output), device=output.device)
    return map_totals(output[rows, channel.to(output.device)][:, None])[:, 0]


@torch.no_grad()
def _ask(subject: Subject, x: Tensor, y: Tensor, layer: str | None, measure: Callable[[Tensor], Tensor]) -> Answer:
    """Return probability of the class y, prediction, and the measure of the layer, all from one forward pass."""
    totals: dict[str, Tensor] = {}

    def take(name: str, output: Tensor) -> None:
        if name == layer:
            totals[name] = measure(output)

    place = subject.device
    logits = listen(subject, x.to(place), [module_named(subject, layer)] if layer else [], take)
    probability = logits.softmax(1).gather(1, y.to(place)[:, None])[:, 0]
    total = totals[layer] if layer else torch.full_like(probability, torch.nan)
    return Answer(probability.cpu(), logits.argmax(1).cpu(), total.cpu())


def _joined(answers: list[Answer]) -> Answer:
    fields = zip(*((one.probability, one.prediction, one.total) for one in answers), strict=True)
    return Answer(*(torch.cat(parts) for parts in fields))


# Some images, and the positions at which they are covered, batch by batch.
_Groups = list[tuple[range, list[range]]]


def _groups(images: int, positions: int, most: int) -> _Groups:
    """Return batches of at most `most` rows, as even as they can be: every image of a group at some positions."""
    groups = _even(images, most)
    return [(group, _even(positions, max(1, most // len(group)))) for group in groups]


def _even(count: int, most: int) -> list[range]:
    parts = -(-count // most)
    return [range(first, last) for first, last in pairwise(count * part // parts for part in range(parts + 1))]


def _places(images: range, positions: range, count: int) -> Int64[Tensor, " rows"]:
    """Return where each row of a batch belongs: image · positions in all + position."""
    return (torch.tensor(positions)[:, None] + count * torch.tensor(images)).flatten()


def _covered(x: Tensor, grid: Grid, fill: float, groups: _Groups, layout: torch.memory_format) -> Batches:
    # A sheet holds the images of a group as often as a batch has positions. It is laid out once; from batch to batch
    # only the patches are written, and written back.
    for images, parts in groups:
        clean, rows = x[images.start : images.stop], torch.tensor(images)
        sheet = clean.repeat(len(parts[-1]), 1, 1, 1).contiguous(memory_format=layout)
        for part in parts:
            batch = sheet[: len(part) * len(images)]
            patches = _patches(batch, grid, part)
            for patch in patches:
                patch.fill_(fill)
            version = batch._version
            yield rows.repeat(len(part)), batch
            if batch._version != version:  # the net writes to what it is given
                batch.view(len(part), *clean.shape).copy_(clean)
                continue
            for patch, (top, left) in zip(patches, [grid.corners[i] for i in part], strict=True):
                patch.copy_(clean[:, :, top : top + grid.patch, left : left + grid.patch])


def _patches(batch: Tensor, grid: Grid, part: range) -> list[Tensor]:
    """Return the patch of each position, as a view of its rows of the batch."""
    corners = [grid.corners[position] for position in part]
    return [
        rows[:, :, top : top + grid.patch, left : left + grid.patch]
        for rows, (top, left) in zip(batch.chunk(len(part)), corners, strict=True)
    ]
