"""The strongest images of every channel, kept while a data set goes by once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from faultlight.data.images import Images
from faultlight.models.subject import Subject
from faultlight.views._input import check_finite
from faultlight.views._layout import layout_of
from faultlight.views._project import Reached
from faultlight.views.listening import listen, module_named, rows_at_once, uncalled

# Below so many channels, reading a map in channels-last wastes most of a processor's vectors; 64 numbers side by side
# fill them.
FEW_CHANNELS, VECTORS = 32, 64


class Top(NamedTuple):
    """The k images on which each of c channels was strongest, strongest first, an image at most once a channel.

    Args:
        value: the greatest activation of the map, shape (c, k).
        image: the row of the image among those that went by, shape (c, k).
        position: where in the map, counted row by row, shape (c, k).
        sides: rows and columns of the maps.
    """

    value: Float32[Tensor, "c k"]
    image: Int64[Tensor, "c k"]
    position: Int64[Tensor, "c k"]
    sides: tuple[int, int]


class Heard(NamedTuple):
    """What a batch of b images says in one layer: the greatest of each map, and where, if it may be kept at all."""

    peak: Float32[Tensor, "b c"]
    position: Int64[Tensor, "b c"]
    sides: tuple[int, int]


@torch.no_grad()
def mine(subject: Subject, images: Images, layers: Sequence[str], k: int = 9) -> dict[str, Top]:
    """Return the strongest images of every channel of some layers, from one pass that ends at the last of them.

    Of equal activations the earlier image's counts, so the size of the batches changes nothing. Beside a batch's own
    activations only k numbers a channel are held.

    Args:
        subject: the model.
        images: what goes by.
        layers: names of layers, a later call as "name#2".
        k: how many images a channel keeps; all of them where there are fewer.

    Raises:
        InputError: a layer is unknown or never called, or its activations are NaN or infinite (the images are named).
    """
    modules, top, heard = list(dict.fromkeys(map(partial(module_named, subject), layers))), None, dict[str, Heard]()
    # Twice the rows of a view that also goes backward: only one layer's maps are held at a time.
    most = 2 * rows_at_once(images.x)
    for first in range(0, len(images), most):
        rows = slice(first, first + most)
        # Slices, which copy nothing.
        part = replace(images, x=images.x[rows], y=images.y[rows], ids=images.ids[rows])
        heard = _look(subject, part, modules, layers, k, {} if top is None else _by_layer(top[0][:, -1], heard))
        top = _merged(top or _nothing(heard, min(k, len(images))), heard, first)
    assert top is not None  # there is an image
    value, image, position = (_by_layer(part.cpu(), heard) for part in top)
    return {layer: Top(value[layer], image[layer], position[layer], heard[layer].sides) for layer in layers}


# Value, image and position of what is kept, all layers' channels one below the other: merged in one go.
Kept = tuple[Tensor, Tensor, Tensor]


def _by_layer(joined: Tensor, heard: dict[str, Heard]) -> dict[str, Tensor]:
    widths = [one.peak.shape[1] for one in heard.values()]
    return dict(zip(heard, torch.split(joined, widths), strict=True))


def _nothing(heard: dict[str, Heard], k: int) -> Kept:
    peak = torch.cat([one.peak[0] for one in heard.values()])
    value = torch.full((len(peak), k), -torch.inf, device=peak.device)
    none = torch.full_like(value, -1, dtype=torch.int64)
    return value, none, none


def _look(
    subject: Subject, images: Images, modules: Sequence[str], layers: Sequence[str], k: int, least: dict[str, Tensor]
) -> dict[str, Heard]:
    """Let one batch go by; where a map does not exceed the least value kept of its channel, no place is sought."""
    heard: dict[str, Heard] = {}
    calls: list[str] = []

    def take(name: str, output: Tensor) -> None:
        calls.append(name)
        if name not in layers or name in heard or output.ndim < 2 or len(output) != len(images):
            return
        heard[name] = _peaks_and_places(output, least.get(name), k)
        if len(heard) == len(set(layers)):
            raise Reached

    with suppress(Reached):
        listen(subject, images.x.to(subject.device).contiguous(memory_format=layout_of(subject)), modules, take)
    for layer in layers:
        if layer not in heard:
            raise uncalled(layer, calls)
    for layer, one in heard.items():
        if not torch.isfinite(one.peak.sum()):
            check_finite(one.peak, images.ids, f"activations of the layer {layer!r}")
    return heard


def _peaks_and_places(output: Tensor, least: Tensor | None, k: int) -> Heard:
    peak = peaks(output).float()
    # Of the first batch, of which all could be kept, only its k strongest and their equals will be.
    candidates = peak >= peak.topk(min(k, len(peak)), dim=0).values[-1] if least is None else peak > least
    row, channel = candidates.nonzero(as_tuple=True)
    position = torch.zeros_like(peak, dtype=torch.int64)
    if len(row):
        position[row, channel] = output[row, channel].reshape(len(row), -1).argmax(1)
    width = output.shape[-1] if output.ndim > 2 else 1
    return Heard(peak, position, (output[0, 0].numel() // width, width))


def _merged(kept: Kept, heard: dict[str, Heard], first: int) -> Kept:
    """Return the strongest of what was kept and of a batch, whose first image is the `first` that went by."""
    value, image, position = kept
    peak = torch.cat([one.peak for one in heard.values()], 1)
    better = (peak.amax(0) > value[:, -1]).nonzero()[:, 0]
    if not len(better):
        return kept
    k, places = value.shape[1], torch.cat([one.position for one in heard.values()], 1)
    # A stable sort: of equal values those kept come first, then the batch's in its order.
    best, order = torch.cat([value[better], peak[:, better].T], 1).sort(dim=1, descending=True, stable=True)
    rows = torch.arange(first, first + len(peak), device=peak.device).expand(len(better), -1)
    images = torch.cat([image[better], rows], 1).gather(1, order[:, :k])
    where = torch.cat([position[better], places[:, better].T], 1).gather(1, order[:, :k])
    fresh = zip(kept, (best[:, :k], images, where), strict=True)
    value, image, position = (old.index_copy(0, better, new) for old, new in fresh)
    return value, image, position


def peaks(output: Float32[Tensor, "n c *hw"]) -> Float32[Tensor, "n c"]:
    """Return the greatest activation of each map, read in the order in which it lies in memory."""
    if output.ndim == 2:
        return output
    few = output.ndim == 4 and output.shape[1] < FEW_CHANNELS and not output.is_contiguous()
    if not few:
        return output.amax(tuple(range(2, output.ndim)))
    # In channels-last few channels would be read a few numbers at a time: neighbouring places are laid side by side, as
    # if they were channels, and compared with each other at the end.
    places = output.permute(0, 2, 3, 1).flatten(1, 2)
    count, together = places.shape[1], 1
    while together * places.shape[2] < VECTORS and count % (2 * together) == 0:
        together *= 2
    side_by_side = places.reshape(len(output), count // together, -1).amax(1)
    return side_by_side.reshape(len(output), together, -1).amax(1)
