"""The zoo: networks known by name, one file a family.

A family is a frozen dataclass whose name is the file's (`mnist_cnn.py` → `MnistCnn` → "mnist-cnn"), with the fields
`classes` and `shape`, any further whole-number options (at least 1, or at least 0 where that is their default), the
class variable `recipe` (the recipe that trains it, or "") and a method `module()` that builds the network. A new
family is one new file; other people's packages add theirs through an entry point of the group
`faultlight.models.zoo`. A family may also have a method `prepare(module, x)`, which training calls once with its
images before the first step. "timm/NAME" is a network of the library timm.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import nn

from faultlight.catalogue import catalogue
from faultlight.errors import InputError, nearest
from faultlight.models.zoo._timm import PREFIX as TIMM
from faultlight.models.zoo._timm import Timm

PACKAGE = "models.zoo"


@runtime_checkable
class Family(Protocol):
    """What the file of a family defines: settings in, a network out."""

    recipe: ClassVar[str]

    @property
    def classes(self) -> int:
        """The number of logits."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the pixels."""

    def module(self) -> nn.Module:
        """Build the network with PyTorch's default initial weights, drawn from the global generator."""


def names() -> tuple[str, ...]:
    """Return the names of all networks, in alphabetical order."""
    return tuple(catalogue(PACKAGE))


def family(name: str, **settings: Any) -> Family:
    """Return a family with the given settings and its own defaults for the rest.

    Args:
        name: a name such as "mnist-cnn".
        settings: `classes`, `shape`, and whatever further options the family has, such as `width`.

    Raises:
        InputError: no such network or option; the message names the nearest.
    """
    kind, known = _kind(name), options(name)
    if kind is Timm:
        settings["architecture"] = name.removeprefix(TIMM)
    for option in settings:
        if option not in known:
            raise InputError(f"the network {name!r} has no option {option!r}; {nearest(option, known)}.")
    _check(name, settings)
    found: Family = kind(**settings)
    return found


def options(name: str) -> tuple[str, ...]:
    """Return the names of a network's settings: classes, shape, and its own, such as "width"."""
    return tuple(field.name for field in fields(_kind(name)))


def recipe(name: str) -> str:
    """Return the name of the recipe that trains a network, or "" where there is none."""
    found: str = _kind(name).recipe
    return found


def build(name: str, classes: int, shape: tuple[int, int, int], seed: int = 0, **options: int) -> nn.Module:
    """Return a network of the zoo with initial weights that are a function of the seed alone.

    Args:
        name: a name such as "mnist-cnn".
        classes: the number of logits, at least 2.
        shape: channels, height and width of the pixels.
        seed: of the initial weights; the global generator neither matters nor moves.
        options: further settings of the family, such as `width=16` for "resnet18".

    Returns:
        The network in training mode, on the CPU.

    Raises:
        InputError: no such network or option, or a number that it cannot be built with.
    """
    return build_family(family(name, classes=classes, shape=shape, **options), seed)


def build_family(chosen: Family, seed: int = 0) -> nn.Module:
    """Return the network of a family with initial weights that are a function of the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also move the generators of GPUs
        return chosen.module()


def _kind(name: str) -> type[Any]:
    if name.startswith(TIMM):
        return Timm
    entries = catalogue(PACKAGE)
    if name not in entries:
        raise InputError(f"the zoo has no network named {name!r}; {nearest(name, entries)}.")
    return entries[name].load()


def _check(name: str, settings: dict[str, Any]) -> None:
    classes, shape = settings.get("classes", 2), tuple(settings.get("shape", (1, 1, 1)))
    if classes < 2:
        raise InputError(f"the network {name!r} was asked for {classes} classes; a classifier needs at least 2.")
    if min(shape) < 1:
        raise InputError(f"the network {name!r} was asked for images of shape {shape}; every side needs at least 1.")
    defaults = {field.name: field.default for field in fields(_kind(name))}
    for option, value in settings.items():
        least = 0 if defaults[option] == 0 else 1
        if isinstance(value, int) and option != "classes" and value < least:
            raise InputError(f"the option {option} of the network {name!r} must be at least {least}, not {value}.")
