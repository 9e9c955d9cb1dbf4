"""Downloads: checked, whole or not at all, and clear about what to do when there is no network."""

from __future__ import annotations

import functools
import hashlib
import io
import socket
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from data_files import write_idx_folder
from faultlight.data.fetch import fetch
from faultlight.data.formats.cifar10 import CIFAR10
from faultlight.data.formats.mnist import MNIST, Mnist
from faultlight.data.load import load_data
from faultlight.data.places import cache_folder, fetch_copy, find_copy
from faultlight.data.source import Download, Published, Request
from faultlight.errors import InputError


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder; counts what it was asked for."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


class Server:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        handler = type("Handler", (Quiet,), {"asked": self.asked})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(folder)))
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    (tmp_path / "served").mkdir()
    running = Server(tmp_path / "served")
    yield running
    running.close()


@pytest.fixture(autouse=True)
def empty_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No data folder, no mirror, and a cache of its own for the test."""
    monkeypatch.delenv("FAULTLIGHT_DATA", raising=False)
    monkeypatch.delenv("FAULTLIGHT_MIRROR", raising=False)
    cache = tmp_path / "cache"
    monkeypatch.setattr("faultlight.data.places.cache_folder", lambda: cache)
    return cache


def download(path: Path, *addresses: str) -> Download:
    content = path.read_bytes()
    return Download(path.name, addresses, hashlib.md5(content).hexdigest(), len(content))


@pytest.fixture
def small(server: Server) -> Mnist:
    """A small set in MNIST's format, published by the test's own server."""
    files = sorted(write_idx_folder(server.folder).iterdir())
    md5 = tuple((name, digest) for name, digest in _uncompressed(server.folder))
    downloads = tuple(download(path, server.address) for path in files)
    return Mnist(held_out=4, published=replace(MNIST, downloads=downloads, md5=md5))


def _uncompressed(folder: Path) -> Iterator[tuple[str, str]]:
    import gzip

    for path in folder.iterdir():
        content = path.read_bytes()
        plain = gzip.decompress(content) if path.suffix == ".gz" else content
        yield path.name.removesuffix(".gz"), hashlib.md5(plain).hexdigest()


def published(source: Mnist) -> Published:
    assert source.published is not None
    return source.published


def test_downloads_into_the_cache_once(server: Server, small: Mnist, empty_machine: Path) -> None:
    test = small.load(Request("mnist", "test"))
    assert len(test) == 12
    assert len(server.asked) == 4
    assert find_copy(small) == empty_machine / "mnist"
    train = small.load(Request("mnist", "train"))
    assert len(train) == 20
    assert len(server.asked) == 4
    assert not list((empty_machine / "mnist").glob("tmp*"))


def test_downloads_where_it_is_told_to(small: Mnist, tmp_path: Path, empty_machine: Path) -> None:
    small.load(Request("mnist", "test", folder=tmp_path / "mine"))
    assert len(list((tmp_path / "mine" / "mnist").iterdir())) == 4
    assert not empty_machine.exists()


def test_a_mirror_takes_the_place_of_every_address(
    server: Server, small: Mnist, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tuple(replace(item, addresses=("http://127.0.0.1:9/nothing",)) for item in published(small).downloads)
    monkeypatch.setenv("FAULTLIGHT_MIRROR", server.address + "/")
    assert len(list(fetch(replace(MNIST, downloads=elsewhere), tmp_path / "mine").iterdir())) == 4


def test_the_next_address_is_tried(server: Server, small: Mnist, tmp_path: Path) -> None:
    items = tuple(
        replace(item, addresses=(f"{server.address}/absent", *item.addresses)) for item in published(small).downloads
    )
    assert len(list(fetch(replace(MNIST, downloads=items), tmp_path / "mine").iterdir())) == 4
    assert sum(path.startswith("/absent/") for path in server.asked) == 4


def test_what_is_there_already_is_not_fetched_again(server: Server, small: Mnist, tmp_path: Path) -> None:
    fetch(published(small), tmp_path)
    (tmp_path / "mnist" / "t10k-labels-idx1-ubyte").unlink()
    (tmp_path / "mnist" / "train-labels-idx1-ubyte").write_bytes(b"damaged")
    server.asked.clear()
    fetch(published(small), tmp_path)
    assert sorted(server.asked) == ["/t10k-labels-idx1-ubyte", "/train-labels-idx1-ubyte"]


def damage(server: Server, content: bytes) -> None:
    (server.folder / "t10k-labels-idx1-ubyte").write_bytes(content)


def check_refused(small: Mnist, cache: Path, message: str) -> str:
    with pytest.raises(InputError, match=message) as error:
        small.load(Request("mnist", "test"))
    assert not (cache / "mnist" / "t10k-labels-idx1-ubyte").exists()
    assert not list(cache.rglob("tmp*"))
    return str(error.value)


def test_wrong_checksum_is_refused(server: Server, small: Mnist, empty_machine: Path) -> None:
    due = dict(published(small).md5)["t10k-labels-idx1-ubyte"]
    damage(server, b"other")
    text = check_refused(small, empty_machine, "is not the published file")
    assert f"expected MD5 {due}, found {hashlib.md5(b'other').hexdigest()}" in text


def test_web_page_is_called_one(server: Server, small: Mnist, empty_machine: Path) -> None:
    damage(server, b"\n<!DOCTYPE html><title>Sign in</title>")
    check_refused(small, empty_machine, "gave a web page instead of t10k-labels-idx1-ubyte")


def test_more_than_was_published_is_cut_off(server: Server, small: Mnist, empty_machine: Path) -> None:
    damage(server, bytes(2**21))
    check_refused(small, empty_machine, "sends more than the 20 bytes")


def test_absent_file_says_so(server: Server, small: Mnist, empty_machine: Path) -> None:
    (server.folder / "t10k-labels-idx1-ubyte").unlink()
    check_refused(small, empty_machine, "gave nothing .HTTP 404")


def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
    return port


@pytest.mark.parametrize(("name", "place"), [("mnist", "mnist"), ("cifar10", "cifar-10-batches-py")])
def test_offline_says_which_command_fetches_and_where_copies_are_looked_for(
    server: Server, tmp_path: Path, empty_machine: Path, monkeypatch: pytest.MonkeyPatch, name: str, place: str
) -> None:
    monkeypatch.setenv("FAULTLIGHT_MIRROR", f"http://127.0.0.1:{closed_port()}")
    monkeypatch.setenv("FAULTLIGHT_DATA", str(tmp_path / "data"))
    with pytest.raises(InputError) as error:
        load_data(name)
    text = str(error.value)
    assert f"`faultlight data fetch {name}`" in text
    assert str(tmp_path / "data" / place) in text
    assert str(empty_machine / place) in text
    assert "ConnectionError" in text
    assert not list(tmp_path.rglob("tmp*"))


def test_folder_that_cannot_be_written_is_named(small: Mnist, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="cannot hold"):
        fetch(published(small), tmp_path / "file")


def archive(path: Path, *names: str) -> Path:
    with tarfile.open(path, "w:gz") as opened:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 3
            opened.addfile(info, io.BytesIO(b"abc"))
    return path


def test_archives_are_unpacked_and_removed(server: Server, tmp_path: Path) -> None:
    path = archive(server.folder / "set.tar.gz", "inner/test_batch", "inner/data_batch_1")
    item = replace(CIFAR10, downloads=(download(path, server.address),))
    place = fetch(item, tmp_path / "mine")
    assert sorted(each.name for each in (place / "inner").iterdir()) == ["data_batch_1", "test_batch"]
    assert [each.name for each in (tmp_path / "mine").iterdir()] == ["cifar10"]
    with pytest.raises(InputError, match="is there but is not complete"):
        fetch(item, tmp_path / "mine")


def test_an_archive_that_leaves_its_folder_is_refused(server: Server, tmp_path: Path) -> None:
    path = archive(server.folder / "set.tar.gz", "inner/test_batch", "../outside")
    with pytest.raises(InputError, match="refused whole"):
        fetch(replace(CIFAR10, downloads=(download(path, server.address),)), tmp_path / "mine")
    assert not (tmp_path / "outside").exists()
    assert not (tmp_path / "mine" / "cifar10").exists()


def test_part_of_a_copy_is_no_copy(server: Server, small: Mnist, tmp_path: Path) -> None:
    here = write_idx_folder(tmp_path / "data" / "mnist")
    (here / "train-labels-idx1-ubyte").unlink()
    assert find_copy(small, tmp_path / "data") is None
    assert fetch_copy(small, published(small), tmp_path / "data") == here
    assert len(list(here.iterdir())) == 4


@pytest.mark.parametrize("place", ["mnist", "MNIST/raw", ""])
def test_local_copies_are_found(small: Mnist, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    here = write_idx_folder(tmp_path / "data" / place)
    assert find_copy(small, tmp_path / "data") == here
    assert find_copy(small) is None
    monkeypatch.setenv("FAULTLIGHT_DATA", str(tmp_path / "data"))
    assert find_copy(small) == here
    assert fetch_copy(small, published(small)) == here
    images = small.load(Request("mnist", "test"))
    assert torch.equal(images.ids, torch.arange(12))


def test_the_cache_is_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert cache_folder().parts[-2:] == ("faultlight", "data")


def test_published_addresses_and_checksums_are_complete() -> None:
    for item in (*MNIST.downloads, *CIFAR10.downloads):
        assert all(address.startswith("https://") for address in item.addresses)
        assert len(bytes.fromhex(item.md5)) == 16
        assert item.size > 4_000
