"""Reading arrays out of a NumPy `.npz` that others made: no pickles, no bombs."""

from __future__ import annotations

import math
import zipfile
import zlib
from io import BufferedIOBase
from pathlib import Path
from typing import cast

import numpy as np

from faultlight.data.arrays import MOST_BYTES
from faultlight.errors import InputError

_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError, ValueError)


def names_in(path: Path) -> set[str]:
    """Return the names of the arrays in an archive.

    Raises:
        InputError: it is no zip archive, or its arrays would take more than 8 GiB.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except _DAMAGED as error:
        raise InputError(f"{str(path)!r} is no .npz archive ({error}); save it again with numpy.savez.") from error
    size = sum(member.file_size for member in members)
    if size > MOST_BYTES:
        raise InputError(
            f"{str(path)!r} unpacks to {size:,} bytes, above the cap of {MOST_BYTES:,}; save fewer images."
        )
    return {member.filename.removesuffix(".npy") for member in members if member.filename.endswith(".npy")}


def read_array(path: Path, name: str) -> np.ndarray:
    """Return one array of an archive, read-only.

    Raises:
        InputError: it holds Python objects, which only a pickle could restore, or is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as stream:
            return _read(path, name, cast(BufferedIOBase, stream), archive.getinfo(f"{name}.npy").file_size)
    except InputError:
        raise
    except _DAMAGED as error:
        raise InputError(f"{name!r} of {str(path)!r} is damaged ({error}); save it again with numpy.savez.") from error


def _read(path: Path, name: str, stream: BufferedIOBase, size: int) -> np.ndarray:
    shape, by_column, dtype = _header(stream)
    if dtype.hasobject:
        raise InputError(
            f"{name!r} of {str(path)!r} holds Python objects, which only running a pickle could restore; "
            "save numbers of one type and one shape."
        )
    due, left = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if due != left:
        raise InputError(
            f"{name!r} of {str(path)!r} has shape {shape} of {dtype}: expected {due:,} bytes, found {left:,}."
        )
    return np.frombuffer(stream.read(), dtype).reshape(shape, order="F" if by_column else "C")


def _header(stream: BufferedIOBase) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(stream)
    raise ValueError(f"version {version} of the .npy format")
