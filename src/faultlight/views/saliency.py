"""Which pixels a class score reacts to: its gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from numpy.typing import NDArray
from torch import Tensor

from faultlight.data.images import Images
from faultlight.errors import InputError
from faultlight.models.subject import Subject
from faultlight.settings import check_settings
from faultlight.views._input import check_finite, check_input, listing, picture
from faultlight.views._result import Panel, ViewResult, scale_of
from faultlight.views.listening import rows_at_once

MOST_IMAGES = 8


@dataclass(frozen=True)
class Saliency:
    """The gradient of a class's logit with respect to the pixels, and its magnitude.

    saliency(i, j) = max over channels c of |∂z_k / ∂x_cij|, with z_k the logit of the class k.

    Arrays: `saliency` (n, h, w); `gradient` (n, c, h, w), signed; `target` (n,), the class k of each image; `x`
    (n, c, h, w) and `y` (n,). Units are logits per unit of pixel. In the drawing all images share one scale a column,
    and the signed gradient of a colour image is that of the channel of greatest magnitude.

    Args:
        target: the class k; each image's own label when left out.

    Raises:
        InputError: the class does not exist, the gradient is NaN, or there are no images. A gradient that is zero
            everywhere is no error: the drawing and the text say so.

    Simonyan, Vedaldi and Zisserman 2014, "Deep inside convolutional networks", section 3.
    """

    target: int | None = None

    def __post_init__(self) -> None:
        check_settings(self)

    def __call__(self, subject: Subject, images: Images) -> ViewResult:
        """Return the saliency maps of images."""
        check_input(subject, images)
        target = self._targets(subject, images)
        gradient = pixel_gradient(subject, images.x, target)
        check_finite(gradient, images.ids, "gradients of the logit with respect to the pixels")
        tensors = {
            "saliency": saliency_of(gradient),
            "gradient": gradient,
            "target": target,
            "x": images.x,
            "y": images.y,
        }
        arrays = {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
        facts = {"target": self.target, "ids": images.ids.tolist()}
        return ViewResult("saliency", arrays, _words(images, arrays), _drawing(images, arrays), 3, facts=facts)

    def _targets(self, subject: Subject, images: Images) -> Tensor:
        if self.target is None:
            return images.y
        if not 0 <= self.target < subject.classes:
            raise InputError(
                f"the target {self.target} is no class of the model; choose one of 0 … {subject.classes - 1}."
            )
        return torch.full_like(images.y, self.target)


def pixel_gradient(
    subject: Subject, x: Float32[Tensor, "n c h w"], target: Int64[Tensor, " n"]
) -> Float32[Tensor, "n c h w"]:
    """Return ∂z_k / ∂x for each image's class k; zero where no path leads from the pixels to the logits."""
    # A quarter of the usual rows: the backward pass needs every activation of the forward pass.
    rows = rows_at_once(x, share=4)
    parts = zip(torch.split(x, rows), torch.split(target, rows), strict=True)
    return torch.cat(
        [_gradient(subject, pixels.to(subject.device), labels.to(subject.device)).cpu() for pixels, labels in parts]
    )


def saliency_of(gradient: Float32[Tensor, "n c h w"]) -> Float32[Tensor, "n h w"]:
    """Return the greatest magnitude over the channels."""
    return gradient.abs().amax(1)


@torch.enable_grad()
def _gradient(subject: Subject, x: Tensor, target: Tensor) -> Tensor:
    x = x.detach().requires_grad_(True)
    score = subject(x).gather(1, target[:, None]).sum()
    if not score.requires_grad:
        return torch.zeros_like(x)
    # With respect to the pixels alone: the subject's weights are frozen and no gradient of theirs is computed.
    (gradient,) = torch.autograd.grad(score, x, allow_unused=True, materialize_grads=True)
    return gradient


def _words(images: Images, arrays: dict[str, NDArray[Any]]) -> str:
    flat = arrays["saliency"].reshape(len(images), -1)
    zero = int((flat.max(1) == 0).sum())
    first = (
        f"The gradient is zero everywhere on {zero} of {len(images)} images."
        if zero
        else f"Saliency of {len(images)} images."
    )
    return f"{first}\n{listing([_line(images, row, arrays) for row in range(len(images))])}"


def _line(images: Images, row: int, arrays: dict[str, NDArray[Any]]) -> str:
    saliency = arrays["saliency"][row]
    i, j = divmod(int(saliency.argmax()), saliency.shape[1])
    norm = float(np.linalg.norm(arrays["gradient"][row]))
    target = images.classes[int(arrays["target"][row])]
    return (
        f"id {int(images.ids[row])}, logit of {target}: greatest {saliency.max():.4g} at row {i}, column {j}; "
        f"L2 norm {norm:.4g}"
    )


def _drawing(images: Images, arrays: dict[str, NDArray[Any]]) -> tuple[Panel, ...]:
    shown = min(len(images), MOST_IMAGES)
    strongest = _strongest_channel(arrays["gradient"][:shown])
    unsigned, signed = scale_of(arrays["saliency"][:shown]), scale_of(strongest, -strongest)
    panels: list[Panel] = []
    for row in range(shown):
        target = images.classes[int(arrays["target"][row])]
        panels += [
            Panel(f"image {int(images.ids[row])}: {images.classes[int(images.y[row])]}", picture(images.x[row])),
            Panel(f"|∂ logit of {target} / ∂ pixel|", arrays["saliency"][row], unsigned),
            Panel("signed, the strongest channel", strongest[row], signed),
        ]
    return tuple(panels)


def _strongest_channel(gradient: NDArray[Any]) -> NDArray[Any]:
    channel = np.abs(gradient).argmax(1)[:, None]
    return np.take_along_axis(gradient, channel, axis=1)[:, 0]
