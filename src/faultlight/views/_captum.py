"""What Captum does right for any net, or is seen not to."""

from __future__ import annotations

import importlib
import warnings
from collections import Counter
from contextlib import ExitStack
from types import ModuleType

import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn

from faultlight.errors import InputError
from faultlight.models.subject import Subject
from faultlight.views._bends import other_bends
from faultlight.views.listening import rows_at_once

# Shapley values are of squares, so many a side at most: their cost grows with the square of it.
SQUARES = 8


def deep_lift(
    subject: Subject,
    x: Float32[Tensor, "n c h w"],
    target: Int64[Tensor, " n"],
    absent: Float32[Tensor, "n c h w"],
) -> Float32[Tensor, "n c h w"]:
    """Return DeepLIFT's contributions (rescale rule), made by Captum.

    Captum sees only bends that are modules, each called once; a net with others is refused, for of these it would take
    the gradient.

    Source: Shrikumar et al. 2017, "Learning important features through propagating activation differences", section
    3.5.1.

    Raises:
        InputError: Captum is not installed, refuses the net, or would not see all of it.
    """
    captum = _captum("deep-lift")
    known = tuple(importlib.import_module("captum.attr._core.deep_lift").SUPPORTED_NON_LINEAR)
    hidden = unseen(subject, x[:1].to(subject.device), known)
    if hidden:
        raise InputError(
            f"Captum's DeepLIFT does not see every bend of the model {subject.name!r} (hidden: {', '.join(hidden)}), "
            "so its maps would be wrong; choose integrated-gradients, or make each bend a module of its own."
        )
    # A copy, for Captum leaves its hooks behind when it fails.
    found = captum.DeepLift(Subject(subject.module, subject.classes, subject.name, subject.device).module)
    parts = []
    for one, k, zero in zip(
        *(torch.split(each, rows_at_once(x, share=8)) for each in (x, target, absent)), strict=True
    ):
        given = one.to(subject.device), k.to(subject.device), zero.to(subject.device)
        parts.append(_deep_lifted(found, subject, *given))
    return torch.cat(parts)


def _deep_lifted(found: object, subject: Subject, x: Tensor, target: Tensor, absent: Tensor) -> Tensor:
    try:
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            attribution = found.attribute(x.clone(), absent, target=target).detach()  # type: ignore[attr-defined]
    except (RuntimeError, AssertionError, TypeError, AttributeError) as error:
        raise InputError(
            f"Captum's DeepLIFT cannot take the model {subject.name!r} ({str(error).splitlines()[0][:120]}); choose "
            "integrated-gradients."
        ) from error
    explained: Tensor = attribution.cpu()
    return explained


@torch.enable_grad()
def unseen(subject: Subject, x: Float32[Tensor, "1 c h w"], known: tuple[type[nn.Module], ...]) -> list[str]:
    """Return the bends of a net that are no call of a known module, or a second call of one, by name.

    Args:
        subject: the model.
        x: an image.
        known: the types of module that count as seen.
    """
    calls = Counter[nn.Module]()

    def cut(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        calls[module] += 1
        # The graph goes on, without the bend.
        return output.detach() + 0 * inputs[0].sum()

    with ExitStack() as hooks:
        for module in subject.module.modules():
            if isinstance(module, known):
                hooks.callback(module.register_forward_hook(cut).remove)
        logits = subject(x.clone().requires_grad_())
    repeated = [f"{type(module).__name__} called {count} times" for module, count in calls.items() if count > 1]
    return [*other_bends(logits), *_pools(logits), *repeated]


def _pools(output: Tensor) -> list[str]:
    nodes, seen = [output.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is not None and node not in seen:
            seen.add(node)
            nodes += [following for following, _ in node.next_functions]
    return ["MaxPool"] if any("MaxPool" in node.name() for node in seen) else []


@torch.no_grad()
def shapley(
    subject: Subject,
    x: Float32[Tensor, "n c h w"],
    target: Int64[Tensor, " n"],
    absent: Float32[Tensor, "n c h w"],
    draws: int,
    seed: int,
) -> Float32[Tensor, "n c h w"]:
    """Return Shapley values of squares of pixels, spread evenly over each square, sampled by Captum.

    Source: Strumbelj and Kononenko 2010, "An efficient explanation of individual classifications using game theory",
    section 3.

    Raises:
        InputError: Captum is not installed.
    """
    found = _captum("shapley").ShapleyValueSampling(subject)
    mask = squares(*x.shape[2:]).to(subject.device)
    settings = {"n_samples": draws, "perturbations_per_eval": 16, "feature_mask": mask[None, None]}
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.default_generator.manual_seed(seed)
        rows = rows_at_once(x, share=8)
        parts = zip(*(torch.split(each.to(subject.device), rows) for each in (x, target, absent)), strict=True)
        values = torch.cat([found.attribute(one, zero, target=k, **settings) for one, k, zero in parts])
    # Captum writes the value of a square into each of its pixels and channels.
    size = torch.bincount(mask.flatten())[mask] * x.shape[1]
    return (values / size).float().cpu()


def squares(height: int, width: int) -> Int64[Tensor, "h w"]:
    """Return the number of the square that each pixel belongs to, at most 8 squares a side."""
    side = -(-max(height, width) // SQUARES)
    rows, columns = torch.arange(height) // side, torch.arange(width) // side
    return rows[:, None] * (int(columns[-1]) + 1) + columns


def _captum(method: str) -> ModuleType:
    try:
        import captum.attr as found
    except ImportError:
        raise InputError(
            f"the method {method} needs Captum; install it with: pip install 'faultlight[attribution]', or choose "
            "integrated-gradients."
        ) from None
    module: ModuleType = found
    return module
