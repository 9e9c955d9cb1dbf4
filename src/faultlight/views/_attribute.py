"""Attribution methods: one number a pixel for how much it speaks for a class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn
from torch.nn import functional

from faultlight import rng
from faultlight.data.images import Images
from faultlight.errors import InputError, nearest
from faultlight.models.subject import Subject
from faultlight.views._captum import deep_lift, shapley
from faultlight.views._input import check_finite
from faultlight.views._rectify import Rectifying, Rule, opaque
from faultlight.views.listening import module_named, modules_of, rows_at_once
from faultlight.views.occlusion import last_map_layer
from faultlight.views.saliency import pixel_gradient

Absent = Literal["black", "grey", "white", "blur"]
# Of SmoothGrad's noise, as a share of the pixels' range; the paper's pictures use 0.1 to 0.2.
DEVIATION = 0.15

Pixels = Float32[Tensor, "n c h w"]
Labels = Int64[Tensor, " n"]


@dataclass(frozen=True)
class Question:
    """What is asked of a method.

    Args:
        images: the images.
        target: the class whose logit z_k is explained, one an image.
        absent: the image of what is not there, x₀.
        steps: points of a path, or draws.
        layer: Grad-CAM's; the last one with maps when None.
        seed: of random numbers.
    """

    images: Images
    target: Labels
    absent: Pixels
    steps: int = 50
    layer: str | None = None
    seed: int = 0


@dataclass(frozen=True)
class Method:
    """An attribution method.

    Args:
        function: what it does.
        signed: whether its sign says for or against the class; else only the magnitude is read.
        complete: whether its sum is z_k(x) − z_k(x₀).
    """

    function: Callable[[Subject, Question], Pixels]
    signed: bool = False
    complete: bool = False

    def scores(self, attribution: Float32[Tensor, "n d h w"]) -> Float32[Tensor, "n h w"]:
        """Return one number a pixel: the channels' sum of a signed method, else their greatest magnitude."""
        return attribution.sum(1) if self.signed else attribution.abs().amax(1)


def method_named(name: str) -> Method:
    """Return a method.

    Raises:
        InputError: there is none of that name; the nearest is named.
    """
    if name not in METHODS:
        raise InputError(f"there is no attribution method {name!r}; {nearest(name, METHODS)}.")
    return METHODS[name]


def attribute(name: str, subject: Subject, question: Question) -> Float32[Tensor, "n d h w"]:
    """Return what a method says of each image; d is 1 where it does not tell channels apart.

    Raises:
        InputError: no such method, one that is wrong for this net, an unknown layer, or NaN.
    """
    found = method_named(name).function(subject, question).float().cpu()
    check_finite(found, question.images.ids, f"attributions by {name}")
    return found


def absent_image(x: Pixels, how: Absent) -> Pixels:
    """Return the image of what is not there: one grey level, or the image blurred (σ a tenth of its shorter side)."""
    levels = {"black": 0.0, "grey": 0.5, "white": 1.0}
    return _blurred(x) if how == "blur" else torch.full_like(x, levels[how])


def _blurred(x: Pixels) -> Pixels:
    sigma = min(x.shape[2:]) / 10
    # Reflected borders cannot be wider than the image.
    radius = min(int(3 * sigma + 0.5), min(x.shape[2:]) - 1)
    kernel = torch.exp(-(torch.arange(-radius, radius + 1) ** 2) / (2 * sigma**2)).to(x)
    kernel = (kernel / kernel.sum()).repeat(x.shape[1], 1)
    padded = functional.pad(x, [radius] * 4, mode="reflect")
    rows = functional.conv2d(padded, kernel[:, None, :, None], groups=x.shape[1])
    return functional.conv2d(rows, kernel[:, None, None, :], groups=x.shape[1]).clamp(0, 1)


def gradient(subject: Subject, question: Question) -> Pixels:
    """Return ∂z_k / ∂x (Simonyan et al. 2014, section 3)."""
    return pixel_gradient(subject, question.images.x, question.target)


