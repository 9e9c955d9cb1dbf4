"""Where data sets lie on this machine: the folder given, else `FAULTLIGHT_DATA`; then the user's cache."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from faultlight.data.fetch import fetch
from faultlight.data.source import Published, Request, Source
from faultlight.errors import InputError


def cache_folder() -> Path:
    """Return the folder where downloads are kept."""
    return Path(platformdirs.user_cache_path("faultlight")) / "data"


def find_copy(source: Source, folder: Path | None = None) -> Path | None:
    """Return the folder that holds a copy of a published set, or None when there is none.

    Args:
        source: the format of the set.
        folder: where to look first; None for `FAULTLIGHT_DATA`. The cache is looked at last.
    """
    places = source.published.places if source.published else ()
    candidates = (root / place for root in _roots(folder) for place in places)
    return next((path for path in candidates if source.holds(path)), None)


def fetch_copy(source: Source, published: Published, folder: Path | None = None) -> Path:
    """Return the folder that holds a copy of a published set, downloading what is absent.

    Args:
        source: the format of the set.
        published: how to come by it.
        folder: where to look, and to keep the download; None for `FAULTLIGHT_DATA` and the cache.

    Raises:
        InputError: there is no copy and none could be downloaded; says how to mend that.
    """
    found = find_copy(source, folder)
    if found is not None:
        return found
    keep = folder or cache_folder()
    try:
        fetch(published, keep)
    except InputError as error:
        raise InputError(_absent(published, folder, str(error))) from error
    arrived = find_copy(source, keep)
    if arrived is None:
        raise InputError(
            f"the download of {published.name} holds no {published.name}; remove {str(keep)!r} and try again."
        )
    return arrived


def locate(source: Source, request: Request) -> Path:
    """Return where the data of a request lie: the path it names, or a copy of the set it names."""
    if source.published is not None and request.name == source.published.name:
        return fetch_copy(source, source.published, request.folder)
    return Path(request.name)


def _roots(folder: Path | None) -> list[Path]:
    chosen = str(folder) if folder else os.environ.get("FAULTLIGHT_DATA")
    return [Path(chosen), cache_folder()] if chosen else [cache_folder()]


def _absent(published: Published, folder: Path | None, reason: str) -> str:
    looked = " and ".join(repr(str(root / published.places[0])) for root in _roots(folder))
    return (
        f"{published.name} is not on this machine (looked in {looked}) and could not be downloaded: {reason}; "
        f"when online run `faultlight data fetch {published.name}`, or set FAULTLIGHT_DATA to a folder "
        f"that holds {published.places[0]}/."
    )
