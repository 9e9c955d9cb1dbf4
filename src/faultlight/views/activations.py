"""What every layer puts out for an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from faultlight.data.images import Images
from faultlight.errors import InputError
from faultlight.models.subject import Subject
from faultlight.settings import check_settings
from faultlight.views._input import check_finite, check_input, picture
from faultlight.views._mosaic import flat
from faultlight.views._result import Panel, ViewResult, scale_of
from faultlight.views.listening import leaves_of, module_named, outputs, rows_at_once, uncalled

MOST_IMAGES = 4
MOST_MAPS = 64
MOST_LAYERS = 80
# Two gibibytes of float32: beyond it the arrays would crowd out the machine they are to be looked at on.
MOST_NUMBERS = 2**29


@dataclass(frozen=True)
class Activations:
    """The outputs of every layer for the given images.

    A layer is a module that holds no other module (convolution, activation, pool, linear, …). They stand in the order
    of the calls; one that is called again appears as "name#2". What the forward pass computes by functions
    (`F.relu(x)`, `x + y`) is no module and is not listed: its effect is seen in the next module's output. Any module
    can be asked for by name, one that holds others too.

    The arrays carry the layers' names and have shape (n, …), one row an image. In the drawing (the first four
    images) a layer's maps share one scale across channels and images: sequential where no value is negative,
    diverging about 0 otherwise.

    Args:
        layer: only this module; every layer when left out.

    Raises:
        InputError: the layer is unknown or is never called, an activation is NaN or infinite (the first such layer
            and the images are named), there are no images, or the arrays would exceed two gibibytes.
    """

    layer: str | None = None

    def __post_init__(self) -> None:
        check_settings(self)

    def __call__(self, subject: Subject, images: Images) -> ViewResult:
        """Return the activations of a subject on images."""
        check_input(subject, images)
        heard = all_outputs(subject, images, self._modules(subject), self.layer)
        arrays = {name: output.numpy() for name, output in heard.items()}
        silent = [name for name in leaves_of(subject) if name not in arrays] if self.layer is None else []
        facts = {"layers": list(arrays), "not_called": silent, "ids": images.ids.tolist()}
        return ViewResult("activations", arrays, _words(subject, arrays, silent), *_drawing(images, arrays), 2.2, facts)

    def _modules(self, subject: Subject) -> list[str]:
        return list(leaves_of(subject)) if self.layer is None else [module_named(subject, self.layer)]


def all_outputs(subject: Subject, images: Images, modules: Sequence[str], layer: str | None) -> dict[str, Tensor]:
    """Return what modules put out for images, by the names of their calls in the order of the calls.

    Args:
        subject: the model.
        images: the images.
        modules: the modules that are listened to.
        layer: only this module or this call ("relu", "relu#2"); all of them when None.

    Raises:
        InputError: none of them is ever called, an activation is NaN or infinite, or there are too many numbers.
    """
    # A sixteenth of the usual rows: here every layer's output is kept at once.
    parts: dict[str, list[Tensor]] = {}
    for x, ids in zip(
        *(torch.split(part, rows_at_once(images.x, share=16)) for part in (images.x, images.ids)), strict=True
    ):
        heard = outputs(subject, x.to(subject.device), modules)
        for name, output in _chosen(heard, layer).items():
            check_finite(output, ids, f"activations of the layer {name!r}")
            parts.setdefault(name, []).append(output.cpu())
        _check_size(parts, len(images))
    return {name: torch.cat(pieces) for name, pieces in parts.items()}


def _chosen(heard: dict[str, Tensor], layer: str | None) -> dict[str, Tensor]:
    if layer is None or not heard:
        chosen = heard
    else:
        calls = {name for name in heard if layer in (name, name.rpartition("#")[0])}
        chosen = {name: heard[name] for name in heard if name in calls}
    if not chosen:
        raise (
            uncalled(layer, heard)
            if layer is not None
            else InputError(
                "the forward pass never calls any layer for a tensor with one row an image; choose another model."
            )
        )
    return chosen


def _check_size(parts: dict[str, list[Tensor]], n: int) -> None:
    numbers = n * sum(pieces[0][0].numel() for pieces in parts.values())
    if numbers > MOST_NUMBERS:
        raise InputError(
            f"the activations of {n} images hold {numbers:,} numbers, more than the {MOST_NUMBERS:,} kept at once; "
            f"take at most {max(1, n * MOST_NUMBERS // numbers)} images, or name one layer."
        )


def _words(subject: Subject, arrays: dict[str, NDArray[Any]], silent: Sequence[str]) -> str:
    lines = [f"Activations of {len(arrays)} layers of {subject.name!r}."]
    for name, values in arrays.items():
        zero = float((values == 0).mean())
        sizes = " × ".join(map(str, values.shape[1:]))
        lines.append(f"{name}: {sizes}, from {values.min():.4g} to {values.max():.4g}, {zero:.0%} zero")
    if silent:
        lines.append(f"Never called as a module for a tensor with one row an image: {', '.join(silent)}.")
    return "\n".join(lines)


def _drawing(images: Images, arrays: dict[str, NDArray[Any]]) -> tuple[tuple[Panel, ...], int]:
    shown = min(len(images), MOST_IMAGES)
    columns = shown * max(1, MOST_IMAGES // shown)
    panels = [Panel(f"image {int(images.ids[row])}", picture(images.x[row])) for row in range(shown)]
    for name, values in list(arrays.items())[:MOST_LAYERS]:
        scale = scale_of(values[:shown])
        part = (
            f", the first {MOST_MAPS} of {values.shape[1]}" if values.ndim > 3 and values.shape[1] > MOST_MAPS else ""
        )
        title = f"{name}: {' × '.join(map(str, values.shape[1:]))}{part}"
        panels += [Panel(title, flat(values[row], MOST_MAPS), scale) for row in range(shown)]
    return tuple(panels), columns
