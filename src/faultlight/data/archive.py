"""Unpacking archives that others made: whole or not at all."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO, cast

from faultlight.errors import InputError

_CHUNK = 2**20
_HEADERS = 2**20  # room for a tar file's own headers, beside the files it holds
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, OSError, RuntimeError)


@dataclass(frozen=True)
class _Member:
    name: str
    kind: str  # "file", "folder", or what else it is
    content: BufferedIOBase | None


def unpack(archive: Path, destination: Path, *, most_bytes: int, most_files: int = 100_000) -> None:
    """Unpack a `.tar` (plain, gzip, bzip2, xz) or `.zip` into a new folder, which appears when it is complete.

    Args:
        archive: the archive.
        destination: the folder to make; must not exist.
        most_bytes: how many bytes the files may have together.
        most_files: how many files and folders there may be.

    Raises:
        InputError: the archive is damaged, exceeds a cap (a decompression bomb), or holds an absolute path, a path
            with "..", a link or a device. It is then refused whole: nothing of it stays on the disk.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", dir=destination.parent))
    try:
        _extract(archive, partial, most_bytes, most_files)
        partial.chmod(0o755)
        partial.rename(destination)
    except _DAMAGED as error:
        raise InputError(f"{str(archive)!r} could not be unpacked ({error}); fetch it again.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _extract(archive: Path, folder: Path, most_bytes: int, most_files: int) -> None:
    left = most_bytes
    for count, member in enumerate(_members(archive, most_bytes), start=1):
        _refuse_unsafe(archive, member)
        if count > most_files:
            raise InputError(f"{str(archive)!r} holds more than {most_files:,} files; it was refused whole.")
        target = folder / member.name
        if member.content is None:
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        left -= _copy(member.content, target, left, archive)


def _copy(content: BufferedIOBase, target: Path, most: int, archive: Path) -> int:
    written = 0
    with target.open("xb") as file:
        while chunk := content.read(_CHUNK):
            written += len(chunk)
            if written > most:
                raise _bomb(archive)
            file.write(chunk)
    return written


def _refuse_unsafe(archive: Path, member: _Member) -> None:
    name = member.name
    parts = name.replace("\\", "/").split("/")
    absolute = PurePosixPath(name).is_absolute() or bool(PureWindowsPath(name).anchor)
    if member.kind not in ("file", "folder"):
        reason = f"{member.kind} {name!r}"
    elif absolute:
        reason = f"the absolute path {name!r}"
    elif ".." in parts or "\0" in name:
        reason = f"the path {name!r}, which leaves its folder"
    else:
        return
    raise InputError(f"{str(archive)!r} holds {reason}; it was refused whole, nothing was unpacked.")


def _members(archive: Path, most_bytes: int) -> Iterator[_Member]:
    with archive.open("rb") as file:
        start = file.read(6)
    return _zip_members(archive) if start.startswith(b"PK") else _tar_members(archive, start, most_bytes)


def _zip_members(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            mode = stat.S_IFMT(info.external_attr >> 16)
            kind = "file" if mode in (0, stat.S_IFREG) else "folder" if mode == stat.S_IFDIR else "the link or device"
            if info.is_dir() or kind != "file":
                yield _Member(info.filename, "folder" if kind == "file" else kind, None)
            else:
                with opened.open(info) as content:
                    yield _Member(info.filename, kind, cast(BufferedIOBase, content))


def _tar_members(archive: Path, start: bytes, most_bytes: int) -> Iterator[_Member]:
    with _decompressed(archive, start) as stream:
        capped = cast(BinaryIO, _Capped(stream, most_bytes + _HEADERS, archive))
        with tarfile.open(fileobj=capped, mode="r|") as opened:
            for info in opened:
                kind = "file" if info.isreg() else "folder" if info.isdir() else "the link or device"
                content = opened.extractfile(info) if info.isreg() else None
                yield _Member(info.name, kind, cast(BufferedIOBase | None, content))


def _decompressed(archive: Path, start: bytes) -> BufferedIOBase:
    if start.startswith(b"\x1f\x8b"):
        return gzip.open(archive)
    if start.startswith(b"BZh"):
        return bz2.open(archive)
    if start.startswith(b"\xfd7zXZ"):
        return lzma.open(archive)
    return archive.open("rb")


class _Capped:
    """A stream that refuses to give more than its cap: tarfile reads whole headers, which can be bombs too."""

    def __init__(self, stream: BufferedIOBase, most: int, archive: Path) -> None:
        self._stream, self._left, self._archive = stream, most, archive

    def read(self, size: int) -> bytes:
        if size > self._left:
            size = self._left + 1
        content = self._stream.read(size)
        self._left -= len(content)
        if self._left < 0:
            raise _bomb(self._archive)
        return content


def _bomb(archive: Path) -> InputError:
    return InputError(
        f"{str(archive)!r} unpacks to more than its cap allows (a decompression bomb); it was refused whole."
    )
