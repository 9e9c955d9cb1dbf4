"""Which parts of an image the net's answer rests on: cover them one after the other."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float32
from numpy.typing import NDArray
from torch import Tensor

from faultlight.data.images import Images
from faultlight.errors import InputError
from faultlight.models.subject import Subject
from faultlight.settings import check_settings
from faultlight.views._input import check_finite, check_input, listing, picture
from faultlight.views._layout import in_channels_last
from faultlight.views._result import Panel, Scale, ViewResult, scale_of
from faultlight.views.listening import leaves_of, module_named, outputs, uncalled
from faultlight.views.sliding import Answer, Grid, Unit, collect, slide, strongest, uncovered

MOST_IMAGES = 8
# Images on which a copy in a faster layout must agree with the subject before it is used.
SAMPLE = 8


@dataclass(frozen=True)
class Occlusion:
    """A grey square slid over the image: probability, prediction and a feature map at each position.

    For the position P of the patch and the true class y: p(y | x with x_P = fill), argmax of the same logits, and the
    sum of the feature map's activations over its positions. Every number is the net's own answer at that position,
    never an average over overlapping ones. On a CPU the passes run in channels-last, which sums the float32 numbers
    in another order: logits differ by about 1e-6 of the largest.

    Arrays (n images, a × b positions): `probability`, `prediction` and `activation` (n, a, b);
    `clean_probability`, `clean_prediction`, `clean_activation`, `channel` (n,); `top` (a,) and `left` (b,), the
    patch's first row and column; `x` (n, c, h, w) and `y` (n,). The three of the feature map are left out when the
    net has no layer with maps.

    Args:
        patch: side of the square in pixels; when left out three eighths of the shorter side (12 of 32, 10 of 28).
        stride: pixels between positions; when left out a third of the patch (4 of 12). Where it does not divide
            side − patch, the remaining rows and columns at the bottom and right are never covered; the text says so.
        fill: the pixel value of the patch, in [0, 1].
        layer: the layer of the feature map; when left out the last one with maps of more than one position.
        channel: the feature map's number; when left out, for each image the one whose total activation is the
            greatest on the uncovered image, as in the paper.

    Raises:
        InputError: the patch is larger than the image, a number is out of range, the layer is unknown, the net gives
            NaN, or there are no images.

    Source: Zeiler and Fergus 2014, "Visualizing and understanding convolutional networks", section 4.2 and figure 6
    (b), (d) and (e). Departure: the paper follows a map of its fifth layer; here it is the net's last.
    """

    patch: int | None = None
    stride: int | None = None
    fill: float = 0.5
    layer: str | None = None
    channel: int | None = None

    def __post_init__(self) -> None:
        check_settings(self)

    def __call__(self, subject: Subject, images: Images) -> ViewResult:
        """Return the occlusion maps of images."""
        check_input(subject, images)
        grid = self._grid(*images.x.shape[2:])
        layer = self._layer(subject, images.x[:1])
        quick = in_channels_last(subject, images.x[:SAMPLE].to(subject.device))
        clean, unit = self._clean(quick, images, layer)
        covered = slide(quick, images.x, images.y, grid, self.fill, unit)
        check_finite(covered.probability.view(len(images), -1), images.ids, "class probabilities under the patch")
        arrays = _arrays(images, grid, unit, clean, covered)
        facts = {
            "patch": grid.patch,
            "stride": grid.stride,
            "fill": self.fill,
            "layer": layer,
            "ids": images.ids.tolist(),
        }
        panels = _drawing(images, arrays)
        return ViewResult(
            "occlusion", arrays, _words(images, grid, layer, arrays), panels, 4 if unit else 3, facts=facts
        )

    def _grid(self, height: int, width: int) -> Grid:
        if not (math.isfinite(self.fill) and 0 <= self.fill <= 1):
            raise InputError(f"the fill {self.fill} of the patch is no pixel value; choose one in [0, 1].")
        patch = max(1, 3 * min(height, width) // 8) if self.patch is None else self.patch
        return Grid(height, width, patch, max(1, patch // 3) if self.stride is None else self.stride)

    def _layer(self, subject: Subject, x: Tensor) -> str | None:
        if self.layer is None:
            return last_map_layer(subject, x)
        heard = outputs(subject, x.to(subject.device), [module_named(subject, self.layer)])
        if self.layer not in heard:
            raise uncalled(self.layer, heard)
        maps = heard[self.layer].shape[1]
        if self.channel is not None and not 0 <= self.channel < maps:
            raise InputError(f"the layer {self.layer!r} has no channel {self.channel}; choose one of 0 … {maps - 1}.")
        return self.layer

    def _clean(self, subject: Subject, images: Images, layer: str | None) -> tuple[Answer, Unit | None]:
        """Return the answers for the uncovered images, and the feature map to follow."""
        if layer is None:
            return collect(subject, uncovered(images.x), images.y), None
        if self.channel is None:
            answer, channel = strongest(subject, images.x, images.y, layer)
            return answer, Unit(layer, channel)
        unit = Unit(layer, torch.full((len(images),), self.channel))
        return collect(subject, uncovered(images.x), images.y, unit), unit


def last_map_layer(subject: Subject, x: Float32[Tensor, "n c h w"]) -> str | None:
    """Return the last layer whose output is a stack of maps with more than one position, if there is one."""
    heard = outputs(subject, x.to(subject.device), leaves_of(subject))
    maps = [name for name, output in heard.items() if output.ndim == 4 and output[0, 0].numel() > 1]
    return maps[-1] if maps else None


def _arrays(images: Images, grid: Grid, unit: Unit | None, clean: Answer, covered: Answer) -> dict[str, NDArray[Any]]:
    shape = len(images), len(grid.top), len(grid.left)
    tensors = {
        "probability": covered.probability.view(shape),
        "prediction": covered.prediction.view(shape),
        "clean_probability": clean.probability,
        "clean_prediction": clean.prediction,
        "top": torch.tensor(grid.top),
        "left": torch.tensor(grid.left),
        "x": images.x.cpu(),
        "y": images.y.cpu(),
    }
    if unit is not None:
        tensors |= {"activation": covered.total.view(shape), "clean_activation": clean.total, "channel": unit.channel}
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def _words(images: Images, grid: Grid, layer: str | None, arrays: dict[str, NDArray[Any]]) -> str:
    bottom, right = grid.never_covered
    lines = [
        f"A patch of {grid.patch} × {grid.patch} pixels at {len(grid.top)} × {len(grid.left)} positions, "
        f"{grid.stride} apart."
    ]
    if bottom or right:
        lines.append(f"The last {bottom} rows and {right} columns are never covered.")
    if layer is None:
        lines.append("The net has no layer with maps, so no feature map is followed.")
    lines.append(listing([_line(images, row, layer, arrays) for row in range(len(images))]))
    return "\n".join(lines)


def _line(images: Images, row: int, layer: str | None, arrays: dict[str, NDArray[Any]]) -> str:
    probability, prediction = arrays["probability"][row], arrays["prediction"][row]
    i, j = divmod(int(probability.argmin()), probability.shape[1])
    changed = int((prediction != arrays["clean_prediction"][row]).sum())
    followed = ""
    if layer is not None:
        silent = not (arrays["activation"][row].any() or arrays["clean_activation"][row])
        followed = f"; feature map {layer}[{arrays['channel'][row]}]" + (" is zero everywhere" if silent else "")
    clean, name = arrays["clean_probability"][row], images.classes[int(images.y[row])]
    return (
        f"id {int(images.ids[row])} ({name}): probability {clean:.3f}, "
        f"at its lowest {probability.min():.3f} with the patch at row {arrays['top'][i]}, column {arrays['left'][j]}; "
        f"the prediction changes at {changed} of {prediction.size} positions{followed}"
    )


def _drawing(images: Images, arrays: dict[str, NDArray[Any]]) -> tuple[Panel, ...]:
    shown = min(len(images), MOST_IMAGES)
    classes = Scale("classes", names=images.classes)
    probability = Scale("unsigned", 0.0, float(arrays["probability"][:shown].max()))
    activation = scale_of(arrays["activation"][:shown]) if "activation" in arrays else None
    panels: list[Panel] = []
    for row in range(shown):
        name = images.classes[int(images.y[row])]
        seen = sorted({int(label) for label in arrays["prediction"][row].flat})
        key = ", ".join(
            f"{label} {images.classes[label]}" if f"{label}" != images.classes[label] else f"{label}" for label in seen
        )
        panels += [
            Panel(f"image {int(images.ids[row])}: {name}", picture(images.x[row])),
            Panel(
                f"probability of {name} (uncovered {arrays['clean_probability'][row]:.3f})",
                arrays["probability"][row],
                probability,
            ),
            Panel(f"predicted: {key}", arrays["prediction"][row], classes),
        ]
        if activation is not None:
            title = f"total of feature map {arrays['channel'][row]} (uncovered {arrays['clean_activation'][row]:.4g})"
            panels.append(Panel(title, arrays["activation"][row], activation))
    return tuple(panels)
