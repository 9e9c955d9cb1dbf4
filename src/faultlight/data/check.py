"""Checking a data set through: every split read, counts, checksums and published statistics compared."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from faultlight.data.describe import channel_statistics
from faultlight.data.idx import find_idx, open_plain
from faultlight.data.images import Images
from faultlight.data.load import find_source, load_data
from faultlight.data.places import locate
from faultlight.data.source import Published, Request
from faultlight.errors import InputError

_TOLERANCE = 1e-4  # the published figures have four digits


def check(name: str, **options: Any) -> list[str]:
    """Read all of a data set and return what was found to hold, one sentence each.

    Args:
        name: a set's name or a path, as for `load_data`.
        options: `folder`, `skip_bad` and `resize`, as for `load_data`.

    Raises:
        InputError: the first thing that does not hold.
    """
    request = Request(name, **options)
    source = find_source(name)
    present = source.splits(request)
    found: list[str] = []
    for split in ("train+validation", "test"):
        if split.split("+")[0] in present:
            images = load_data(name, split, **options)
            found += [_counts(images), *images.notes]
            if source.published and source.published.mean and split != "test":
                found.append(_statistics(images, source.published))
    if source.published and source.published.md5:
        found += _checksums(locate(source, request), source.published)
    return found


def _counts(images: Images) -> str:
    shape = "×".join(str(side) for side in images.x.shape[1:])
    return f"{images.split}: {len(images):,} images of {shape}, {len(images.classes)} classes, all pixels in [0, 1]"


def _statistics(images: Images, published: Published) -> str:
    mean, std = channel_statistics(images.x)
    found = [*mean, *std]
    text = f"means {_figures(mean)}, deviations {_figures(std)}"
    expected = [*published.mean, *published.std]
    if len(found) != len(expected) or any(
        abs(one - other) > _TOLERANCE for one, other in zip(found, expected, strict=True)
    ):
        due = f"means {_figures(published.mean)}, deviations {_figures(published.std)}"
        raise InputError(f"this is not {published.name}: expected channel {due}, found {text}; fetch it again.")
    return f"{images.split}: channel {text}, as published"


def _checksums(folder: Path, published: Published) -> list[str]:
    lines = []
    for name, expected in published.md5:
        path = find_idx(folder, name)
        if path is None:
            lines.append(f"{name}: not there")
            continue
        found = _md5(path)
        same = f"the publisher's content (MD5 {found})"
        lines.append(f"{path}: {same if found == expected else f'another file (MD5 {found}), accepted by its content'}")
    return lines


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with open_plain(path) as stream:
        while chunk := stream.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def _figures(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.4f}" for value in values)
