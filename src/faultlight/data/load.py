"""`load_data`: the one door through which images come in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from faultlight.catalogue import catalogue
from faultlight.data.images import Images, check_images
from faultlight.data.source import SPLITS, Request, Source
from faultlight.errors import InputError, nearest

_FORMATS = "data.formats"


def load_data(
    name: str,
    split: str = "test",
    n: int | None = None,
    *,
    folder: Path | None = None,
    skip_bad: bool = False,
    resize: tuple[int, int] | None = None,
    split_seed: int = 0,
) -> Images:
    """Load labelled images, whole and checked.

    Args:
        name: "digits", "mnist", "cifar10", or a path: a folder with one folder of images a class, an `.npz`, a folder
            of IDX files, a folder of CIFAR-10 batches.
        split: "train", "validation", "test", or "train+validation", which is all of the training file.
        n: take only the first n images, in file order; all of them when there are fewer.
        folder: where local copies are looked for and downloads are kept; None for the folder that the environment
            variable `FAULTLIGHT_DATA` names, then the user's cache.
        skip_bad: leave out images that cannot be read; `Images.notes` counts them.
        resize: height and width in pixels to bring images of a class folder to.
        split_seed: the seed that divides a training file into train and validation.

    Returns:
        The images: pixels in [0, 1], shape (n, c, h, w), in file order.

    Raises:
        InputError: no such set, no such split, nothing to download it with, or content that is not what it should be.
    """
    if split not in SPLITS:
        raise InputError(f"there is no split named {split!r}; {nearest(split, SPLITS)}.")
    if n is not None and n < 1:
        raise InputError(f"the number of images must be at least 1, not {n}.")
    request = Request(name, split, n, folder, skip_bad, resize, split_seed)
    return _first(check_images(find_source(name).load(request)), n)


def sources() -> dict[str, Source]:
    """Return every data format, by the name of its file."""
    return {name: entry.load()() for name, entry in catalogue(_FORMATS).items()}


def find_source(name: str) -> Source:
    """Return the format that reads a set's name or a path.

    Raises:
        InputError: no set has this name and no format knows what lies at this path.
    """
    known = sources()
    for source in known.values():
        if source.published is not None and source.published.name == name:
            return source
    path = Path(name)
    found = next((source for source in known.values() if source.holds(path)), None)
    if found is not None:
        return found
    if path.exists():
        raise InputError(f"nothing at {name!r} can be read as images; known: {_known_formats()}.")
    names = [source.published.name for source in known.values() if source.published]
    raise InputError(f"there is no data set and no path named {name!r}; {nearest(name, names)}.")


def _known_formats() -> str:
    return "; ".join(entry.summary.rstrip(".") for entry in catalogue(_FORMATS).values())


def _first(images: Images, n: int | None) -> Images:
    if n is None:
        return images
    taken = images.first(n)
    notes = list(images.notes)
    if len(taken) < n:
        notes.append(f"{n:,} images were asked for; the {images.split} split of {images.name!r} has {len(taken):,}.")
    present = len(set(taken.y.tolist()))
    if present < min(len(taken), len(taken.classes)):
        notes.append(f"the first {len(taken):,} images show {present} of {len(images.classes)} classes.")
    return replace(taken, notes=tuple(notes))
