"""Files are written whole or not at all, and what cannot be written or read is said in a sentence."""

from __future__ import annotations

import errno
import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from faultlight.errors import InputError
from faultlight.files import read_json, sha256, write_bytes, write_json, write_text


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    record = {"name": "貓", "value": 0.1, "nothing": None, "rows": [1, 2]}
    path = tmp_path / "made" / "on the way" / "record.json"
    write_json(path, record)
    assert read_json(path) == record
    assert path.read_bytes().endswith(b"\n")
    assert "貓" in path.read_text(encoding="utf-8")


def test_nothing_is_left_beside_the_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "one")
    write_text(tmp_path / "a.txt", "two")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "two"


def test_a_replace_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "verdict.json"
    write_text(path, "old")

    def refuse(self: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(InputError, match=r"verdict\.json could not be written: No space left on device"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["verdict.json"]


def test_a_disk_that_fills_up_midway_leaves_the_old_file(tmp_path: Path) -> None:
    """The kernel itself refuses here: a limit of 1000 bytes a file stands for a disk with that much room."""
    path = tmp_path / "verdict.json"
    write_bytes(path, b"old")
    program = """
import resource, sys
from pathlib import Path
from faultlight.errors import InputError
from faultlight.files import write_bytes
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_bytes(Path(sys.argv[1]), b"x" * 100_000)
except InputError as error:
    sys.exit(f"refused: {error}")
"""
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=False)
    assert done.stderr.startswith(f"refused: {path} could not be written: File too large")
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["verdict.json"]


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "old")
    with pytest.raises(InputError, match="could not be written"):
        write_text(tmp_path / "file" / "verdict.json", "new")
    assert (tmp_path / "file").read_text() == "old"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_record_with_no_number_in_it_is_refused(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "record.json", {"value": value})
    assert list(tmp_path.iterdir()) == []


def test_a_record_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.json is not there; was the run finished\?"):
        read_json(tmp_path / "absent.json")


@pytest.mark.parametrize("content", [b"", b'{"half": ', b"<html>", b"\xff\xfe\x00"])
def test_a_record_that_is_not_json(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"record\.json is not valid JSON .*--resume"):
        read_json(path)


@pytest.mark.parametrize("size", [0, 3, 1_000_003])
def test_sha256_is_the_hash_of_the_whole_file(tmp_path: Path, size: int) -> None:
    content = b"a" * size
    (tmp_path / "x").write_bytes(content)
    assert sha256(tmp_path / "x") == hashlib.sha256(content).hexdigest()


def test_sha256_of_a_known_text(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
