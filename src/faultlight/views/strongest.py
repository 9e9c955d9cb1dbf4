"""What each feature map has learnt to see: the images that excite it most, and what in them does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from numpy.typing import NDArray
from torch import Tensor

from faultlight.data.images import Images
from faultlight.errors import InputError
from faultlight.models.subject import Subject
from faultlight.settings import check_settings
from faultlight.views._field import receptive_field
from faultlight.views._input import check_input, listing
from faultlight.views._layout import in_channels_last
from faultlight.views._mine import Top, mine
from faultlight.views._project import Backward, Others, Units, project
from faultlight.views._rectify import Rule
from faultlight.views._relief import relief, sheet
from faultlight.views._result import BLANK, Panel, ViewResult
from faultlight.views._windows import project_units
from faultlight.views.moved import watched_layers
from faultlight.views.projection import caption

# Channels of a drawing: of the one layer that was asked for, or of each of many, a row of the drawing.
DRAWN_OF_ONE, DRAWN_OF_EACH = 12, 3
MOST_LAYERS = 24
# The share of the magnitudes that the colours tell apart.
COLOURED = 0.99
SCALED = "In the drawing, a channel's colours end at the 99 % quantile of its projections' magnitudes."
# Between the image parts, which may be black or white at their edges.
FRAME = (0.55, 0.61, 0.7)
CAPTION = (
    "Left, the projections, strongest first, row by row; those of a channel share one scale, which is cut at the 99 % "
    "quantile of their magnitudes, and channels are not compared. Right, what the unit saw of the image, 0 black and 1 "
    "white."
)
# Two gibibytes of float32.
MOST_NUMBERS = 2**29


@dataclass(frozen=True)
class Strongest:
    """The nine images on which a feature map is strongest, with its projection on each: figure 2 of the paper.

    One pass over the images keeps, for every channel of the layer, the greatest activations with image and place, an
    image at most once a channel. The activation at that place is then projected to the pixels as `projection` does, and
    shown beside the receptive field, the part of the image that the unit can see. What drives the feature map is seen,
    not why a class was chosen.

    Arrays, with the layer's name before each (c channels, k = `top` images, strongest first): `value`, `image` (ids),
    `row` and `column` (c, k); for the p projected channels `channel` (p,), `projection` (p, k, channels, h, w), and
    `window_row` and `window_column` (p, k), where the window of `window_size` (2,) pixels that is drawn begins. The
    channels projected are evenly spaced among those that are ever active, not picked by their looks. In the drawing a
    channel's projections share one scale, whose ends are the 99 % quantile of their magnitudes other than zero.

    Source: Zeiler and Fergus 2014, "Visualizing and understanding convolutional networks", section 4 and figure 2.
    Departure: at the border, the window is moved inside the image.

    Args:
        layer: the layer's name; when left out every activation function with maps, and every convolution that none
            follows (where one does, it is shown by that alone).
        channel: project this feature map alone.
        most: how many channels of a layer are projected; none stands for all of them.
        top: how many images a channel keeps.
        rule: what a ReLU does to the signal, "deconvnet", "guided" or "gradient".
        others: bends other than ReLU on the way: "refuse" them, or pass their "gradient".

    Raises:
        InputError: the layer or channel does not exist, the net bends by more than ReLU, an activation is NaN or
            infinite, there are no images, or the projections would exceed two gibibytes.
    """

    layer: str | None = None
    channel: int | None = None
    most: int | None = 16
    top: int = 9
    rule: Rule = "deconvnet"
    others: Others = "refuse"

    def __post_init__(self) -> None:
        check_settings(self)

    def __call__(self, subject: Subject, images: Images) -> ViewResult:
        """Return the strongest images of each channel and the projections on them."""
        check_input(subject, images)
        if self.top < 1 or (self.most is not None and self.most < 1):
            raise InputError(f"top {self.top} and most {self.most} must be at least 1.")
        layers = self._layers(subject, images)
        subject, backward = in_channels_last(subject, images.x[:4]), Backward(self.rule, self.others)
        nothing = torch.zeros(1, dtype=torch.int64)
        for layer in layers:  # What would be refused at the end is refused at once.
            project(subject, images.first(1), layer, Units(nothing, nothing, nothing), backward)
        tops = mine(subject, images, layers, self.top)
        channels = {layer: self._channels(layer, tops[layer]) for layer in layers}
        _check_size(images, channels, self.top)
        found = {layer: _seen(subject, images, layer, tops[layer], channels[layer], backward) for layer in layers}
        arrays = {f"{layer}.{name}": values for layer, own in found.items() for name, values in own.items()}
        facts = {"layers": layers, "rule": self.rule, "others": self.others, "top": self.top, "images": len(images)}
        words = "\n".join([caption(self.rule, "each layer", self.others), SCALED, listing(_lines(images, tops, found))])
        panels, across = _drawing(images, tops, found)
        return ViewResult("strongest", arrays, words, panels, 2 * across, 1.9, facts, caption=CAPTION)

    def _layers(self, subject: Subject, images: Images) -> list[str]:
        layers = watched_layers(subject, images.x[:1]) if self.layer is None else [self.layer]
        if not layers:
            raise InputError(f"the model {subject.name!r} has no layer with maps; name a layer.")
        return layers

    def _channels(self, layer: str, top: Top) -> Int64[Tensor, " p"]:
        if self.channel is not None:
            if not 0 <= self.channel < len(top.value):
                raise InputError(
                    f"the layer {layer!r} has no channel {self.channel}; choose one of 0 … {len(top.value) - 1}."
                )
            return torch.tensor([self.channel])
        active = (top.value[:, 0] > 0).nonzero()[:, 0]
        count = len(active) if self.most is None else min(self.most, len(active))
        return active[(torch.arange(count) * len(active)) // max(count, 1)]


def units_of(top: Top, channels: Int64[Tensor, " p"]) -> Units:
    """Return the units of some channels' strongest images, channel by channel."""
    image = top.image[channels]
    return Units(image.flatten(), channels[:, None].expand_as(image).flatten(), top.position[channels].flatten())


