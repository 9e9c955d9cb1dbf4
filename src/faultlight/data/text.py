"""Plain text: tinyshakespeare by its name, or any UTF-8 file."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from faultlight.data.fetch import fetch
from faultlight.data.places import cache_folder
from faultlight.data.source import Download, Published
from faultlight.errors import InputError

TINYSHAKESPEARE = Published(
    "tinyshakespeare",
    images=0,
    places=("tinyshakespeare", ""),
    downloads=(
        Download(
            "input.txt",
            ("https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare",),
            "6fb458f1232090904fb40fe944165e91",
            1_115_394,
        ),
    ),
)
_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


@dataclass(frozen=True)
class Text:
    """A text and where it came from.

    Args:
        name: the set's name, or the file's path.
        content: the characters, line ends as they stand in the file.
        sha256: of the file's bytes, in hexadecimal.
    """

    name: str
    content: str
    sha256: str


def load_text(name: str, folder: Path | None = None) -> Text:
    """Return a text, whole.

    Args:
        name: "tinyshakespeare", or the path of a UTF-8 file.
        folder: where a local copy is looked for and a download kept; None for `FAULTLIGHT_DATA`, then the user's cache.

    Raises:
        InputError: there is no such file, it is not UTF-8, it is empty, or a copy is not what was published.
    """
    published = name == TINYSHAKESPEARE.name
    path = _locate(folder) if published else Path(name).expanduser()
    found = _decode(name, path, _read(name, path))
    if published and found.sha256 != _SHA256:
        raise InputError(
            f"{path} is not tinyshakespeare as published (SHA-256 {found.sha256[:12]} where {_SHA256[:12]} is due); "
            f"remove it, or name the file by its path."
        )
    return found


def _read(name: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(
            f"there is no text named {name!r}; give tinyshakespeare or the path of a UTF-8 file."
        ) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; give the path of a UTF-8 file.") from None


def _decode(name: str, path: Path, content: bytes) -> Text:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8: byte 0x{content[error.start]:02x} at position {error.start:,}; convert it to UTF-8."
        ) from None
    if not text:
        raise InputError(f"{path} is empty; give a file with some text in it.")
    return Text(name, text, hashlib.sha256(content).hexdigest())


def _locate(folder: Path | None) -> Path:
    chosen = str(folder) if folder else os.environ.get("FAULTLIGHT_DATA")
    roots = [Path(chosen), cache_folder()] if chosen else [cache_folder()]
    file = TINYSHAKESPEARE.downloads[0].name
    for path in (root / TINYSHAKESPEARE.name / file for root in roots):
        if path.is_file():
            return path
    try:
        return fetch(TINYSHAKESPEARE, folder or cache_folder()) / file
    except InputError as error:
        raise InputError(
            f"tinyshakespeare is not on this machine (looked in {' and '.join(map(str, roots))}) and could not be "
            f"downloaded: {error}; set FAULTLIGHT_DATA to a folder that holds tinyshakespeare/{file}."
        ) from error
