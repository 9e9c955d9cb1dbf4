"""One run a folder, released by the kernel whatever becomes of it; and memory that is kept only where it can be."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from faultlight import runtime
from faultlight.errors import InputError
from faultlight.runtime import keep_allocator, lock

HOLD = """
import sys, time
from pathlib import Path
from faultlight.runtime import lock
with lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""
MAPPED = """
import ctypes, sys
from faultlight.runtime import keep_allocator
if sys.argv[1] == "keep":
    assert keep_allocator()
library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
address = library.malloc(256 * 2**20)
heap = next(line.split()[0] for line in open("/proc/self/maps") if "[heap]" in line)
low, high = (int(end, 16) for end in heap.split("-"))
print("heap" if low <= address < high else "map")
"""


@contextmanager
def another_process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_the_folder_is_made_and_can_be_locked_again(run_folder: Path) -> None:
    with lock(run_folder):
        assert (run_folder / ".lock").read_text() == f"{os.getpid()}\n"
    with lock(run_folder):
        pass


def test_a_second_process_is_refused_and_told_who_holds_it(run_folder: Path) -> None:
    with another_process(run_folder) as process:
        with pytest.raises(InputError, match="another run is using this folder") as caught, lock(run_folder):
            pytest.fail("the lock was given twice")
        assert str(run_folder) in str(caught.value)
        assert f"process {process.pid}" in str(caught.value)


def test_the_same_process_is_refused_too(run_folder: Path) -> None:
    with lock(run_folder), pytest.raises(InputError, match="another run"), lock(run_folder):
        pytest.fail("the lock was given twice")


def test_a_refusal_takes_nothing_from_the_holder(run_folder: Path) -> None:
    with another_process(run_folder):
        for _ in range(2):
            with pytest.raises(InputError, match="another run"), lock(run_folder):
                pytest.fail("the lock was given twice")


def test_kill_9_releases_the_lock(run_folder: Path) -> None:
    with another_process(run_folder) as process:
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert (run_folder / ".lock").exists()
        with lock(run_folder):
            assert (run_folder / ".lock").read_text() == f"{os.getpid()}\n"


def test_an_error_inside_releases_the_lock(run_folder: Path) -> None:
    with pytest.raises(KeyError), lock(run_folder):
        raise KeyError
    with lock(run_folder):
        pass


def test_two_folders_do_not_disturb_each_other(tmp_path: Path) -> None:
    with lock(tmp_path / "a"), lock(tmp_path / "b"):
        pass


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot hold a run: .*--out"), lock(tmp_path / "file" / "run"):
        pytest.fail("a folder inside a file")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's own")
@pytest.mark.parametrize(("setting", "place"), [("keep", "heap"), ("leave", "map")])
def test_a_large_block_comes_from_the_heap_once_memory_is_kept(setting: str, place: str) -> None:
    done = subprocess.run([sys.executable, "-c", MAPPED, setting], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == place


def test_elsewhere_than_on_glibc_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime.sys, "platform", "darwin")
    assert keep_allocator() is False


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux which C library it runs on")
@pytest.mark.parametrize("answer", [None, "musl 1.2.5"])
def test_on_another_c_library_nothing_happens(monkeypatch: pytest.MonkeyPatch, answer: str | None) -> None:
    monkeypatch.setattr(runtime.os, "confstr", lambda name: answer)
    assert keep_allocator() is False
