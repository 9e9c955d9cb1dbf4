"""A folder with one folder of pictures a class."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from faultlight.data.arrays import MOST_BYTES, images_of
from faultlight.data.images import Images
from faultlight.data.pictures import SUFFIXES, Header, read_header, read_picture
from faultlight.data.source import Published, Request
from faultlight.data.splits import positions, tenth
from faultlight.errors import InputError
from faultlight.progress import Progress

_SPELLINGS = {"train": ("train",), "validation": ("validation", "val", "valid"), "test": ("test",)}
_LONG = 2_000  # so many pictures take seconds: only then is progress shown


@dataclass(frozen=True)
class Folder:
    """A folder of class folders of pictures: ROOT/CLASS/*.png, or ROOT/train/CLASS/*.png, ROOT/test/CLASS/*.png, ….

    Classes are in alphabetical order. File order is by file name, then by class, so that the first n are not all of
    the first class when files are numbered through. Without train/ and test/ every picture is of the test split.
    """

    published: Published | None = field(default=None, init=False)

    def holds(self, path: Path) -> bool:
        """Return whether there are pictures in class folders."""
        return any(True for part in _parts(path).values() for _ in _walk(part))

    def splits(self, request: Request) -> tuple[str, ...]:
        """Return the splits that the sub-folders give; validation is drawn from train where it has no folder."""
        parts = _parts(Path(request.name))
        return tuple(split for split in _SPELLINGS if split in parts or (split == "validation" and "train" in parts))

    def load(self, request: Request) -> Images:
        """Return a split; ids are positions in file order, unreadable pictures counted."""
        parts = _parts(Path(request.name))
        classes = sorted({folder.name for part in parts.values() for folder in _folders(part)})
        label = {name: number for number, name in enumerate(classes)}
        files = _files(parts, request)
        good, notes = _readable(files, request)
        x, rows, more = _decode(good, request)
        names = tuple(_text(name) for name in classes)
        labels = np.array([label[good[row].path.parent.name] for row in rows], dtype=np.int64)
        ids = np.array([good[row].id for row in rows], dtype=np.int64)
        return images_of(x, labels, ids, names, request, (*_empty_classes(parts), *_tell(len(files), notes + more)))


@dataclass(frozen=True)
class _File:
    id: int
    path: Path
    header: Header | None = None


def _parts(root: Path) -> dict[str, Path]:
    found = {
        split: root / name
        for split, names in _SPELLINGS.items()
        for name in names
        if (root / name).is_dir() and any(_folders(root / name))
    }
    return found if found else {"test": root}


def _folders(part: Path) -> list[Path]:
    if not part.is_dir():
        return []
    return sorted(path for path in part.iterdir() if path.is_dir() and not path.name.startswith("."))


def _walk(part: Path) -> Iterator[Path]:
    for folder in _folders(part):
        for path in folder.iterdir():
            if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file():
                yield path


def _in_order(part: Path) -> list[Path]:
    return sorted(_walk(part), key=lambda path: (path.name, path.parent.name))


def _files(parts: dict[str, Path], request: Request) -> list[_File]:
    if request.split == "test":
        _need("test", parts, request)
        return [_File(position, path) for position, path in enumerate(_in_order(parts["test"]))]
    _need("validation" if request.split == "validation" and "validation" in parts else "train", parts, request)
    train = _in_order(parts["train"]) if "train" in parts else []
    validation = _in_order(parts["validation"]) if "validation" in parts else None
    count = None if validation is None else len(validation)
    chosen = positions(request.split, len(train), count, tenth(len(train)), request.split_seed)
    every = train + (validation or [])
    return [_File(int(position), every[position]) for position in chosen]


def _need(part: str, parts: dict[str, Path], request: Request) -> None:
    if part not in parts:
        have = ", ".join(sorted(parts))
        raise InputError(
            f"{request.name!r} has no {request.split} split (it has: {have}); lay it out as {part}/CLASS/*.png."
        )


def _readable(files: Sequence[_File], request: Request) -> tuple[list[_File], list[str]]:
    good, bad = [], []
    for file in files:
        try:
            good.append(_File(file.id, file.path, read_header(file.path)))
        except InputError as error:
            bad.append(_skip(error, request))
    return good, bad


def _decode(files: Sequence[_File], request: Request) -> tuple[torch.Tensor, list[int], list[str]]:
    headers = [file.header for file in files if file.header is not None]
    channels = 1 if all(header.grey for header in headers) else 3
    height, width = request.resize or _shared_size(files, request)
    wanted = min(len(files), request.n or len(files))
    _check_memory(wanted, channels, height, width, request)
    x = torch.empty(wanted, channels, height, width)
    rows: list[int] = []
    bad: list[str] = []
    with Progress(f"reading {request.name}", wanted, quiet=wanted < _LONG) as progress:
        for row, file in enumerate(files):
            if len(rows) == wanted:
                break
            try:
                x[len(rows)] = torch.from_numpy(read_picture(file.path, channels, request.resize))
            except InputError as error:
                bad.append(_skip(error, request))
                continue
            rows.append(row)
            progress.update(len(rows))
    return x[: len(rows)], rows, bad


def _shared_size(files: Sequence[_File], request: Request) -> tuple[int, int]:
    sizes = {file.path: (file.header.height, file.header.width) for file in files if file.header is not None}
    if not sizes:
        raise InputError(f"the {request.split} split of {request.name!r} holds no picture that can be read.")
    (size, _), *others = Counter(sizes.values()).most_common()
    if others:
        differing = [f"{_shown(path)} {h}×{w}" for path, (h, w) in sizes.items() if (h, w) != size]
        raise InputError(
            f"{len(differing):,} of the {len(sizes):,} pictures of {request.name!r} are not {size[0]}×{size[1]} as the "
            f"others are: {_few(differing)}; give --resize {size[0]}x{size[1]} to bring all to one size."
        )
    return size


def _check_memory(n: int, channels: int, height: int, width: int, request: Request) -> None:
    size = 4 * n * channels * height * width
    if size > MOST_BYTES:
        raise InputError(
            f"{n:,} pictures of {height}×{width} from {request.name!r} take {size / 2**30:.0f} GiB, above the cap of "
            f"{MOST_BYTES / 2**30:.0f}; take fewer with --n, or smaller ones with --resize."
        )


def _skip(error: InputError, request: Request) -> str:
    if not request.skip_bad:
        raise InputError(f"{error}; repair or remove it, or leave such files out with --skip-bad.") from error
    return str(error)


def _tell(total: int, bad: list[str]) -> tuple[str, ...]:
    return (f"{len(bad):,} of {total:,} pictures were skipped: {_few(bad)}.",) if bad else ()


def _empty_classes(parts: dict[str, Path]) -> tuple[str, ...]:
    folders = [folder for part in parts.values() for folder in _folders(part)]
    empty = [
        _shown(folder) for folder in folders if not any(path.suffix.lower() in SUFFIXES for path in folder.iterdir())
    ]
    return (f"class folders without a picture: {_few(empty)}.",) if empty else ()


def _shown(path: Path) -> str:
    return repr(f"{path.parent.name}/{path.name}")


def _few(items: list[str]) -> str:
    return ", ".join(items[:5]) + (f", … ({len(items) - 5:,} more)" if len(items) > 5 else "")


def _text(name: str) -> str:
    # A file name need not be UTF-8; what is not is spelled out, so that records can hold it.
    return os.fsencode(name).decode("utf-8", "backslashreplace")
