"""How much the features and the answer change when the image is moved."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from numpy.typing import NDArray
from torch import Tensor

from faultlight.data.images import Images
from faultlight.errors import InputError
from faultlight.models.subject import Subject
from faultlight.settings import check_settings
from faultlight.views._chart import Chart, Curve, ends_of
from faultlight.views._input import check_finite, check_input, picture
from faultlight.views._result import Panel, ViewResult
from faultlight.views._warp import enlarged, shifted, turned
from faultlight.views.listening import leaves_of, listen, module_named, outputs, rows_at_once, uncalled

# Curves drawn of each chart, and examples of each motion.
MOST_IMAGES, EXAMPLES = 5, 5
MEASURES = ("first", "last", "probability")


@dataclass(frozen=True)
class Motion:
    """One way to move images: its name, the unit of its amounts, the amounts, and the function."""

    name: str
    unit: str
    amounts: NDArray[Any]
    move: Callable[[Tensor, Any, float], Tensor]


@dataclass(frozen=True)
class Invariance:
    """How far features move, and what becomes of the true class, when an image is shifted, enlarged or turned.

    d(T) = ‖f(x) − f(Tx)‖₂ for the features f of a first and of a last layer, and p(y | Tx), for every amount of each
    motion T. Shifts are by whole pixels; the others are sampled bilinearly about the middle of the image. At no shift,
    at a scale of 1 and after a whole turn Tx is x to the bit, so the distance is 0.

    Arrays: `translation`, `scale` and `rotation` (k,), the amounts: pixels downwards, the factor, degrees
    counter-clockwise; for each motion `…_first`, `…_last` and `…_probability` (n, k); `first_norm` and `last_norm`
    (n,), ‖f(x)‖₂ of the image where it is; `x` (n, c, h, w) and `y` (n,). In the drawing the charts of a column share
    one scale.

    Args:
        first: a layer near the pixels; the first one with weights when left out.
        last: a layer near the answer; the one before the logits when left out.
        shift: the largest shift up and down, in pixels; a quarter of the height when left out.
        zoom: the largest factor, above 1.
        turn: the largest angle, in degrees.
        steps: amounts of scale and of rotation, at least 2.
        fill: the pixel value of what comes in at the edges, in [0, 1].

    Raises:
        InputError: a layer is unknown or never called, a number is out of range, the net gives NaN, or there are no
            images.

    Source: Zeiler and Fergus 2014, "Visualizing and understanding convolutional networks", section 4.1 and figure 5.
    Departures: the paper's last layer is its seventh of eight, here it is the last but one of any net; its shifts are
    60 of 224 pixels, here a quarter of the height.
    """

    first: str | None = None
    last: str | None = None
    shift: int | None = None
    zoom: float = 1.8
    turn: float = 360.0
    steps: int = 25
    fill: float = 0.0

    def __post_init__(self) -> None:
        check_settings(self)

    def __call__(self, subject: Subject, images: Images) -> ViewResult:
        """Return the curves of images."""
        check_input(subject, images)
        motions = self._motions(images.x.shape[2])
        first, last = self._layers(subject, images.x[:1])
        base = _seen(subject, images, images.x, first, last)
        arrays: dict[str, NDArray[Any]] = {"first_norm": _norm(base[0]), "last_norm": _norm(base[1])}
        for motion in motions:
            arrays[motion.name] = motion.amounts
            curves = [_moved(subject, images, motion, a, self.fill, base, first, last) for a in motion.amounts]
            for measure, values in zip(MEASURES, zip(*curves, strict=True), strict=True):
                arrays[f"{motion.name}_{measure}"] = np.stack(values, 1)
        arrays |= {"x": images.x.cpu().numpy(), "y": images.y.cpu().numpy()}
        facts = {"first": first, "last": last, "fill": self.fill, "ids": images.ids.tolist()}
        panels = _drawing(images, motions, arrays, self.fill, first, last)
        return ViewResult("invariance", arrays, _words(images, motions, arrays, first, last), panels, 4, 2.2, facts)

    def _motions(self, height: int) -> list[Motion]:
        shift = max(1, height // 4) if self.shift is None else self.shift
        if not 1 <= shift < height:
            raise InputError(f"the shift {shift} must be at least 1 pixel and less than the height of {height}.")
        if self.steps < 2 or not self.zoom > 1 or not self.turn > 0:
            raise InputError(
                f"the curves need steps ≥ 2, zoom > 1 and turn > 0, not {self.steps}, {self.zoom} and {self.turn}."
            )
        if not (math.isfinite(self.fill) and 0 <= self.fill <= 1):
            raise InputError(f"the fill {self.fill} is no pixel value; choose one in [0, 1].")
        return [
            Motion("translation", "pixels down", np.arange(-shift, shift + 1), shifted),
            Motion("scale", "times", np.linspace(1, self.zoom, self.steps), enlarged),
            Motion("rotation", "degrees", np.linspace(0, self.turn, self.steps), turned),
        ]

    def _layers(self, subject: Subject, x: Tensor) -> tuple[str, str]:
        named = [module_named(subject, layer) for layer in (self.first, self.last) if layer is not None]
        heard = list(outputs(subject, x.to(subject.device), {*leaves_of(subject), *named}))
        for layer in (self.first, self.last):
            if layer is not None and layer not in heard:
                raise uncalled(layer, heard)
        leaves = [name for name in heard if name.partition("#")[0] in leaves_of(subject)]
        if not leaves:
            raise InputError(
                f"the model {subject.name!r} calls no layer as a module, so there are no features to follow."
            )
        weighed = [
            name for name in leaves if any(True for _ in leaves_of(subject)[name.partition("#")[0]].parameters())
        ]
        return self.first or [*weighed, *leaves][0], self.last or leaves[-2:][0]


# The features of the first and of the last layer, and the true class's probability, one row an image.
_Seen = tuple[Tensor, Tensor, Tensor]


@torch.no_grad()
def _seen(subject: Subject, images: Images, x: Tensor, first: str, last: str) -> _Seen:
    parts = []
    for rows in torch.split(torch.arange(len(x)), rows_at_once(x, share=4)):
        heard: dict[str, Tensor] = {}
        keep = partial(_keep, heard, {first, last})
        modules = {module_named(subject, layer) for layer in (first, last)}
        logits = listen(subject, x[rows].to(subject.device), modules, keep)
        probability = logits.softmax(1).gather(1, images.y[rows].to(logits.device)[:, None])
        parts.append((heard[first], heard[last], probability.cpu()))
    features, deep, probability = (torch.cat(part) for part in zip(*parts, strict=True))
    for name, values in ((first, features), (last, deep)):
        check_finite(values, images.ids, f"activations of the layer {name!r}")
    check_finite(probability, images.ids, "class probabilities")
    return features, deep, probability[:, 0]


def _keep(heard: dict[str, Tensor], wanted: set[str], name: str, output: Tensor) -> None:
    if name in wanted:
        heard[name] = output.detach().float().flatten(1).cpu().clone()


def _moved(
    subject: Subject, images: Images, motion: Motion, amount: Any, fill: float, base: _Seen, first: str, last: str
) -> list[NDArray[Any]]:
    """Return both distances and the probability for one amount of a motion, one value an image each."""
    near, deep, probability = _seen(subject, images, motion.move(images.x, amount.item(), fill), first, last)
    return [_norm(near - base[0]), _norm(deep - base[1]), probability.numpy()]


def _norm(features: Float32[Tensor, "n f"]) -> NDArray[Any]:
    norms: NDArray[Any] = features.double().norm(dim=1).float().numpy()
    return norms


def _words(images: Images, motions: list[Motion], arrays: dict[str, NDArray[Any]], first: str, last: str) -> str:
    lines = [f"{len(images)} images moved; features of {first!r} and of {last!r}. Medians over the images:"]
    for motion in motions:
        name, low, high = motion.name, motion.amounts[0], motion.amounts[-1]
        far = [
            np.median(arrays[f"{name}_{part}"].max(1) / np.maximum(arrays[f"{part}_norm"], 1e-30))
            for part in ("first", "last")
        ]
        lowest = np.median(arrays[f"{name}_probability"].min(1))
        lines.append(
            f"{name}, {low:g} to {high:g} {motion.unit}: farthest {far[0]:.2f} and {far[1]:.2f} of the features' own "
            f"length; the true class's probability at its lowest {lowest:.3f}"
        )
    for part, layer in (("first", first), ("last", last)):
        if not arrays[f"{part}_norm"].any():
            lines.append(f"The features of {layer!r} are all zero on these images.")
    return "\n".join(lines)


def _drawing(
    images: Images, motions: list[Motion], arrays: dict[str, NDArray[Any]], fill: float, first: str, last: str
) -> tuple[Panel | Chart, ...]:
    shown = images.first(MOST_IMAGES)
    titles = {"first": f"distance in {first}", "last": f"distance in {last}", "probability": "p of the true class"}
    panels: list[Panel | Chart] = []
    for motion in motions:
        panels.append(Panel(f"{motion.name} of image {int(shown.ids[0])}", _examples(shown.x[:1], motion, fill)))
        for measure, title in titles.items():
            every = [arrays[f"{each.name}_{measure}"][: len(shown)] for each in motions]
            ends = (0.0, 1.0) if measure == "probability" else ends_of(*every)
            own = arrays[f"{motion.name}_{measure}"]
            curves = tuple(Curve(_label(shown, row), own[row]) for row in range(len(shown)))
            panels.append(Chart(f"{title}; {motion.unit}", motion.amounts, curves, *ends))
    return tuple(panels)


def _label(images: Images, row: int) -> str:
    return f"{int(images.ids[row])}: {images.classes[int(images.y[row])]}"


def _examples(x: Float32[Tensor, "1 c h w"], motion: Motion, fill: float) -> NDArray[Any]:
    chosen = np.linspace(0, len(motion.amounts) - 1, EXAMPLES).round().astype(int)
    return np.concatenate([picture(motion.move(x, motion.amounts[i].item(), fill)[0]) for i in chosen], axis=1)
