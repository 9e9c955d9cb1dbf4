"""The strongest images of every channel, kept while a data set goes by once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from faultlight.data.images import Images
from faultlight.errors import InputError
from faultlight.models.subject import Subject
from faultlight.views._input import check_finite
from faultlight.views._layout import layout_of
from faultlight.views._project import Reached
from faultlight.views.listening import listen, module_named, rows_at_once

# Below this, reading a map in channels-last channel by channel wastes most of a processor's vector.
FEW_CHANNELS = 32


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
    modules, tops = list(dict.fromkeys(module_named(subject, layer) for layer in layers)), dict[str, Top]()
    for rows in torch.split(torch.arange(len(images)), rows_at_once(images.x)):
        _look(subject, images.take(rows), int(rows[0]), modules, layers, tops, min(k, len(images)))
    return {layer: _on_cpu(tops[layer]) for layer in layers}


def _on_cpu(top: Top) -> Top:
    return Top(top.value.cpu(), top.image.cpu(), top.position.cpu(), top.sides)


def _look(
    subject: Subject,
    images: Images,
    first: int,
    modules: Sequence[str],
    layers: Sequence[str],
    tops: dict[str, Top],
    k: int,
) -> None:
    """Let one batch go by."""
    silent = set(layers)

    def take(name: str, output: Tensor) -> None:
        if name not in silent or output.ndim < 2 or len(output) != len(images):
            return
        tops[name] = _merged(tops.get(name) or _empty(output, k), output, name, first, images.ids)
        silent.discard(name)
        if not silent:
            raise Reached

    with suppress(Reached):
        listen(subject, images.x.to(subject.device).contiguous(memory_format=layout_of(subject)), modules, take)
    if silent:
        raise InputError(f"the forward pass never calls the layer {min(silent)!r} for a tensor with one row an image.")


def _empty(output: Tensor, k: int) -> Top:
    channels, width = output.shape[1], output.shape[-1] if output.ndim > 2 else 1
    value = output.new_full((channels, k), -torch.inf, dtype=torch.float32)
    none = torch.full_like(value, -1, dtype=torch.int64)
    return Top(value, none, none.clone(), (output[0, 0].numel() // width, width))


def _merged(top: Top, output: Tensor, layer: str, first: int, ids: Tensor) -> Top:
    """Return the strongest of what was kept and of a batch, whose first image is the `first` that went by."""
    peak = peaks(output).float()
    best = peak.amax(0)
    if not torch.isfinite(best).all():
        check_finite(peak, ids, f"activations of the layer {layer!r}")
    better = (best > top.value[:, -1]).nonzero()[:, 0]
    if not len(better):
        return top
    k = top.value.shape[1]
    # A stable sort: of equal values those kept come first, then the batch's in its order.
    value, order = torch.cat([top.value[better], peak[:, better].T], 1).sort(dim=1, descending=True, stable=True)
    own, old = order[:, :k] - k, order[:, :k].clamp(max=k - 1)
    image, position = first + own, top.position[better].gather(1, old)
    image = torch.where(own < 0, top.image[better].gather(1, old), image)
    channel, place = (own >= 0).nonzero(as_tuple=True)
    position[channel, place] = output[own[channel, place], better[channel]].reshape(len(channel), -1).argmax(1)
    return Top(
        top.value.index_copy(0, better, value[:, :k]),
        top.image.index_copy(0, better, image),
        top.position.index_copy(0, better, position),
        top.sides,
    )


def peaks(output: Float32[Tensor, "n c *hw"]) -> Float32[Tensor, "n c"]:
    """Return the greatest activation of each map, read in the order in which it lies in memory."""
    if output.ndim == 2:
        return output
    few = output.ndim == 4 and output.shape[1] < FEW_CHANNELS and not output.is_contiguous()
    if not few:
        return output.amax(tuple(range(2, output.ndim)))
    # In channels-last few channels would be read a few numbers at a time: whole lines of the map are compared instead.
    lines = output.permute(0, 2, 3, 1)
    return lines.flatten(2).amax(1).view(len(lines), *lines.shape[2:]).amax(1)