def gradient_times_input(subject: Subject, question: Question) -> Pixels:
    """Return (x − x₀) ∂z_k / ∂x (Shrikumar et al. 2016, section 3, with x₀ = 0)."""
    return (question.images.x - question.absent) * gradient(subject, question)


def smooth_gradient(subject: Subject, question: Question) -> Pixels:
    """Return the mean of ∂z_k / ∂x over noise N(0, 0.15²) on the pixels (Smilkov et al. 2017, section 3)."""
    images, key = question.images, rng.key(question.seed, "smooth-gradient")

    def noisy(draw: int) -> Pixels:
        return images.x + DEVIATION * rng.normal(key, images.ids, torch.full_like(images.ids, draw), images.shape)

    return _summed(subject, question, torch.full((question.steps,), 1 / question.steps), noisy)


def integrated_gradients(subject: Subject, question: Question) -> Pixels:
    """Return (x − x₀) ∫ ∂z_k / ∂x at x₀ + a (x − x₀) da, by Gauss–Legendre (Sundararajan et al. 2017, section 3)."""
    difference = question.images.x - question.absent
    places, weights = np.polynomial.legendre.leggauss(question.steps)
    shares = torch.from_numpy((places + 1) / 2).float()
    mean = _summed(
        subject, question, torch.from_numpy(weights / 2), lambda step: question.absent + shares[step] * difference
    )
    return difference * mean