def _seen(
    subject: Subject, images: Images, layer: str, top: Top, channels: Int64[Tensor, " p"], backward: Backward
) -> dict[str, NDArray[Any]]:
    rows, columns = fields = receptive_field(subject, images.shape, layer)
    row, column = top.position // top.sides[1], top.position % top.sides[1]
    projection = project_units(subject, images, layer, units_of(top, channels), fields, backward)
    tensors = {
        "value": top.value,
        "image": images.ids.cpu()[top.image],
        "row": row,
        "column": column,
        "channel": channels,
        "projection": projection.view(*top.image[channels].shape, *images.shape),
        "window_row": rows.windows(row[channels], images.shape[1]),
        "window_column": columns.windows(column[channels], images.shape[2]),
        "window_size": torch.tensor([rows.size, columns.size]),
    }
    return {name: values.numpy() for name, values in tensors.items()}


def _check_size(images: Images, channels: dict[str, Tensor], top: int) -> None:
    numbers = sum(map(len, channels.values())) * top * images.x[0].numel()
    if numbers > MOST_NUMBERS:
        raise InputError(
            f"the projections of {sum(map(len, channels.values())):,} channels on {top} images each hold {numbers:,} "
            f"numbers, more than the {MOST_NUMBERS:,} kept at once; name one layer, or choose fewer with most=16."
        )


def _lines(images: Images, tops: dict[str, Top], found: dict[str, dict[str, NDArray[Any]]]) -> list[str]:
    lines = []
    for layer, own in found.items():
        silent, (height, width) = int((tops[layer].value[:, 0] <= 0).sum()), own["window_size"]
        part = f", {silent} of them active on none of {len(images):,} images" if silent else ""
        zero = int((~own["projection"].any((2, 3, 4))).sum())
        blank = f"; {zero} projections are zero everywhere" if zero else ""
        lines.append(f"{layer}: {len(own['value'])} channels{part}; a unit sees {height} × {width} pixels{blank}")
    if len(found) == 1:
        ((layer, own),) = found.items()
        lines += [_channel_line(images, layer, int(channel), tops[layer]) for channel in own["channel"]]
    return lines


