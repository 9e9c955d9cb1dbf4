"""Archives that others made: unpacked whole, or refused whole with nothing left on the disk."""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from faultlight.data.archive import unpack
from faultlight.errors import InputError

MOST = 10_000


def tar(path: Path, *members: tuple[tarfile.TarInfo, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as opened:  # type: ignore[call-overload]
        for info, content in members:
            info.size = len(content)
            opened.addfile(info, io.BytesIO(content))
    return path


def member(
    name: str, content: bytes = b"x", kind: bytes = tarfile.REGTYPE, link: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info, content if kind == tarfile.REGTYPE else b""


def zipped(path: Path, *members: tuple[str, bytes, int]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content, mode in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            opened.writestr(info, content)
    return path


def listed(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_unpacks_tar(tmp_path: Path, mode: str) -> None:
    members = (member("a", kind=tarfile.DIRTYPE), member("a/one", b"1"), member("b/c/two", b"22"))
    unpack(tar(tmp_path / "archive", *members, mode=mode), tmp_path / "out", most_bytes=MOST)
    assert listed(tmp_path / "out") == {"a/one": b"1", "b/c/two": b"22"}


def test_unpacks_zip(tmp_path: Path) -> None:
    members = (("a/", b"", stat.S_IFDIR | 0o755), ("a/one", b"1", stat.S_IFREG | 0o644), ("two", b"22", 0))
    unpack(zipped(tmp_path / "archive.zip", *members), tmp_path / "out", most_bytes=MOST)
    assert listed(tmp_path / "out") == {"a/one": b"1", "two": b"22"}


UNSAFE_TARS = [
    member("../outside"),
    member("good/../../outside"),
    member("/tmp/outside"),
    member("..\\outside"),
    member("C:\\outside"),
    member("C:outside"),
    member("link", kind=tarfile.SYMTYPE, link="/etc/passwd"),
    member("link", kind=tarfile.SYMTYPE, link="good"),
    member("link", kind=tarfile.LNKTYPE, link="good"),
    member("pipe", kind=tarfile.FIFOTYPE),
    member("device", kind=tarfile.CHRTYPE),
]


def check_refused(tmp_path: Path, archive: Path, message: str, most_files: int = 100) -> None:
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(InputError, match=message):
        unpack(archive, tmp_path / "out", most_bytes=MOST, most_files=most_files)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert not (tmp_path.parent / "outside").exists()
    assert not Path("/tmp/outside").exists()


@pytest.mark.parametrize("unsafe", UNSAFE_TARS, ids=[f"{info.name}-{int(info.type)}" for info, _ in UNSAFE_TARS])
def test_unsafe_tar_is_refused_whole(tmp_path: Path, unsafe: tuple[tarfile.TarInfo, bytes]) -> None:
    archive = tar(tmp_path / "archive", member("good", b"good"), unsafe)
    check_refused(tmp_path, archive, "refused whole, nothing was unpacked")


@pytest.mark.parametrize(
    "unsafe",
    [
        ("../outside", b"x", 0),
        ("/tmp/outside", b"x", 0),
        ("a/..\\..\\outside", b"x", 0),
        ("link", b"/etc/passwd", stat.S_IFLNK | 0o777),
    ],
)
def test_unsafe_zip_is_refused_whole(tmp_path: Path, unsafe: tuple[str, bytes, int]) -> None:
    archive = zipped(tmp_path / "archive.zip", ("good", b"good", 0), unsafe)
    check_refused(tmp_path, archive, "refused whole, nothing was unpacked")


def test_bombs_are_refused(tmp_path: Path) -> None:
    check_refused(tmp_path, tar(tmp_path / "a", member("big", bytes(MOST + 1))), "decompression bomb")
    check_refused(tmp_path, tar(tmp_path / "b", member("one", bytes(MOST)), member("two")), "decompression bomb")
    check_refused(tmp_path, zipped(tmp_path / "c.zip", ("big", bytes(MOST + 1), 0)), "decompression bomb")
    many = [member(f"file-{number}") for number in range(101)]
    check_refused(tmp_path, tar(tmp_path / "d", *many), "more than 100 files")
    check_refused(tmp_path, zipped(tmp_path / "e.zip", *((f"{n}", b"", 0) for n in range(101))), "more than 100 files")


def test_bomb_in_a_tar_files_own_headers_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 2**30
    path = tmp_path / "archive"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(info.tobuf())
        file.write(bytes(2**22))
    check_refused(tmp_path, path, "decompression bomb")


@pytest.mark.parametrize(
    "damage", [lambda content: content[:-20], lambda content: content[:60], lambda _: b"<html>" * 200]
)
def test_damaged_archives_are_refused(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tar(tmp_path / "archive", member("one", bytes(range(256)) * 8), member("two"))
    path.write_bytes(damage(path.read_bytes()))
    check_refused(tmp_path, path, "could not be unpacked")


def test_the_same_path_twice_is_refused(tmp_path: Path) -> None:
    check_refused(tmp_path, tar(tmp_path / "archive", member("one"), member("one")), "could not be unpacked")


def test_an_existing_folder_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_bytes(b"mine")
    check_refused(tmp_path, tar(tmp_path / "archive", member("one")), "could not be unpacked")
    assert listed(tmp_path / "out") == {"mine": b"mine"}