def _summed(subject: Subject, question: Question, weights: Tensor, point: Callable[[int], Pixels]) -> Pixels:
    """Return Σ_i w_i ∂z_k / ∂x at point(i), as many points at a time as fill a pass."""
    shape = question.images.x.shape
    total = torch.zeros(shape)
    for part in torch.split(torch.arange(len(weights)), max(1, rows_at_once(question.images.x, share=4) // shape[0])):
        x = torch.cat([point(int(step)) for step in part])
        slopes = pixel_gradient(subject, x, question.target.repeat(len(part))).view(len(part), *shape)
        total += torch.tensordot(weights[part].float(), slopes, 1)
    return total


def guided(subject: Subject, question: Question) -> Pixels:
    """Return z_k carried back with the rule g·1[z > 0]·1[g > 0] at each ReLU (Springenberg et al. 2015, § 3.4)."""
    return _carried(subject, question, "guided")


def deconvnet(subject: Subject, question: Question) -> Pixels:
    """Return z_k carried back with the rule g·1[g > 0] at each ReLU (Zeiler and Fergus 2014, section 2.1)."""
    return _carried(subject, question, "deconvnet")


def grad_cam(subject: Subject, question: Question) -> Float32[Tensor, "n 1 h w"]:
    """Return ReLU(Σ_c α_c A_c), α_c the mean of ∂z_k / ∂A_c, enlarged bilinearly (Selvaraju et al. 2017, section 3)."""
    return functional.interpolate(cam(subject, question), question.images.shape[1:], mode="bilinear")


def guided_grad_cam(subject: Subject, question: Question) -> Pixels:
    """Return guided backpropagation times Grad-CAM (Selvaraju et al. 2017, section 3.1)."""
    return guided(subject, question) * grad_cam(subject, question)


def intensity(_subject: Subject, question: Question) -> Pixels:
    """Return |x − x₀|, which asks no model: a control."""
    return (question.images.x - question.absent).abs()


def cam(subject: Subject, question: Question) -> Float32[Tensor, "n 1 a b"]:
    """Return Grad-CAM at the size of the layer's maps.

    Raises:
        InputError: the layer is unknown, is never called, or has no maps.
    """
    x = question.images.x
    layer = question.layer or last_map_layer(subject, x[:1])
    if layer is None:
        raise InputError(f"the model {subject.name!r} has no layer with maps, which grad-cam needs; choose another.")
    rows = rows_at_once(x, share=4)
    parts = zip(torch.split(x, rows), torch.split(question.target, rows), strict=True)
    return torch.cat([_cam(subject, pixels.to(subject.device), k.to(subject.device), layer) for pixels, k in parts])


@torch.enable_grad()
def _cam(subject: Subject, x: Tensor, target: Tensor, layer: str) -> Tensor:
    name, calls = module_named(subject, layer), list[Tensor]()

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        if not isinstance(output, Tensor):
            return None
        calls.append(output)
        # A copy goes on, so that an in-place layer cannot write over what is kept.
        return output.clone()

    hook = modules_of(subject)[name].register_forward_hook(keep)
    try:
        score = subject(x.clone().requires_grad_()).gather(1, target[:, None]).sum()
    finally:
        hook.remove()
    number = int(layer.rpartition("#")[2]) - 1 if layer != name else 0
    if number >= len(calls) or calls[number].ndim != 4 or len(calls[number]) != len(x):
        raise InputError(
            f"the layer {layer!r} gives no maps in the forward pass, which grad-cam needs; choose another."
        )
    maps = calls[number]
    if not (maps.requires_grad and score.requires_grad):
        return torch.zeros(len(x), 1, *maps.shape[2:])
    (slope,) = torch.autograd.grad(score, maps, allow_unused=True, materialize_grads=True)
    return (slope.mean((2, 3), keepdim=True) * maps).sum(1, keepdim=True).relu().detach().float().cpu()


def _carried(subject: Subject, question: Question, rule: Rule) -> Pixels:
    closed = opaque(subject.module)
    if closed:
        raise InputError(
            f"the model {subject.name!r} is {closed[0]}, so its ReLUs cannot be given the rule {rule!r}; hand over the "
            "plain module, or choose integrated-gradients."
        )
    x, rows = question.images.x, rows_at_once(question.images.x, share=4)
    parts = zip(torch.split(x, rows), torch.split(question.target, rows), strict=True)
    return torch.cat([_ruled(subject, pixels.to(subject.device), k.to(subject.device), rule) for pixels, k in parts])


@torch.enable_grad()
def _ruled(subject: Subject, pixels: Tensor, target: Tensor, rule: Rule) -> Tensor:
    leaf = pixels.detach().clone().requires_grad_()
    # Not the leaf itself: a net may write over what it is given.
    x = leaf.clone()
    with Rectifying(rule, x) as mode:
        logits = subject(x)
    if not logits.requires_grad:
        return torch.zeros_like(leaf).cpu()
    bends = mode.bends(logits)
    if bends:
        raise InputError(
            f"the model {subject.name!r} bends by more than ReLU ({', '.join(bends)}), for which {rule} has no rule; "
            "choose integrated-gradients or grad-cam."
        )
    score = logits.gather(1, target[:, None]).sum()
    return torch.autograd.grad(score, leaf, materialize_grads=True)[0].cpu()


def _deep_lift(subject: Subject, question: Question) -> Pixels:
    return deep_lift(subject, question.images.x, question.target, question.absent)


def _shapley(subject: Subject, question: Question) -> Pixels:
    x, absent = question.images.x, question.absent
    return shapley(subject, x, question.target, absent, draws=question.steps, seed=question.seed)


METHODS = {
    "gradient": Method(gradient),
    "gradient-x-input": Method(gradient_times_input, signed=True),
    "smooth-gradient": Method(smooth_gradient),
    "integrated-gradients": Method(integrated_gradients, signed=True, complete=True),
    "guided": Method(guided),
    "deconvnet": Method(deconvnet),
    "grad-cam": Method(grad_cam, signed=True),
    "guided-grad-cam": Method(guided_grad_cam),
    "deep-lift": Method(_deep_lift, signed=True, complete=True),
    "shapley": Method(_shapley, signed=True, complete=True),
    "intensity": Method(intensity),
}
