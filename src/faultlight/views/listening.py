"""Listening to the modules of a net, in batches that fit: every hook is removed, every call has a name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from faultlight.errors import InputError, nearest
from faultlight.models.subject import Subject

# Sixteen mebibytes of pixels, and never more than 128 rows: the activations of a pass then stay far below a gibibyte
# for the nets of today, and on a processor larger batches are slower, for they leave its caches.
PIXELS_AT_ONCE = 2**22
ROWS_AT_ONCE = 128

Take = Callable[[str, Tensor], None]


def modules_of(subject: Subject) -> dict[str, nn.Module]:
    """Return every module by its dotted name, in the order of definition; the net itself goes by its class."""
    return {name or type(module).__name__: module for name, module in subject.module.named_modules()}


def leaves_of(subject: Subject) -> dict[str, nn.Module]:
    """Return the modules that hold no other module: the layers proper."""
    return {name: module for name, module in modules_of(subject).items() if not any(True for _ in module.children())}


def module_named(subject: Subject, layer: str) -> str:
    """Return the module of a layer name, without the number of its call ("relu#2" → "relu").

    Raises:
        InputError: there is no such module; the message names the nearest one.
    """
    known = modules_of(subject)
    name = layer if layer in known else layer.rpartition("#")[0]
    if name not in known:
        raise InputError(
            f"the model {subject.name!r} has no layer {layer!r}; {nearest(layer, leaves_of(subject) or known)}."
        )
    return name


def uncalled(layer: str, calls: Iterable[str]) -> InputError:
    """Return the error of a layer that is the name of no call; it names the calls of that module, the nearest first."""
    module = layer.rpartition("#")[0] or layer
    own = [name for name in calls if name.partition("#")[0] == module]
    hint = nearest(layer, own) if own else "choose another layer"
    return InputError(f"the forward pass never calls the layer {layer!r} for a tensor with one row an image; {hint}.")


def listen(subject: Subject, x: Tensor, modules: Iterable[str], take: Take) -> Tensor:
    """Return the logits of one forward pass, handing every output of the modules to `take(name, output)`.

    A module that is called again within the pass hands over "name#2", "name#3", …; of a module that returns
    several tensors, the first is taken, and one that returns no tensor is passed over. The hooks are removed
    whatever happens. The output may be written over by an in-place layer later: copy what you keep.
    """
    known, calls = modules_of(subject), Counter[str]()

    def hear(name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        calls[name] += 1
        tensor = output[0] if isinstance(output, tuple | list) and output else output
        if isinstance(tensor, Tensor):
            take(name if calls[name] == 1 else f"{name}#{calls[name]}", tensor)

    with ExitStack() as hooks:
        for name in modules:
            hooks.callback(known[name].register_forward_hook(partial(hear, name)).remove)
        return subject(x)


@torch.no_grad()
def outputs(subject: Subject, x: Tensor, modules: Iterable[str]) -> dict[str, Tensor]:
    """Return copies of the outputs of some modules, in the order of their calls, those with one row an image."""
    heard: dict[str, Tensor] = {}

    def take(name: str, output: Tensor) -> None:
        if output.ndim > 1 and len(output) == len(x):
            heard[name] = output.detach().float().clone()

    listen(subject, x, modules, take)
    return heard


def rows_at_once(x: Tensor, share: int = 1) -> int:
    """Return how many images of this shape go through the net in one pass, divided by `share`, at least one."""
    return max(1, min(ROWS_AT_ONCE, PIXELS_AT_ONCE // max(1, x[0].numel())) // share)
