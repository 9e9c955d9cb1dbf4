"""The weights of every layer, as pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from faultlight.data.images import Images
from faultlight.errors import InputError
from faultlight.models.subject import Subject
from faultlight.settings import check_settings
from faultlight.views._mosaic import banded, mosaic
from faultlight.views._result import Panel, ViewResult, scale_of
from faultlight.views.listening import leaves_of, module_named

# Kernels drawn of one layer: so many outputs by so many inputs; the arrays hold all of them.
MOST_OUTPUTS, MOST_INPUTS = 64, 32

WEIGHED = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Linear,
)


@dataclass(frozen=True)
class Kernels:
    """The kernels of every convolution and linear layer, as they are.

    The arrays carry the layers' names and hold exactly the weights: (out, in / groups, h, w) for a convolution,
    (in, out / groups, h, w) for a transposed one, (out, in) for a linear layer. In the drawing, the small
    pictures of an output channel (an input channel of a transposed convolution) stand side by side, a matrix much
    wider than high is cut into bands, and the kernels of a layer share one scale, diverging about 0. Weights kept
    outside of such modules are not seen.

    Args:
        layer: only this layer; all of them when left out.

    Raises:
        InputError: the layer is unknown or has no kernel, or the model has none at all.
    """

    layer: str | None = None

    def __post_init__(self) -> None:
        check_settings(self)

    def __call__(self, subject: Subject, images: Images | None = None) -> ViewResult:  # noqa: ARG002 (every view is called alike)
        """Return the kernels of a subject; the images are not looked at."""
        weights = {name: weight.detach().cpu().numpy() for name, weight in self._weights(subject).items()}
        panels = tuple(_panel(name, weight) for name, weight in weights.items())
        lines = [
            f"{name}: {_sizes(weight)}, from {weight.min():.4g} to {weight.max():.4g}"
            for name, weight in weights.items()
        ]
        words = f"Kernels of {len(weights)} layers of {subject.name!r}.\n" + "\n".join(lines)
        return ViewResult("kernels", dict(weights), words, panels, 2, 3.4, {"layers": list(weights)})

    def _weights(self, subject: Subject) -> dict[str, Tensor]:
        weights = {name: module.weight for name, module in leaves_of(subject).items() if isinstance(module, WEIGHED)}
        if self.layer is None and not weights:
            raise InputError(
                f"the model {subject.name!r} has no convolution or linear layer whose kernels could be shown."
            )
        if self.layer is None:
            return weights
        name = module_named(subject, self.layer)
        if name not in weights:
            raise InputError(f"the layer {name!r} has no kernel; layers that have one: {', '.join(weights) or 'none'}.")
        return {name: weights[name]}


def _sizes(weight: NDArray[Any]) -> str:
    return " × ".join(map(str, weight.shape))


def _panel(name: str, weight: NDArray[Any]) -> Panel:
    scale = scale_of(weight, -weight)
    if weight.ndim <= 2 or weight[0, 0].size == 1:
        matrix = banded(weight.reshape(len(weight), -1))
        bands = (len(matrix) + 1) // (len(weight) + 1)
        folded = f", the inputs in {bands} bands of {matrix.shape[1]}" if bands > 1 else ""
        return Panel(f"{name}: {_sizes(weight)}{folded}", matrix, scale)
    kernels = weight.reshape(*weight.shape[:2], -1, weight.shape[-1])
    drawn = kernels[:MOST_OUTPUTS, :MOST_INPUTS]
    part = "" if drawn.shape == kernels.shape else f", the first {drawn.shape[0]} × {drawn.shape[1]}"
    # The kernels of an output stay side by side; several outputs share a row where there are few inputs.
    outputs_a_row = max(1, round(math.sqrt(drawn.shape[0] / drawn.shape[1])))
    sheet = mosaic(np.concatenate(list(drawn)), outputs_a_row * drawn.shape[1])
    return Panel(f"{name}: {_sizes(weight)}{part}", sheet, scale)