def _channel_line(images: Images, layer: str, channel: int, top: Top) -> str:
    labels = Counter(images.classes[label] for label in images.y[top.image[channel]].tolist())
    shown = ", ".join(f"{name} ({count})" for name, count in labels.most_common(3))
    value, ids = top.value[channel], images.ids[top.image[channel]].tolist()
    return f"{layer}[{channel}]: {value[0]:.4g} … {value[-1]:.4g} on ids {', '.join(map(str, ids))}; mostly {shown}"


def _drawing(
    images: Images, tops: dict[str, Top], found: dict[str, dict[str, NDArray[Any]]]
) -> tuple[tuple[Panel, ...], int]:
    """Return the panels, and how many channels stand in a row."""
    most = DRAWN_OF_ONE if len(found) == 1 else DRAWN_OF_EACH
    panels: list[Panel] = []
    across = DRAWN_OF_EACH
    for layer, own in list(found.items())[:MOST_LAYERS]:
        rows = _spaced(len(own["channel"]), most)
        panels += [panel for row in rows for panel in _pair(images, layer, tops[layer], own, row)]
        if len(found) == 1:
            across = _across(len(rows))
        else:  # The next layer begins a row.
            panels += [BLANK, BLANK] * (-len(rows) % across)
    return tuple(panels), across


def _across(channels: int) -> int:
    """Return how many channels a row holds, so that few places stay empty: 4 stand two by two."""
    return min((3, 2), key=lambda across: -channels % across)


def _spaced(count: int, most: int) -> Sequence[int]:
    return [index * count // min(count, most) for index in range(min(count, most))]


def _pair(images: Images, layer: str, top: Top, own: dict[str, NDArray[Any]], row: int) -> tuple[Panel, Panel]:
    """Return a channel's projections, three by three, and beside them what the units saw."""
    channel, projection = int(own["channel"][row]), own["projection"][row]
    size = own["window_size"].tolist()
    places = list(zip(own["window_row"][row].tolist(), own["window_column"][row].tolist(), strict=True))
    pixels = images.x[top.image[channel]].cpu().numpy()
    seen, shown = (sheet(_windows(each, places, size), 3) for each in (pixels, projection))
    value, magnitude = top.value[channel], np.abs(projection[projection != 0])
    # A few pixels hold many times what the others do; scaled to them, the rest would be grey.
    largest = float(np.quantile(magnitude, COLOURED)) if magnitude.size else 0.0
    return relief(f"{layer}[{channel}], cut at 99 %", shown, largest), Panel(_range(value), _framed(seen))


def _range(value: Tensor) -> str:
    if len(value) == 1:
        return f"what it saw; activation {value[0]:.3g}"
    rank = {2: "2nd", 3: "3rd"}.get(len(value), f"{len(value)}th")
    return f"what it saw; activations {value[0]:.3g} (strongest) to {value[-1]:.3g} ({rank})"


def _framed(seen: NDArray[Any]) -> NDArray[Any]:
    """Return image parts (c, p, q) as a picture (p, q, 3), the lines between them of a colour of their own."""
    colours = seen if len(seen) == 3 else np.broadcast_to(seen.mean(0), (3, *seen.shape[1:]))
    return np.where(np.isnan(colours), np.reshape(FRAME, (3, 1, 1)), colours).transpose(1, 2, 0)


def _windows(pictures: NDArray[Any], places: list[tuple[int, int]], size: list[int]) -> NDArray[Any]:
    height, width = size
    parts = zip(pictures, places, strict=True)
    return np.stack([picture[:, top : top + height, left : left + width] for picture, (top, left) in parts])
