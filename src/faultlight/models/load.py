"""From what the user writes as MODEL to a subject."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from faultlight.errors import InputError
from faultlight.models import zoo
from faultlight.models.foreign import from_exported, from_factory
from faultlight.models.saved import read_saved
from faultlight.models.subject import Note, Subject
from faultlight.models.weights import load_weights

NOTE_UNTRAINED = "untrained"

_FORMS = (
    "zoo:NAME, path/to/file.py:factory, package.module:factory, a .pt2 file, or a folder made by `faultlight train`"
)


@dataclass(frozen=True)
class _Found:
    name: str
    module: nn.Module
    classes: int | None
    notes: tuple[Note, ...] = ()
    folder: Path | None = None


def load_model(
    spec: str,
    *,
    weights: Path | str | None = None,
    classes: int | None = None,
    shape: tuple[int, int, int] | None = None,
    trust: bool = False,
    device: str = "cpu",
    seed: int = 0,
) -> Subject:
    """Return the model that a specification names, ready to be tested.

    Args:
        spec: "zoo:NAME", "path/to/file.py:factory", "package.module:factory", "program.pt2", or a folder made by
            training.
        weights: a safetensors file or a state dict to put into it.
        classes: how many classes the data has; by default the zoo's own number, or the width of the last linear or
            convolutional layer.
        shape: channels, height and width of the data, which a zoo network is built for; by default the zoo's own.
        trust: whether code from elsewhere may run.
        device: where it runs, such as "cpu" or "cuda".
        seed: of the initial weights of a zoo network that gets no weights.

    Raises:
        InputError: no such model, code without trust, weights that cannot be read or do not fit, another number of
            classes than a trained folder has, or no such device.
    """
    _check_device(device)
    found = _find(spec, classes, shape, trust, seed, bool(weights))
    if weights:
        load_weights(found.module, Path(weights))
    subject = Subject(found.module, classes or found.classes or _width(found), found.name, device)
    subject.notes += found.notes
    subject.folder = None if weights else found.folder
    return subject


def _find(
    spec: str, classes: int | None, shape: tuple[int, int, int] | None, trust: bool, seed: int, weighted: bool
) -> _Found:
    if spec.startswith("zoo:"):
        return _from_zoo(spec.removeprefix("zoo:"), classes, shape, seed, weighted)
    if Path(spec).is_dir():
        return _from_folder(Path(spec), classes)
    if spec.endswith(".pt2"):
        return _Found(Path(spec).stem, from_exported(Path(spec), trust), None)
    source, colon, factory = spec.rpartition(":")
    if colon and source and factory:
        return _Found(f"{Path(source).name}:{factory}", from_factory(spec, trust), None)
    raise InputError(_unknown(spec))


def _from_zoo(name: str, classes: int | None, shape: tuple[int, int, int] | None, seed: int, weighted: bool) -> _Found:
    settings: dict[str, Any] = {"classes": classes, "shape": shape}
    family = zoo.family(name, **{key: value for key, value in settings.items() if value is not None})
    note = Note(NOTE_UNTRAINED, f"the network {name!r} has its initial weights: it was never trained; give --weights")
    return _Found(name, zoo.build_family(family, seed).eval(), family.classes, () if weighted else (note,))


def _from_folder(folder: Path, classes: int | None) -> _Found:
    name, family, module = read_saved(folder)
    if classes not in (None, family.classes):
        raise InputError(
            f"the model in {folder} knows {family.classes} classes where the data has {classes}; change one."
        )
    return _Found(name, module.eval(), family.classes, folder=folder)


def _unknown(spec: str) -> str:
    if spec in zoo.names():
        return f"the model {spec!r} is not there; did you mean zoo:{spec}?"
    if spec.endswith((".safetensors", ".pt", ".pth", ".bin", ".ckpt")):
        return f"{spec} holds weights alone; name the network and give them by --weights {spec}."
    if spec.endswith(".py"):
        return f"{spec} names no factory; write {spec}:factory, where factory() returns the model."
    return f"there is no model {spec!r}; MODEL is {_FORMS}."


def _width(found: _Found) -> int:
    kinds = (nn.Linear, nn.Conv2d)
    widths = [module.weight.shape[0] for module in found.module.modules() if isinstance(module, kinds)]
    if not widths:
        raise InputError(
            f"the number of classes of {found.name} cannot be seen from its layers; say how many: classes=10."
        )
    return widths[-1]


def _check_device(device: str) -> None:
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise InputError(f"there is no device called {device!r}; use cpu or cuda.") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise InputError(f"the device {device!r} was asked for, but PyTorch finds no GPU here; use --device cpu.")
