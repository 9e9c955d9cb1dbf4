"""Weights from a file into a network: safetensors and plain state dicts, told apart by content."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from faultlight.errors import InputError
from faultlight.models._checkpoint import LEGACY_START, ZIP_START, read_checkpoint
from faultlight.models._safetensors import read_safetensors
from faultlight.models.subject import Normalised

State = dict[str, Tensor]

# Where training scripts keep the state dict inside a checkpoint, and what wrappers put before every key.
_NESTS = ("state_dict", "model_state_dict", "model", "net")
_PREFIXES = ("module.", "_orig_mod.")


def load_weights(module: nn.Module, path: Path) -> None:
    """Read weights and put them into a network.

    Args:
        module: the network; a `Normalised` one also takes the weights of the network inside it.
        path: a safetensors file or a state dict by `torch.save`, in its present or its older form.

    Raises:
        InputError: the file cannot be read (see `read_weights`) or does not fit (see `fit_weights`).
    """
    fit_weights(module, read_weights(path), path)


def read_weights(path: Path) -> State:
    """Return the tensors of a weights file by name, on the CPU, and never run code from it.

    A state dict under the key "state_dict", "model_state_dict", "model" or "net" of a checkpoint is found, and
    "module." (data parallel) or "_orig_mod." (compiled) before every key is dropped.

    Raises:
        InputError: the file is absent, truncated, too long, damaged, needs pickle code, or is another thing under this
            name (an HTML page, a git-LFS pointer).
    """
    content = _content(path)
    _refuse_impostors(path, content)
    if content.startswith((ZIP_START, LEGACY_START)):
        state = _plain(path, read_checkpoint(path, content))
    elif content[8:9] == b"{" or path.suffix == ".safetensors":
        state = read_safetensors(path, content)
    elif content.startswith(b"\x80"):
        state = _plain(path, read_checkpoint(path, content))
    else:
        raise InputError(f"{path} is neither safetensors nor a file of torch.save: it starts with {content[:12]!r}.")
    return _without_prefix(state)


def fit_weights(module: nn.Module, state: State, path: Path) -> None:
    """Put weights into a network, every one of them.

    Args:
        module: the network; changed only when everything fits.
        state: tensors by name.
        path: the file they came from, for messages.

    Raises:
        InputError: names or shapes differ (the message names the first leaf that does, and counts the rest), or a
            number is NaN or infinite.
    """
    target = module.model if isinstance(module, Normalised) and not _is_wrapped(state) else module
    expected = {name: value for name, value in target.state_dict().items() if isinstance(value, Tensor)}
    _check_fit(path, state, expected)
    _check_numbers(path, state)
    target.load_state_dict(state, strict=False)  # names were checked; a missing num_batches_tracked is no fault


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"the weights file {path} is not there; check its path.") from None
    except OSError as error:
        raise InputError(f"the weights file {path} cannot be read: {error.strerror}.") from error


def _refuse_impostors(path: Path, content: bytes) -> None:
    if not content:
        raise InputError(f"{path} is empty; fetch it again.")
    if content.startswith(b"version https://git-lfs"):
        raise InputError(f"{path} is a git-LFS pointer, not the weights; run `git lfs pull` where it came from.")
    if content[:200].removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<"):
        raise InputError(f"{path} is an HTML page saved as weights; download the file itself, not the page about it.")


def _plain(path: Path, loaded: Any) -> State:
    if not isinstance(loaded, Mapping):
        raise InputError(f"{path} holds a {type(loaded).__name__}, not a state dict; save model.state_dict().")
    for nest in _NESTS:
        if isinstance(loaded.get(nest), Mapping):
            return _plain(path, loaded[nest])
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise InputError(
                f"{path} holds a {type(value).__name__} under {name!r} where a state dict has tensors only."
            )
    if not loaded:
        raise InputError(f"{path} holds no tensors; save model.state_dict().")
    return dict(loaded)


def _without_prefix(state: State) -> State:
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state):
            return _without_prefix({name.removeprefix(prefix): value for name, value in state.items()})
    return state


def _check_numbers(path: Path, state: State) -> None:
    for name, value in state.items():
        if value.layout != torch.strided or value.is_quantized:
            raise InputError(f"{path}: the tensor {name!r} is sparse or quantised; save the weights as float32.")
        bad = int((~torch.isfinite(value)).sum()) if value.is_floating_point() else 0
        if bad:
            raise InputError(
                f"{path}: {bad} of the {value.numel()} numbers of {name!r} are NaN or infinite; train it anew."
            )


def _is_wrapped(state: State) -> bool:
    return all(name.startswith("model.") or name in ("mean", "std") for name in state)


def _check_fit(path: Path, state: State, expected: State) -> None:
    missing = [name for name in expected if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in expected]
    clashes = [_clash(name, value, state[name]) for name, value in expected.items() if name in state]
    faults = [clash for clash in clashes if clash]
    faults += [f"{name!r} of shape {_shape(expected[name])} is missing" for name in missing]
    faults += [f"{name!r} of shape {_shape(state[name])} has no place in it" for name in unexpected]
    if faults:
        raise InputError(
            f"{path} does not fit the model: {faults[0]} ({len(missing)} keys missing, {len(unexpected)} unexpected, "
            f"{len(expected)} due); give the weights of this very architecture."
        )


def _clash(name: str, due: Tensor, found: Tensor) -> str:
    if due.shape != found.shape:
        return f"{name!r} has shape {_shape(found)} where {_shape(due)} is due"
    if due.is_floating_point() != found.is_floating_point():
        return f"{name!r} has type {found.dtype} where {due.dtype} is due"
    return ""


def _shape(value: Tensor) -> str:
    return str(tuple(value.shape))
