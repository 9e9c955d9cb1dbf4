"""Downloading published sets: checked against the publisher's checksum, then moved into place whole."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faultlight.data.archive import unpack
from faultlight.data.source import Download, Published
from faultlight.errors import InputError
from faultlight.progress import Progress

_ARCHIVES = (".tar.gz", ".zip")
_CHUNK = 2**18
_CONNECT_SECONDS, _READ_SECONDS = 10, 60


def fetch(published: Published, folder: Path) -> Path:
    """Download what a published set consists of into `folder`/NAME.

    Addresses are tried in turn; the environment variable `FAULTLIGHT_MIRROR`, an address that holds files of the
    same names, takes the place of them all. What is there already and has the right checksum is not downloaded again.

    Returns:
        The folder that holds the set.

    Raises:
        InputError: no address gave the file, or what came is not the file; nothing was written over.
    """
    place = folder / published.name
    for item in published.downloads:
        if item.name.endswith(_ARCHIVES):
            _fetch_archive(item, folder, place, published.unpacked)
        else:
            _download(item, place)
    return place


def _fetch_archive(item: Download, folder: Path, place: Path, most_bytes: int) -> None:
    if place.exists():
        raise InputError(f"{str(place)!r} is there but is not complete; remove it, then fetch again.")
    archive = _download(item, folder)
    unpack(archive, place, most_bytes=most_bytes)
    archive.unlink()


def _download(item: Download, folder: Path) -> Path:
    mirror = os.environ.get("FAULTLIGHT_MIRROR")
    reasons = []
    for address in (mirror,) if mirror else item.addresses:
        url = f"{address.rstrip('/')}/{item.name}"
        try:
            return _retrieve(url, item, folder)
        except InputError as error:
            reasons.append(str(error))
    raise InputError("; ".join(reasons))


def _retrieve(url: str, item: Download, folder: Path) -> Path:
    import pooch
    import requests

    pooch.get_logger().setLevel("WARNING")
    downloader = _Downloader(item)
    try:
        return Path(pooch.retrieve(url, f"md5:{item.md5}", item.name, folder, downloader=downloader))
    except requests.exceptions.RequestException as error:
        raise InputError(f"{url} gave nothing ({_cause(error)})") from error
    except OSError as error:
        raise InputError(f"{str(folder)!r} cannot hold {item.name}: {error.strerror or error}") from error


def _cause(error: Exception) -> str:
    response = getattr(error, "response", None)
    if response is not None:
        return f"HTTP {response.status_code} {response.reason}"
    return type(error).__name__


@dataclass(frozen=True)
class _Downloader:
    """What pooch calls to fill its temporary file: shows progress, and judges what came before pooch moves it."""

    item: Download

    def __call__(self, url: str, output_file: str, pooch: Any) -> None:
        from pooch import HTTPDownloader

        # Without this header some servers announce the .gz as an encoding, and it would arrive decompressed.
        headers = {"Accept-Encoding": "identity"}
        timeout = (_CONNECT_SECONDS, _READ_SECONDS)
        with Progress(f"downloading {self.item.name}", self.item.size) as progress:
            bar = _Bar(progress, self.item, url)
            HTTPDownloader(bar, _CHUNK, headers=headers, timeout=timeout)(url, output_file, pooch)
        _check(Path(output_file), self.item, url)


class _Bar:
    """The progress bar as pooch drives it; stops a download that grows past the size that was published."""

    def __init__(self, progress: Progress, item: Download, url: str) -> None:
        self.total = item.size
        self._progress, self._item, self._url = progress, item, url
        self._done = 0

    def update(self, size: int) -> None:
        self._done += size
        if self._done > self._item.size + _CHUNK:
            raise InputError(f"{self._url} sends more than the {self._item.size:,} bytes that {self._item.name} has")
        self._progress.update(min(self._done, self._item.size))

    def reset(self) -> None:
        self._done = 0

    def close(self) -> None:
        pass


def _check(path: Path, item: Download, url: str) -> None:
    with path.open("rb") as file:
        start = file.read(64).lstrip()
        file.seek(0)
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found == item.md5:
        return
    if start.startswith(b"<"):
        raise InputError(f"{url} gave a web page instead of {item.name} (is there a sign-in page in between?)")
    raise InputError(f"what {url} gave is not the published file: expected MD5 {item.md5}, found {found}")
