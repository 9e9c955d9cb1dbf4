"""Activations of a layer carried back to the pixels, many at a time, and nothing computed beyond the layer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from faultlight.data.images import Images
from faultlight.errors import InputError
from faultlight.models.subject import Subject
from faultlight.views._input import check_finite
from faultlight.views._layout import layout_of
from faultlight.views._rectify import Rectifying, Rule, opaque
from faultlight.views.listening import listen, module_named, rows_at_once, uncalled

Others = Literal["refuse", "gradient"]

# How many signals go back through one forward pass of an image before it is made again: its share of the cost is then
# a fifth of a pass, and images that are asked for more often would leave batches half empty.
SIGNALS_A_FORWARD = 5
# The whole map instead of one position, the whole layer instead of one channel.
EVERY = -1


@dataclass(frozen=True)
class Units:
    """What is kept of a layer's output, row by row; the rest is set to zero.

    Args:
        image: the row of the pixels that each is seen on, shape (r,).
        channel: its channel (axis 1 of the output), or EVERY for all of them, shape (r,).
        position: its place within the map, counted row by row, or EVERY for the whole map, shape (r,).
    """

    image: Int64[Tensor, " r"]
    channel: Int64[Tensor, " r"]
    position: Int64[Tensor, " r"]

    def __len__(self) -> int:
        return len(self.image)

    def take(self, rows: Int64[Tensor, " k"]) -> Units:
        """Return some of the rows."""
        return Units(self.image[rows], self.channel[rows], self.position[rows])


@dataclass(frozen=True)
class Backward:
    """How the signal goes back.

    Args:
        rule: what a ReLU does to the signal.
        others: whether bends other than ReLU are refused or pass their gradient.
    """

    rule: Rule = "deconvnet"
    others: Others = "refuse"


class Reached(BaseException):
    """The layer has put out what was asked for. No Exception, so that no net's own handler can take it."""


def reach(subject: Subject, x: Tensor, layer: str) -> Tensor:
    """Return the output of a layer, which goes by the name of its call ("relu#2"), computing nothing beyond it.

    Raises:
        InputError: there is no such layer, or the pass does not call it for a tensor with one row an image.
    """
    heard: list[Tensor] = []
    calls: list[str] = []

    def take(name: str, output: Tensor) -> None:
        calls.append(name)
        if name == layer and output.ndim > 1 and len(output) == len(x):
            heard.append(output)
            raise Reached

    try:
        listen(subject, x, [module_named(subject, layer)], take)
    except Reached:
        return heard[0]
    raise uncalled(layer, calls)


def project(
    subject: Subject, images: Images, layer: str, units: Units, backward: Backward | None = None
) -> Float32[Tensor, "r c h w"]:
    """Return the projection of each unit onto the pixels of its image.

    Each batch of images is carried forward once and, with a seed that holds one unit an image, backward as often as the
    images have units: an image that several channels share costs one forward pass.

    Args:
        subject: the model.
        images: the images that the units are seen on.
        layer: the layer's name, a later call as "name#2".
        units: what is kept, r rows.
        backward: how the signal goes back.

    Raises:
        InputError: the layer is unknown, the net bends by more than ReLU where that is refused, or an activation or a
            projection is not finite.
    """
    chosen = backward or Backward()
    _check_open(subject, chosen)
    projections = torch.empty(len(units), *images.shape)
    for rows in packs(units.image.tolist(), rows_at_once(images.x, share=2)):
        signals = _carried(
            subject, images.take(units.image[rows[0]]), layer, [units.take(wave) for wave in rows], chosen
        )
        for wave, signal in zip(rows, signals, strict=True):
            projections[wave] = signal.cpu()
    if len(units):
        check_finite(projections, images.ids[units.image], f"projections of the layer {layer!r}")
    return projections


def packs(image: Sequence[int], most: int) -> Iterator[Int64[Tensor, "signals images"]]:
    """Yield the numbers of the rows, batch by batch: an image a column, its rows one below the other.

    Args:
        image: the image of each row.
        most: images in a batch.
    """
    rows: dict[int, list[int]] = defaultdict(list)
    for row, number in enumerate(image):
        rows[number].append(row)
    columns = [own[i : i + SIGNALS_A_FORWARD] for own in rows.values() for i in range(0, len(own), SIGNALS_A_FORWARD)]
    for depth in range(1, SIGNALS_A_FORWARD + 1):
        alike = [column for column in columns if len(column) == depth]
        for start in range(0, len(alike), most):
            yield torch.tensor(alike[start : start + most]).T


@torch.enable_grad()
def _carried(subject: Subject, images: Images, layer: str, units: Sequence[Units], backward: Backward) -> list[Tensor]:
    """Return the projections of some units of every image, one unit an image at a time."""
    leaf = images.x.detach().to(subject.device, memory_format=layout_of(subject)).requires_grad_()
    # Not the leaf itself: a net may write over what it is given.
    x = leaf.clone()
    with Rectifying(backward.rule, x) as mode:
        output = reach(subject, x, layer)
    if not output.requires_grad:
        return [torch.zeros_like(leaf) for _ in units]
    if backward.rule != "gradient" and backward.others == "refuse":
        _check_bends(subject, layer, mode.bends(output))
    seeds = (_seed(output.detach(), images.ids, part, layer, backward.rule) for part in units)
    return [
        torch.autograd.grad(output, leaf, seed, retain_graph=wave + 1 < len(units), materialize_grads=True)[0]
        for wave, seed in enumerate(seeds)
    ]


def _seed(output: Tensor, ids: Tensor, units: Units, layer: str, rule: Rule) -> Tensor:
    """Return the output with all but one unit an image set to zero."""
    maps = output.reshape(*output.shape[:2], -1)
    seed = torch.zeros_like(maps)
    row, channel, position = torch.arange(len(maps)), units.channel, units.position
    whole, unit = channel == EVERY, (channel != EVERY) & (position != EVERY)
    one_map = ~whole & ~unit
    for some, place in ((whole, (row,)), (one_map, (row, channel)), (unit, (row, channel, position))):
        if some.any():
            at = tuple(index[some].to(maps.device) for index in place)
            check_finite(maps[at], ids[some], f"activations of the layer {layer!r}")
            # A negative activation is silent above a ReLU, and so is its signal.
            seed[at] = maps[at] if rule == "gradient" else maps[at].relu()
    return seed.view(output.shape)


def _check_open(subject: Subject, backward: Backward) -> None:
    closed = opaque(subject.module) if backward.rule != "gradient" else []
    if closed:
        raise InputError(
            f"the model {subject.name!r} is {closed[0]}, so its ReLUs cannot be given the rule {backward.rule!r}; hand "
            "over the plain module, or choose the rule 'gradient'."
        )


def _check_bends(subject: Subject, layer: str, bends: list[str]) -> None:
    if bends:
        raise InputError(
            f"the layer {layer!r} of {subject.name!r} is reached through bends that are no ReLU ({', '.join(bends)}), "
            "for which the projection has no rule; choose an earlier layer or the rule 'gradient', or pass their "
            "gradient as an extension of the method with others=gradient."
        )
