"""Reading the pickled batches of CIFAR-10 without running pickle code.

A pickle is a small program: it may import any function and call it. Here it gets no function at all. The few globals
that such a file needs are answered by inert stand-ins that only note what was asked; every other one is refused before
anything is called, and the array is then made by us, from the bytes, once shape and length agree.
"""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from jaxtyping import Int64, UInt8

from faultlight.errors import InputError

_MOST_BYTES = 2**28  # nine times a batch of 10,000 images
_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMERIC = ("numpy.core.numeric", "numpy._core.numeric")
_ADMITTED = {
    **{(module, "_reconstruct"): "array" for module in _MULTIARRAY},
    **{(module, "_frombuffer"): "frombuffer" for module in _NUMERIC},  # protocol 5, Python 3.14's default
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",
}


@dataclass(frozen=True)
class Batch:
    """One batch: bytes 0 … 255 of shape (n, 3072), channel by channel and row by row, and labels of shape (n,)."""

    values: UInt8[np.ndarray, "n 3072"]
    labels: Int64[np.ndarray, " n"]


def read_batch(path: Path, classes: int) -> Batch:
    """Read a batch as the publisher pickled it (Python 2, byte keys) or as Python 3 pickles it again.

    Args:
        path: the file.
        classes: the number of classes, which every label must be below.

    Returns:
        The images' bytes and their labels.

    Raises:
        InputError: the file asks for a foreign global (nothing was executed), is no pickle, or holds another
            number of values or labels than is due (expected and found are named).
    """
    content = read_pickle(path)
    values, labels = _entry(path, content, "data"), _entry(path, content, "labels")
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.shape[1] != 3072:
        found = f"{values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
        raise InputError(f"'data' of {str(path)!r} has a wrong shape: expected (n, 3072) bytes, found {found}.")
    return Batch(values, _labels(path, labels, len(values), classes))


def read_pickle(path: Path) -> object:
    """Return what a pickle of numbers, texts, containers and arrays of bytes holds; run nothing of it.

    Raises:
        InputError: a foreign global, a damaged file, or one too large for a batch.
    """
    try:
        content = _bytes(path)
        # The Python form of the unpickler, for the one in C grows its memo to whatever index a file names.
        return _Reader(path, content).load()
    except InputError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way the unpickler has
        page = "; it looks like a web page saved by mistake" if content[:64].lstrip().startswith(b"<") else ""
        raise InputError(
            f"{str(path)!r} is no pickled batch ({type(error).__name__}: {error}){page}; fetch it again."
        ) from error


def _bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise InputError(f"{str(path)!r} has {path.stat().st_size:,} bytes, above the cap of {_MOST_BYTES:,}.")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{str(path)!r} could not be read: {error.strerror}; fetch it again.") from error


def _entry(path: Path, content: object, key: str) -> object:
    if not isinstance(content, dict):
        raise InputError(f"{str(path)!r} holds a {type(content).__name__} where a batch is a dict; fetch it again.")
    for spelled in (key.encode(), key):
        if spelled in content:
            found: object = content[spelled]
            return found.value if isinstance(found, _Array) else found
    raise InputError(f"{str(path)!r} has no {key!r}; it holds {sorted(map(str, content))}; fetch it again.")


def _labels(path: Path, labels: object, expected: int, classes: int) -> Int64[np.ndarray, " n"]:
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise InputError(f"'labels' of {str(path)!r} is no list of whole numbers; fetch it again.")
    if len(labels) != expected:
        raise InputError(f"{str(path)!r} holds {expected:,} images but {len(labels):,} labels: expected {expected:,}.")
    wrong = next((label for label in labels if not 0 <= label < classes), None)
    if wrong is not None:
        raise InputError(f"{str(path)!r} holds the label {wrong}: expected 0 … {classes - 1}; fetch it again.")
    return np.array(labels, dtype=np.int64)


class _Reader(pickle._Unpickler):
    def __init__(self, path: Path, content: bytes) -> None:
        super().__init__(io.BytesIO(content), encoding="bytes")
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        role = _ADMITTED.get((module, name))
        if role is None:
            raise InputError(
                f"{str(self._path)!r} asks for the foreign global {f'{module}.{name}'!r}, which a batch of images has "
                "no need of; nothing was executed; fetch the publisher's file with `faultlight data fetch cifar10`."
            )
        return _StandIn(role)

    def persistent_load(self, pid: Any) -> NoReturn:
        raise InputError(f"{str(self._path)!r} asks for the outside object {pid!r}; nothing was executed.")


class _StandIn:
    """Answers for one admitted global; cannot be changed by a pickle, and calls nothing."""

    __slots__ = ("_role",)

    def __init__(self, role: str) -> None:
        self._role = role

    def __call__(self, *arguments: Any) -> object:
        if self._role == "array":
            return _Array()
        if self._role == "dtype":
            return _Dtype(arguments[0])
        if self._role == "frombuffer":
            raw, dtype, shape, order = arguments
            return _Array(_bytes_of(raw, dtype, shape, order == "F"))
        if self._role == "encode" and isinstance(arguments[0], str) and arguments[1:] in (("latin1",), (b"latin1",)):
            return arguments[0].encode("latin-1")
        raise pickle.UnpicklingError(f"a call of {self._role} that no batch makes")

    def __setstate__(self, state: Any) -> NoReturn:
        raise pickle.UnpicklingError("an attempt to change what is read-only")


class _Dtype:
    """Stands for a dtype: only its kind is kept, for bytes have no byte order to restore."""

    __slots__ = ("kind",)

    def __init__(self, kind: object) -> None:
        self.kind = kind

    def __setstate__(self, state: Any) -> None:
        pass


class _Array:
    """Stands for an array; `value` is the array once its state was read."""

    __slots__ = ("value",)

    def __init__(self, value: np.ndarray | None = None) -> None:
        self.value = value

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, by_column, raw = state
        self.value = _bytes_of(raw, dtype, shape, by_column)


def _bytes_of(raw: Any, dtype: Any, shape: Any, by_column: Any) -> np.ndarray:
    if not isinstance(dtype, _Dtype) or dtype.kind not in (b"u1", "u1"):
        kind = dtype.kind if isinstance(dtype, _Dtype) else dtype
        raise pickle.UnpicklingError(f"an array of {kind!r}, expected unsigned bytes")
    return np.frombuffer(raw, dtype=np.uint8).reshape(shape, order="F" if by_column else "C")
