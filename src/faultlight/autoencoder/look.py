"""Looking into an autoencoder with the views that any network is looked into with, and at what it restores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from numpy.typing import NDArray
from torch import Tensor, nn

from faultlight.autoencoder.nets import Net
from faultlight.data.images import Images
from faultlight.errors import InputError
from faultlight.models.subject import Subject
from faultlight.views._input import picture
from faultlight.views._result import Panel, Scale, ViewResult
from faultlight.views.activations import Activations
from faultlight.views.kernels import Kernels

Pixels = Float32[Tensor, "n c h w"]


def subject_of(net: Net, name: str = "autoencoder") -> Subject:
    """Return a network as views take it: every value of the restored image is one of its answers.

    The layers keep their names, so that a view's arrays are called as the network's modules are.
    """
    channels, height, width = net.blueprint.shape
    subject = Subject(net, channels * height * width, name, next(net.parameters()).device)
    subject.module.register_forward_hook(_flat)
    return subject


def kernels(net: Net) -> ViewResult:
    """Return the kernels of every layer, arrays and drawing."""
    return Kernels()(subject_of(net))


def maps(net: Net, images: Images) -> ViewResult:
    """Return every map of the encoder and the decoder for images, arrays and drawing."""
    return Activations()(subject_of(net), images)


def first_of_class(images: Images, name: str) -> Images:
    """Return the first image of a class.

    Raises:
        InputError: there is no such class, or no image of it.
    """
    known = ", ".join(images.classes)
    if name not in images.classes:
        raise InputError(f"{images.name!r} has no class {name!r}; it has {known}.")
    found = images.take(images.y == images.classes.index(name))
    if not len(found):
        raise InputError(f"none of the {len(images)} images is of class {name!r}; take more images.")
    return found.first(1)


def before_after(
    clean: Images, given: Pixels | None, restored: Pixels, name: str, words: str, noise: str = "given"
) -> ViewResult:
    """Return a grid, two images to a row: each clean, as given, restored, and the difference restored − clean.

    Pixels are drawn on [0, 1]. The differences of all rows share one scale, diverging about 0; of several channels the
    one that differs most is drawn.

    Args:
        clean: the images.
        given: what the network was given; None where that was the images themselves.
        restored: what it made of them.
        name: files are called after it.
        words: what the grid shows.
        noise: what stands over the images given.
    """
    difference = [_strongest(one - other) for one, other in zip(restored, clean.x, strict=True)]
    largest = max(float(np.abs(each).max()) for each in difference)
    scale = Scale("signed", -largest, largest)
    panels: list[Panel] = []
    for row in range(len(clean)):
        panels.append(Panel(clean.classes[int(clean.y[row])], picture(clean.x[row])))
        if given is not None:
            panels.append(Panel(noise, picture(given[row])))
        panels += [Panel("restored", picture(restored[row])), Panel("restored − clean", difference[row], scale)]
    arrays = {"clean": clean.x, "restored": restored} | ({} if given is None else {"given": given})
    facts = {"ids": clean.ids.tolist(), "largest difference": largest}
    drawn = {key: value.cpu().numpy() for key, value in arrays.items()}
    return ViewResult(name, drawn, words, tuple(panels), 6 if given is None else 8, 1.1, facts)


def stacked(results: Sequence[ViewResult], name: str) -> ViewResult:
    """Return several grids of the same columns as one."""
    arrays: dict[str, NDArray[Any]] = {
        f"{each.name}/{key}": values for each in results for key, values in each.arrays.items()
    }
    panels = tuple(panel for each in results for panel in each.panels)
    return replace(results[0], name=name, arrays=arrays, panels=panels, words="\n".join(each.words for each in results))


def _flat(_module: nn.Module, _given: Any, output: Tensor) -> Tensor:
    return output.flatten(1)


def _strongest(difference: Float32[Tensor, "c h w"]) -> NDArray[np.float32]:
    """Return of each pixel the channel of largest magnitude, its sign kept."""
    place = difference.abs().argmax(0, keepdim=True)
    found: NDArray[np.float32] = torch.gather(difference, 0, place)[0].detach().cpu().numpy()
    return found
