"""What drives a feature map: its activation, carried back to the pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor

from faultlight.data.images import Images
from faultlight.errors import InputError
from faultlight.models.subject import Subject
from faultlight.settings import check_settings
from faultlight.views._input import check_finite, check_input, listing, picture
from faultlight.views._project import EVERY, Backward, Others, Units, project, reach
from faultlight.views._rectify import Rule
from faultlight.views._relief import relief
from faultlight.views._result import Panel, ViewResult
from faultlight.views.listening import rows_at_once
from faultlight.views.occlusion import last_map_layer

MOST_IMAGES = 8

Keep = Literal["unit", "channel", "layer"]


@dataclass(frozen=True)
class Projection:
    """An activation of any layer projected down to the pixels: what drives this feature map.

    One activation a is kept and all others are set to zero; going down, a convolution becomes its transpose with the
    same weights and no bias, max-pooling puts each value where the maximum was, and a ReLU with input z does to the
    signal g what the rule says: deconvnet g·1[g > 0], guided g·1[z > 0]·1[g > 0], gradient g·1[z > 0] (this last is
    the activation times its gradient). The result is signed. It says what the feature map answers to in this image,
    never why a class was chosen: deconvnet and guided projections partly copy the image (Nie et al. 2018).

    ReLU is found in any spelling: as a module, function, method, in place, or as a clamp from 0.

    Arrays (n images): `projection` (n, c, h, w), signed, in activation × (activation per pixel); `activation` (n,), the
    greatest one kept; `channel`, `row` and `column` (n,), where it is, −1 where all are kept; `x` (n, c, h, w) and
    `y` (n,). In the drawing the projections
    of one feature map share one scale, uncut; those of different maps, which have no common unit, do not.

    Source: Zeiler and Fergus 2014, "Visualizing and understanding convolutional networks", section 2.1; guided:
    Springenberg et al. 2015, "Striving for simplicity", section 3.4. Departures: where pools overlap, signals are
    added, as the transpose has it; a negative activation counts as silent for deconvnet and guided, as it is above a
    ReLU.

    Args:
        layer: the layer's name; when left out the last one with maps of more than one position.
        channel: the feature map's number; when left out, for each image the one with the greatest activation.
        row: the unit's row in the map; when left out, with `column`, the place of the map's greatest activation.
        column: the unit's column in the map.
        keep: what is kept: one unit, the whole map, or the whole layer.
        rule: what a ReLU does to the signal, "deconvnet", "guided" or "gradient".
        others: bends other than ReLU (GELU, sigmoid, attention) on the way: "refuse" them, or pass their "gradient",
            an extension of the method which the text names.

    Raises:
        InputError: the layer, channel or unit does not exist, the net bends by more than ReLU, an activation is NaN or
            infinite, or there are no images. A projection that is zero everywhere is no error: drawing and text say so.
    """

    layer: str | None = None
    channel: int | None = None
    row: int | None = None
    column: int | None = None
    keep: Keep = "unit"
    rule: Rule = "deconvnet"
    others: Others = "refuse"

    def __post_init__(self) -> None:
        check_settings(self)

    def __call__(self, subject: Subject, images: Images) -> ViewResult:
        """Return the projections of one unit, map or layer for each image."""
        check_input(subject, images)
        self._check()
        layer = self.layer if self.layer is not None else last_map_layer(subject, images.x[:1])
        if layer is None:
            raise InputError(f"the model {subject.name!r} has no layer with maps; name a layer.")
        places = [self._place(subject, part, layer) for part in _batches(images)]
        place = Place(*(torch.cat(parts) for parts in zip(*places, strict=True)))
        units = Units(torch.arange(len(images)), place.channel, place.position)
        projection = project(subject, images, layer, units, Backward(self.rule, self.others))
        tensors = {"projection": projection, "activation": place.activation, "channel": place.channel}
        tensors |= {"row": place.row, "column": place.column, "x": images.x, "y": images.y}
        arrays = {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
        facts: dict[str, Any] = {"layer": layer, "keep": self.keep, "rule": self.rule, "others": self.others}
        facts["ids"] = images.ids.tolist()
        words = _words(images, layer, self, arrays)
        panels = _drawing(images, layer, arrays)
        return ViewResult("projection", arrays, words, panels, 4, facts=facts, caption=_scaled(len(images)))

    def _check(self) -> None:
        if (self.row is None) != (self.column is None):
            raise InputError("a unit needs both a row and a column; give the other one too, or leave both out.")
        if self.keep != "unit" and self.row is not None:
            raise InputError(f"keep={self.keep} keeps more than one unit; leave out row and column.")
        if self.keep == "layer" and self.channel is not None:
            raise InputError("keep=layer keeps every channel; leave out the channel, or choose keep=channel.")

    @torch.no_grad()
    def _place(self, subject: Subject, images: Images, layer: str) -> Place:
        output = reach(subject, images.x.to(subject.device), layer).float().cpu()
        check_finite(output, images.ids, f"activations of the layer {layer!r}")
        maps, image = output.reshape(*output.shape[:2], -1), torch.arange(len(output))
        sides = _sides(output)
        channel = maps.amax(2).argmax(1) if self.channel is None else torch.full_like(image, self._channel(maps, layer))
        own = maps[image, channel]
        position = own.argmax(1) if self.row is None else torch.full_like(image, self._position(sides, layer))
        every, some_map = torch.full_like(image, EVERY), self.keep == "unit"
        return Place(
            own[image, position],
            every if self.keep == "layer" else channel,
            position if some_map else every,
            position // sides[1] if some_map else every,
            position % sides[1] if some_map else every,
        )

    def _channel(self, maps: Tensor, layer: str) -> int:
        if self.channel is None or not 0 <= self.channel < maps.shape[1]:
            raise InputError(
                f"the layer {layer!r} has no channel {self.channel}; choose one of 0 … {maps.shape[1] - 1}."
            )
        return self.channel

    def _position(self, sides: tuple[int, int], layer: str) -> int:
        height, width = sides
        if self.row is None or self.column is None or not (0 <= self.row < height and 0 <= self.column < width):
            raise InputError(
                f"the maps of the layer {layer!r} have no unit at row {self.row}, column {self.column}; choose a row "
                f"of 0 … {height - 1} and a column of 0 … {width - 1}."
            )
        return self.row * width + self.column


class Place(NamedTuple):
    """What is kept of each image, one value an image; EVERY where it is all of them."""

    activation: Tensor
    channel: Tensor
    position: Tensor
    row: Tensor
    column: Tensor


def _batches(images: Images) -> Iterator[Images]:
    for rows in torch.split(torch.arange(len(images)), rows_at_once(images.x)):
        yield images.take(rows)


def _sides(output: Tensor) -> tuple[int, int]:
    """Return rows and columns of a layer's maps; a vector has one of each."""
    width = output.shape[-1] if output.ndim > 2 else 1
    return output[0, 0].numel() // width, width


