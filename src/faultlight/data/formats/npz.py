"""NumPy archives."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from faultlight.data.arrays import from_bytes, images_of
from faultlight.data.images import Images
from faultlight.data.npz_file import names_in, read_array
from faultlight.data.source import Published, Request
from faultlight.data.splits import positions, tenth
from faultlight.errors import InputError

_WHOLE = (("x", "y"), ("images", "labels"))
_PAIRS = {
    "train": (("x_train", "y_train"), ("train_images", "train_labels")),
    "validation": (("x_val", "y_val"), ("x_validation", "y_validation"), ("val_images", "val_labels")),
    "test": (("x_test", "y_test"), ("test_images", "test_labels")),
}
_CLASSES = ("classes", "class_names")


@dataclass(frozen=True)
class Npz:
    """A NumPy .npz with x and y (or images and labels), or x_train, y_train, x_test, y_test (or train_images, …).

    Images are bytes 0 … 255 or floats in [0, 1], of shape (n, h, w), (n, c, h, w) or (n, h, w, c); labels are whole
    numbers. An array `classes` names the classes, else they are 0, 1, … up to the highest label. Nothing pickled is
    read.
    """

    published: Published | None = field(default=None, init=False)

    def holds(self, path: Path) -> bool:
        """Return whether a file is named .npz."""
        return path.suffix.lower() == ".npz" and path.is_file()

    def splits(self, request: Request) -> tuple[str, ...]:
        """Return the splits whose arrays are there; validation is drawn from train where it has none."""
        pairs = _pairs(Path(request.name))
        return tuple(split for split in _PAIRS if split in pairs or (split == "validation" and "train" in pairs))

    def load(self, request: Request) -> Images:
        """Return a split; ids are positions in its arrays (in those of train and validation together)."""
        path = Path(request.name)
        pairs = _pairs(path)
        every = {split: _labels(path, key) for split, (_, key) in pairs.items()}
        parts, ids = _choose(request, {split: len(labels) for split, labels in every.items()})
        x = torch.cat([_pixels(path, pairs[part][0], len(every[part])) for part in parts])
        labels = np.concatenate([every[part] for part in parts])
        classes = _classes(path, max(int(part.max(initial=0)) for part in every.values()))
        return images_of(x[torch.from_numpy(ids)], labels[ids], ids, classes, request)


def _pairs(path: Path) -> dict[str, tuple[str, str]]:
    names = names_in(path)
    found = {split: pair for split, pairs in _PAIRS.items() for pair in reversed(pairs) if names.issuperset(pair)}
    if found:
        return found
    whole = [pair for pair in _WHOLE if names.issuperset(pair)]
    if not whole:
        raise InputError(
            f"{str(path)!r} holds {sorted(names)}; "
            "due are x and y, images and labels, or x_train, y_train, x_test, y_test."
        )
    return {"test": whole[0]}


def _choose(request: Request, counts: dict[str, int]) -> tuple[list[str], np.ndarray]:
    if request.split == "test" and "test" in counts:
        return ["test"], np.arange(counts["test"], dtype=np.int64)
    if request.split == "test" or "train" not in counts:
        have = ", ".join(sorted(counts))
        raise InputError(f"{request.name!r} has no {request.split} split (it has: {have}); add x_train and y_train.")
    parts: list[str] = [split for split in ("train", "validation") if split in counts]
    validation = counts.get("validation")
    total = counts["train"]
    return parts, positions(request.split, total, validation, tenth(total), request.split_seed)


def _labels(path: Path, key: str) -> np.ndarray:
    labels = read_array(path, key)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise InputError(
            f"{key!r} of {str(path)!r} has shape {labels.shape} and type {labels.dtype}; "
            "labels are whole numbers, of shape (n,)."
        )
    return labels


def _pixels(path: Path, key: str, count: int) -> Float32[Tensor, "n c h w"]:
    array = read_array(path, key)
    if len(array.shape) not in (3, 4) or len(array) != count:
        raise InputError(
            f"{key!r} of {str(path)!r} has shape {array.shape}: expected {count:,} images, as many as labels, "
            "of shape (n, h, w), (n, c, h, w) or (n, h, w, c)."
        )
    array = _channels_first(path, key, array)
    if array.dtype == np.uint8:
        return from_bytes(array)
    if array.dtype.kind != "f":
        raise InputError(
            f"{key!r} of {str(path)!r} has type {array.dtype}; save bytes 0 … 255 (uint8) or floats in [0, 1]."
        )
    return torch.from_numpy(array.astype(np.float32))


def _channels_first(path: Path, key: str, array: np.ndarray) -> np.ndarray:
    if array.ndim == 3:
        return array[:, None]
    first, last = array.shape[1] in (1, 3), array.shape[3] in (1, 3)
    if first == last:
        raise InputError(
            f"{key!r} of {str(path)!r} has shape {array.shape}, which tells no channels: expected 1 or 3 either second "
            "(n, c, h, w) or last (n, h, w, c)."
        )
    return array if first else array.transpose(0, 3, 1, 2)


def _classes(path: Path, highest: int) -> tuple[str, ...]:
    key = next((key for key in _CLASSES if key in names_in(path)), None)
    if key is None:
        return tuple(str(label) for label in range(highest + 1))
    names = read_array(path, key)
    if names.ndim != 1 or names.dtype.kind not in "US":
        raise InputError(
            f"{key!r} of {str(path)!r} has type {names.dtype} and shape {names.shape}; save a list of texts."
        )
    texts = tuple(
        name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else name for name in names.tolist()
    )
    if len(set(texts)) != len(texts):
        raise InputError(f"{key!r} of {str(path)!r} names a class twice; every class needs a name of its own.")
    return texts
