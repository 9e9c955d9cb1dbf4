"""Layers that are flat: what training does so that its attacks see past them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from faultlight.errors import InputError, nearest
from faultlight.models.straight_through import borrow
from faultlight.train.inner import evaluating
from faultlight.train.objectives import Objective


def flat_layer(objective: Objective) -> str:
    """Return the layer that gradients are to pass as if it were the identity, or "" where there is none."""
    return str(getattr(objective, "straight_through", ""))


def pass_straight(module: nn.Module, layer: str, shape: tuple[int, int, int]) -> None:
    """Have gradients pass a layer as if it were the identity, in place and in copies; its output stays what it was.

    A threshold is flat nearly everywhere, so that its own gradient would tell an attack nothing about what lies behind.

    Source: Athalye, Carlini & Wagner 2018, "Obfuscated gradients give a false sense of security", section 4.1 (BPDA).

    Args:
        module: the network.
        layer: the name of a submodule that learns nothing; "" changes nothing.
        shape: of the pixels, (c, h, w).

    Raises:
        InputError: there is no such layer, it learns, or its output is of another shape than its input.
    """
    if not layer:
        return
    known = {name for name, _ in module.named_modules() if name}
    if layer not in known:
        raise InputError(f"objective.straight_through: there is no layer {layer!r}; {nearest(layer, known)}")
    part = module.get_submodule(layer)
    if next(part.parameters(), None) is not None:
        raise InputError(f"objective.straight_through: the layer {layer!r} learns; name one that does not.")
    handle = part.register_forward_hook(_borrowed)
    device = next(module.parameters()).device
    try:
        with torch.no_grad(), evaluating(module):
            module(torch.zeros(1, *shape, device=device))
    except _Reshaped:
        handle.remove()
        raise InputError(
            f"objective.straight_through: the layer {layer!r} changes the shape of what it is given; name one that "
            f"does not."
        ) from None


class _Reshaped(Exception):
    pass


def _borrowed(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    if args[0].shape != output.shape:
        raise _Reshaped
    return borrow(output, args[0])
