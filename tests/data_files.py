"""Small data files, built byte by byte, that several tests of the data layer share."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np


def idx_bytes(values: np.ndarray) -> bytes:
    """An IDX file: two zero bytes, type 8, the number of sizes, the sizes (big-endian), the values."""
    sizes = struct.pack(f">{values.ndim}I", *values.shape)
    return bytes((0, 0, 8, values.ndim)) + sizes + values.astype(np.uint8).tobytes()


def digits_like(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """n grey images of 4×5 pixels and their labels 0 … 9, repeating."""
    pixels = np.random.default_rng(seed).integers(0, 256, (n, 4, 5), dtype=np.uint8)
    return pixels, np.arange(n, dtype=np.uint8) % 10


def write_idx_folder(folder: Path, train: int = 24, test: int = 12) -> Path:
    """The four files of a set in MNIST's format, the test images compressed."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, n, seed in (("train", train, 1), ("t10k", test, 2)):
        pixels, labels = digits_like(n, seed)
        content = idx_bytes(pixels)
        if part == "t10k":
            (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(content))
        else:
            (folder / f"{part}-images-idx3-ubyte").write_bytes(content)
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    return folder


def batch_bytes(values: np.ndarray, labels: list[int]) -> bytes:
    """A CIFAR-10 batch as Python 2 pickled it: byte keys, `numpy.core` globals, protocol 2."""
    rows, columns = (struct.pack("<i", size) for size in values.shape)
    raw = values.tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"  # _reconstruct(ndarray, (0,), "b")
        b"(K\x01(J" + rows + b"J" + columns + b"t"  # state: version, shape
        b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89T" + struct.pack("<i", len(raw)) + raw + b"tb"  # not by column, the bytes
    )
    whole = b"".join(b"J" + struct.pack("<i", label) for label in labels)
    return b"\x80\x02}(U\x04data" + array + b"U\x06labels](" + whole + b"eu."


def png_bytes(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG file from the bytes of its rows, each of which begins with its filter byte."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
