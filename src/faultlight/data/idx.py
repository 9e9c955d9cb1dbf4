"""Reading IDX files, the format of MNIST: a magic number, the sizes, the bytes."""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import zlib
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path

import numpy as np

from faultlight.errors import InputError

_UNSIGNED_BYTE = 0x08
_MOST_BYTES = 2**31  # forty-five times MNIST; a header that asks for more is damaged or hostile


@dataclass(frozen=True)
class IdxFile:
    """The content of one IDX file.

    Args:
        values: the unsigned bytes (uint8), in the shape that the header states.
        md5: MD5 (hex) of the uncompressed file.
    """

    values: np.ndarray
    md5: str


def read_idx(path: Path, dimensions: int) -> IdxFile:
    """Read an IDX file of unsigned bytes, plain or gzip-compressed (told apart by content).

    Never more is decompressed than the header announces and one byte, so a decompression bomb stays harmless.

    Args:
        path: the file.
        dimensions: how many sizes are due: 3 for images (n, h, w), 1 for labels (n).

    Returns:
        The values and the MD5 of the uncompressed content.

    Raises:
        InputError: wrong magic number, wrong length (expected and found are named), a damaged or unreadable file.
    """
    try:
        with open_plain(path) as stream:
            return _read(path, stream, dimensions)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{str(path)!r} could not be read: {error}; fetch it again or point at another copy."
        ) from error


def find_idx(folder: Path, stem: str) -> Path | None:
    """Return the file of this name in a folder: plain or `.gz`, spelled `…-idx3-ubyte` or `….idx3-ubyte`."""
    names = [f"{spelled}{end}" for spelled in (stem, stem.replace("-idx", ".idx")) for end in ("", ".gz")]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def open_plain(path: Path) -> BufferedIOBase:
    """Open a file for reading, decompressing it when its content (not its name) says that it is gzip-compressed."""
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if compressed else path.open("rb")


def _read(path: Path, stream: BufferedIOBase, dimensions: int) -> IdxFile:
    magic = stream.read(4)
    _check_magic(path, magic, bytes((0, 0, _UNSIGNED_BYTE, dimensions)))
    sizes = stream.read(4 * dimensions)
    if len(sizes) != 4 * dimensions:
        raise InputError(f"{str(path)!r} ends within its header ({4 + len(sizes)} bytes); fetch it again.")
    shape = struct.unpack(f">{dimensions}I", sizes)
    due = math.prod(shape)
    if due > _MOST_BYTES:
        raise InputError(f"{str(path)!r} announces {due:,} bytes, above the cap of {_MOST_BYTES:,}; it is damaged.")
    body = stream.read(due + 1)
    _check_length(path, len(body), due, shape)
    digest = hashlib.md5(magic + sizes, usedforsecurity=False)
    digest.update(body)
    return IdxFile(np.frombuffer(body, dtype=np.uint8).reshape(shape), digest.hexdigest())


def _check_magic(path: Path, found: bytes, expected: bytes) -> None:
    if found == expected:
        return
    page = "; it looks like a web page saved by mistake" if found.lstrip().startswith(b"<") else ""
    raise InputError(
        f"{str(path)!r} is no IDX file of unsigned bytes in {expected[3]} dimension(s): "
        f"expected the magic number 0x{expected.hex()}, found 0x{found.hex()}{page}."
    )


def _check_length(path: Path, found: int, expected: int, shape: tuple[int, ...]) -> None:
    if found == expected:
        return
    sizes = " × ".join(map(str, shape))
    count = f"found more than {expected:,}" if found > expected else f"found {found:,}"
    raise InputError(
        f"{str(path)!r} announces {sizes}: expected {expected:,} bytes of values, {count}; fetch it again."
    )
