"""What a data format offers: `Source`, and `Request`, what is asked of it.

A new format is one new file in `formats/`, holding one frozen dataclass that meets `Source`; other people's packages
add theirs through an entry point of the group `faultlight.data.formats`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from faultlight.data.images import Images
from faultlight.errors import InputError

SPLITS = ("train", "validation", "test", "train+validation")


@dataclass(frozen=True)
class Request:
    """What is asked of a format.

    Args:
        name: a set's name, or a path.
        split: one of `SPLITS`; "train+validation" is all of the training file, in file order.
        n: how many images are wanted, counted in file order; None for all. A format may hand back more.
        folder: where local copies are looked for, and downloads are kept; None for `FAULTLIGHT_DATA` and the cache.
        skip_bad: leave out images that cannot be read, and say so in `Images.notes`.
        resize: height and width in pixels that every image is brought to; None to leave sizes alone.
        split_seed: the seed that divides a training file into train and validation.
    """

    name: str
    split: str = "test"
    n: int | None = None
    folder: Path | None = None
    skip_bad: bool = False
    resize: tuple[int, int] | None = None
    split_seed: int = 0


@dataclass(frozen=True)
class Download:
    """One file that a publisher offers.

    Args:
        name: the file's name, below each address and in the folder it is kept in.
        addresses: the folders on the web that hold it, tried in turn.
        md5: the MD5 of the file as published, in hexadecimal.
        size: its length in bytes.
    """

    name: str
    addresses: tuple[str, ...]
    md5: str
    size: int


@dataclass(frozen=True)
class Published:
    """A set that has a name, and how to come by it.

    Args:
        name: the name on the command line.
        images: number of images in all.
        places: the folders below a data folder where a copy may lie, the usual one first; "" is the folder itself.
        downloads: the files to download; archives (`.tar.gz`, `.zip`) are unpacked, all else is kept as it is.
        unpacked: an upper bound on the bytes of all archives once unpacked.
        md5: the MD5 of the files a copy holds, uncompressed, by file name.
        mean: the published mean of each channel over the training file, in [0, 1]; () when none is.
        std: the published standard deviation of each channel, likewise.
    """

    name: str
    images: int
    places: tuple[str, ...] = ()
    downloads: tuple[Download, ...] = ()
    unpacked: int = 0
    md5: tuple[tuple[str, str], ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


def parse_size(text: str) -> tuple[int, int]:
    """Parse "32x48" (height × width) or "32" (square).

    Raises:
        InputError: anything else.
    """
    sides = text.lower().replace("×", "x").split("x")
    if len(sides) > 2 or not all(side.strip().isdecimal() and int(side) > 0 for side in sides):
        raise InputError(f"the size {text!r} is not height x width in pixels; write it like 32x32.")
    return int(sides[0]), int(sides[-1])


@runtime_checkable
class Source(Protocol):
    """One data format."""

    @property
    def published(self) -> Published | None:
        """The set this format reads by name, or None when it only reads paths."""

    def holds(self, path: Path) -> bool:
        """Return whether what lies at `path` looks like this format."""

    def splits(self, request: Request) -> tuple[str, ...]:
        """Return the splits that can be loaded, of "train", "validation" and "test"."""

    def load(self, request: Request) -> Images:
        """Return the images of one split, in file order.

        Raises:
            InputError: what is there cannot be read.
        """
