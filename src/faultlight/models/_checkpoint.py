"""Reading what `torch.save` wrote, as a zip archive or in the older form, without ever running pickle code."""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from faultlight.errors import InputError

ZIP_START = b"PK\x03\x04"
# torch.save's magic number, pickled: how every file of the older form begins.
LEGACY_START = pickle.dumps(torch.serialization.MAGIC_NUMBER, protocol=2)
_ZIP_END = b"PK\x05\x06"
_ZIP_END_BYTES = 22
_LEGACY_PICKLES = 5

Operations = list[tuple[str, Any]]

# The names that a file of tensors and containers needs; torch rebuilds these itself.
_TENSOR_PART = re.compile(
    r"collections\.OrderedDict|torch\.Size|torch\.device|torch\.\w*Storage|torch\._utils\._rebuild_\w+"
    r"|torch\.(float|bfloat|int|uint|complex|bool)\w*|torch\.serialization\._get_layout"
)


def read_checkpoint(path: Path, content: bytes) -> Any:
    """Return what a file of `torch.save` holds, its tensors on the CPU wherever they were saved.

    Args:
        path: the file's name, for messages.
        content: all of its bytes.

    Raises:
        InputError: the file is damaged, is longer than it says, or needs pickle code; nothing of it was run.
    """
    if content.startswith(ZIP_START):
        _check_archive(path, content)
    stream = io.BytesIO(content)
    loaded = _load(path, content, stream)
    extra = len(content) - stream.tell()
    if extra and not content.startswith(ZIP_START):
        raise InputError(
            f"{path} has {extra} trailing bytes after its last tensor; fetch it again from a source you trust."
        )
    return loaded


def _load(path: Path, content: bytes, stream: io.BytesIO) -> Any:
    try:
        return torch.load(stream, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file makes the parser fail in any way at all
        names = foreign_globals(content)
        if names:
            raise InputError(_needs_code(path, names)) from error
        if isinstance(error, EOFError) or "unexpected EOF" in str(error):
            raise InputError(f"{path} is truncated: it ends inside its tensors; fetch it again.") from error
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{path} is damaged or was not written by torch.save ({reason[:200]}); fetch it again."
        ) from error


def _needs_code(path: Path, names: list[str]) -> str:
    shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    return (
        f"{path} needs pickle code that could do anything, so it was not read: {shown}; where it was written, save the "
        "tensors alone by torch.save(model.state_dict(), 'weights.pt') or as safetensors, and load that."
    )


def foreign_globals(content: bytes) -> list[str]:
    """Return the names that reading a file would import beyond those of plain tensors, sorted; nothing is imported."""
    names = {name for pickled in _pickles(content) for name in _globals(pickled)}
    return sorted(name for name in names if not _TENSOR_PART.fullmatch(name))


def _pickles(content: bytes) -> Iterator[Operations]:
    stream = io.BytesIO(_pickle_of_archive(content) if content.startswith(ZIP_START) else content)
    for _ in range(_LEGACY_PICKLES):
        yield list(_operations(stream))


def _operations(stream: io.BytesIO) -> Iterator[tuple[str, Any]]:
    try:
        for operation, argument, _ in pickletools.genops(stream):
            yield operation.name, argument
    except Exception:  # past the last pickle come the tensors' bytes, which parse as anything
        return


def _pickle_of_archive(content: bytes) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return b"".join(archive.read(name) for name in archive.namelist() if name.endswith("/data.pkl"))
    except (zipfile.BadZipFile, KeyError, ValueError, NotImplementedError):
        return b""


def _globals(operations: Operations) -> Iterator[str]:
    memo: dict[int, str] = {}
    strings: list[str] = []  # STACK_GLOBAL takes the last two strings pushed
    for name, argument in operations:
        if name in ("GLOBAL", "INST"):
            yield str(argument).replace(" ", ".")
        elif name == "STACK_GLOBAL":
            yield ".".join(strings[-2:])
        elif name in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
            memo[len(memo) if argument is None else int(argument)] = strings[-1] if strings else ""
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            strings.append(memo.get(int(argument), ""))
        elif isinstance(argument, str):
            strings.append(argument)


def _check_archive(path: Path, content: bytes) -> None:
    end = content.rfind(_ZIP_END)
    if end < 0 or len(content) < end + _ZIP_END_BYTES:
        raise InputError(f"{path} is truncated: the end of its zip archive is missing; fetch it again.")
    comment = int.from_bytes(content[end + 20 : end + _ZIP_END_BYTES], "little")
    extra = len(content) - end - _ZIP_END_BYTES - comment
    if extra:
        raise InputError(f"{path} is not one whole zip archive: {extra:+d} bytes at its end; fetch it again.")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            _check_members(path, archive.infolist(), len(content))
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise InputError(f"{path} is a damaged zip archive ({error}); fetch it again.") from error


def _check_members(path: Path, members: list[zipfile.ZipInfo], size: int) -> None:
    names = [member.filename for member in members]
    if any(name.endswith("/constants.pkl") for name in names):
        raise InputError(
            f"{path} is a TorchScript program, which runs code; save the tensors alone: model.state_dict()."
        )
    if any(name.endswith("/models/model.json") for name in names):
        raise InputError(f"{path} is an exported program, not weights; give it as the model itself, with --trust.")
    if not any(name.endswith("/data.pkl") for name in names):
        raise InputError(f"{path} is a zip archive that torch.save did not write; give safetensors or a state dict.")
    if sum(member.file_size for member in members) > size:
        raise InputError(
            f"{path} would unpack to more than its own size, which torch.save never writes; fetch it again."
        )
