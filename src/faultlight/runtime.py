"""What the process asks of the machine: an allocator that keeps large blocks, and one run a folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from faultlight.errors import InputError

# The parameters of glibc's mallopt(3), from <malloc.h>.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_TOP_PAD_BYTES = 64 * 2**20


def keep_allocator() -> bool:
    """Ask glibc to keep freed memory instead of handing every large block back to the kernel.

    By default a tensor above 32 MiB is mapped anew at each step of a loop, and the kernel must clear every page of
    it again. With no maps (`M_MMAP_MAX` = 0), no trimming (`M_TRIM_THRESHOLD` = −1) and growth by 64 MiB
    (`M_TOP_PAD`) the same pages are used again. The price: memory is only returned when the process ends.

    Returns:
        Whether the setting was taken; False, with nothing changed, wherever the C library is not glibc.
    """
    if not _is_glibc():
        return False
    import ctypes  # costs the help page milliseconds

    library = ctypes.CDLL(None)
    wanted = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: -1, _M_TOP_PAD: _TOP_PAD_BYTES}
    return all(library.mallopt(parameter, value) == 1 for parameter, value in wanted.items())


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold `folder/.lock` for the length of a run; the folder is made when absent.

    The kernel releases the lock when the process ends in whatever way, `kill -9` included, so a left-over file
    never blocks a resumed run. The file itself stays: deleting it would let two later runs lock two different files.

    Raises:
        InputError: another run holds the folder, or the folder cannot be written.
    """
    handle = _open_lock(folder)
    try:
        _take(handle, folder)
        yield
    finally:
        os.close(handle)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out; on a CPU torch has no error of its own for it."""
    text = str(error).lower()
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or "not enough memory" in text or "can't allocate memory" in text


def _is_glibc() -> bool:
    if sys.platform != "linux":
        return False
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (ValueError, OSError):
        return False


def _open_lock(folder: Path) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise InputError(f"{folder} cannot hold a run: {error.strerror}; choose another folder with --out.") from error


def _take(handle: int, folder: Path) -> None:
    import fcntl  # absent on Windows, where importing this module must still work

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(handle, 20).decode(errors="replace").strip()
        raise InputError(
            f"another run is using this folder: {folder} (process {holder or 'unknown'}); "
            "wait until it ends, or choose another folder with --out."
        ) from None
    except OSError as error:
        raise InputError(f"{folder} cannot be locked: {error.strerror}; choose a folder on a local disk.") from error
    os.ftruncate(handle, 0)
    os.write(handle, f"{os.getpid()}\n".encode())