def _words(images: Images, layer: str, view: Projection, arrays: dict[str, NDArray[Any]]) -> str:
    lines = [caption(view.rule, layer, view.others)]
    zero = int((~arrays["projection"].reshape(len(images), -1).any(1)).sum())
    if zero:
        lines.append(f"The projection is zero everywhere on {zero} of {len(images)} images.")
    lines.append(listing([_line(images, row, layer, arrays) for row in range(len(images))]))
    return "\n".join(lines)


def caption(rule: Rule, layer: str, others: Others) -> str:
    """Return what a projection shows, what it does not, and how far it is the method's own."""
    how = "activation × gradient" if rule == "gradient" else f"rule {rule}"
    extension = "\nBends that are no ReLU pass their gradient, an extension of the method." * (others == "gradient")
    return (
        f"What drives the feature maps of {layer}, projected to the pixels ({how}); not why a class was chosen."
        + extension
    )


def _line(images: Images, row: int, layer: str, arrays: dict[str, NDArray[Any]]) -> str:
    projection = arrays["projection"][row]
    return (
        f"id {int(images.ids[row])} ({images.classes[int(images.y[row])]}): {_unit(layer, row, arrays)}, activation "
        f"{arrays['activation'][row]:.4g}; projection from {projection.min():.4g} to {projection.max():.4g}"
    )


def _unit(layer: str, row: int, arrays: dict[str, NDArray[Any]]) -> str:
    channel, i, j = (int(arrays[name][row]) for name in ("channel", "row", "column"))
    if channel == EVERY:
        return f"all of {layer}"
    return f"{layer}[{channel}]" + ("" if i == EVERY else f" at row {i}, column {j}")


def _scaled(n: int) -> str:
    few = f" {MOST_IMAGES} of {n} images are drawn." if n > MOST_IMAGES else ""
    return f"Projections of one feature map share one scale, uncut; maps that differ have no common unit.{few}"


def _drawing(images: Images, layer: str, arrays: dict[str, NDArray[Any]]) -> tuple[Panel, ...]:
    shown = min(len(images), MOST_IMAGES)
    channel, projection = arrays["channel"][:shown], arrays["projection"][:shown]
    panels: list[Panel] = []
    for row in range(shown):
        name = images.classes[int(images.y[row])]
        # Maps of different channels have no common unit; those of one are compared, so they share a scale.
        largest = float(abs(projection[channel == channel[row]]).max())
        panels += [
            Panel(f"image {int(images.ids[row])}: {name}", picture(images.x[row])),
            relief(f"what drives {_unit(layer, row, arrays)}", projection[row], largest),
        ]
    return tuple(panels)
