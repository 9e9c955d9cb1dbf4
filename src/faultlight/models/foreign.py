"""Models from elsewhere: a factory in a Python file or package, or an exported program. All of them run code."""

from __future__ import annotations

import copy
import hashlib
import importlib
import importlib.util
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from faultlight.errors import InputError, nearest


def from_factory(spec: str, trust: bool) -> nn.Module:
    """Return the model that a factory makes.

    Args:
        spec: "path/to/file.py:factory" or "package.module:factory"; the factory takes no arguments and returns an
            `nn.Module`, or is one itself. The file's folder, or the current one for a package, may be imported from.
        trust: whether the user allowed this code to run.

    Raises:
        InputError: not trusted, no such file, package or factory, an error inside it (with its line), or a result
            that is no module.
    """
    source, _, name = spec.rpartition(":")
    _require_trust(spec, trust)
    with _importable(Path(source).parent if source.endswith(".py") else Path.cwd()):
        home = _guarded(spec, lambda: _load_file(Path(source)) if source.endswith(".py") else _load_package(source))
        made = _guarded(spec, lambda: _make(_attribute(home, name, spec)))
    return _checked(made, spec)


def from_exported(path: Path, trust: bool) -> nn.Module:
    """Return the program of a `.pt2` file by `torch.export.save`.

    Args:
        path: the file.
        trust: whether the user allowed its code to run.

    Raises:
        InputError: not trusted, or the file is absent or no exported program.
    """
    _require_trust(str(path), trust)
    if not path.is_file():
        raise InputError(f"the exported program {path} is not there; check its path.")
    return Exported(_guarded(str(path), lambda: torch.export.load(path).module()))


class Exported(nn.Module):
    """An exported program as a module whose mode cannot change: it was fixed when the program was exported."""

    def __init__(self, program: nn.Module):
        super().__init__()
        self.program = program
        for child in self.modules():
            child.training = False

    def train(self, mode: bool = True) -> Exported:  # noqa: ARG002  # the name is PyTorch's
        """Do nothing: the program itself refuses to change its mode."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Exported:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PyTorch's own copying uses what it has deprecated
            return Exported(copy.deepcopy(self.program, memo))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map pixels to logits."""
        logits: torch.Tensor = self.program(x)
        return logits


def _require_trust(spec: str, trust: bool) -> None:
    if not trust:
        raise InputError(f"loading {spec} runs the code in it; if you trust that code, allow it with --trust.")


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        if entry in sys.path:
            sys.path.remove(entry)


def _guarded(spec: str, action: Callable[[], Any]) -> Any:
    """Run the user's code; an error in it is one sentence with the line where it arose."""
    try:
        return action()
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(
            f"{spec} could not be loaded: {reason[:300]} (line {frame.lineno} of {frame.filename}); correct it first."
        ) from error


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(f"the model file {path} is not there; write MODEL as path/to/file.py:factory.")
    # Classes look up their own module by name, so it must be registered, and under a name that is nobody else's.
    name = f"_faultlight_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    plan = importlib.util.spec_from_file_location(name, path)
    if plan is None or plan.loader is None:
        raise InputError(f"the model file {path} is not Python; write MODEL as path/to/file.py:factory.")
    module = importlib.util.module_from_spec(plan)
    sys.modules[name] = module
    plan.loader.exec_module(module)
    return module


def _load_package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the package is there; something that it imports is not
        raise InputError(
            f"there is no Python package {name!r} here; install it, or write MODEL as path/to/file.py:factory."
        ) from None


def _attribute(home: ModuleType, name: str, spec: str) -> Any:
    if not hasattr(home, name):
        known = [key for key, value in vars(home).items() if callable(value) and not key.startswith("_")]
        raise InputError(f"{spec} names no factory: there is no {name!r} in it; {nearest(name, known)}.")
    return getattr(home, name)


def _make(factory: Any) -> Any:
    return factory if isinstance(factory, nn.Module) or not callable(factory) else factory()


def _checked(made: Any, spec: str) -> nn.Module:
    if not isinstance(made, nn.Module):
        raise InputError(
            f"{spec} gives a {type(made).__name__} where a torch.nn.Module is due; return the model itself."
        )
    for name, value in made.named_parameters():
        if isinstance(value, nn.parameter.UninitializedParameter):
            raise InputError(f"{spec} gives a model whose {name!r} has no shape yet; run it once inside the factory.")
    return made
