"""Reading safetensors whole: the header, then exactly the bytes it promises."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor

from faultlight.errors import InputError

_PREFIX_BYTES = 8
# The format's own limit; no network needs a longer list of names and shapes.
_LONGEST_HEADER = 100_000_000


def read_safetensors(path: Path, content: bytes) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file.

    Args:
        path: the file's name, for messages.
        content: all of its bytes.

    Raises:
        InputError: the file is shorter or longer than its header says, or the header is too long or no header.
    """
    header = _header(path, content)
    due = content_size(content) + max((int(entry["data_offsets"][1]) for entry in header), default=0)
    if len(content) < due:
        raise InputError(f"{path} is truncated: {len(content)} bytes where its header promises {due}; fetch it again.")
    if len(content) > due:
        extra = len(content) - due
        raise InputError(
            f"{path} has {extra} trailing bytes after its last tensor; fetch it again from a source you trust."
        )
    try:
        return safetensors.load(content)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise InputError(f"{path} is a damaged safetensors file ({error}); fetch it again.") from error


def content_size(content: bytes) -> int:
    """Return how many bytes come before the first tensor, as the file's first eight bytes say."""
    return _PREFIX_BYTES + int.from_bytes(content[:_PREFIX_BYTES], "little")


def _header(path: Path, content: bytes) -> list[dict[str, Any]]:
    if len(content) < _PREFIX_BYTES:
        raise InputError(f"{path} is truncated: {len(content)} bytes are no safetensors file; fetch it again.")
    length = content_size(content) - _PREFIX_BYTES
    if length > _LONGEST_HEADER:
        raise InputError(
            f"{path} claims a header of {length} bytes, above the limit of {_LONGEST_HEADER}; fetch it again."
        )
    if length > len(content) - _PREFIX_BYTES:
        raise InputError(
            f"{path} is truncated: {len(content)} bytes where its header alone claims {length}; fetch it again."
        )
    try:
        header = json.loads(content[_PREFIX_BYTES : _PREFIX_BYTES + length])
        entries = [entry for name, entry in header.items() if name != "__metadata__"]
        return [entry for entry in entries if int(entry["data_offsets"][1]) >= 0]
    except (ValueError, TypeError, AttributeError, KeyError, IndexError, RecursionError) as error:
        raise InputError(f"{path} has a header that is not safetensors' ({error}); fetch it again.") from error
