"""`Images`: what every data set becomes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from faultlight.errors import InputError


@dataclass(frozen=True)
class Images:
    """Labelled images, whole and checked.

    Args:
        x: pixels, float32 in [0, 1], shape (n, c, h, w).
        y: labels, int64 in [0, len(classes)), shape (n,).
        ids: each image's position in the file order of its split, int64, shape (n,); unique.
        classes: the names of the classes, by label.
        name: the data set's name, such as "mnist".
        split: the split's name, such as "test".
        notes: what a user should know of how the images were loaded ("2 files were skipped: …"), one sentence each.
    """

    x: Float32[Tensor, "n c h w"]
    y: Int64[Tensor, " n"]
    ids: Int64[Tensor, " n"]
    classes: tuple[str, ...]
    name: str = "images"
    split: str = "test"
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.y)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        _, channels, height, width = self.x.shape
        return channels, height, width

    def take(self, rows: Tensor) -> Images:
        """Return the images at the given positions (a tensor of indices or a mask)."""
        return replace(self, x=self.x[rows], y=self.y[rows], ids=self.ids[rows])

    def first(self, n: int) -> Images:
        """Return the first n images, in file order."""
        return replace(self, x=self.x[:n], y=self.y[:n], ids=self.ids[:n])

    def to(self, device: torch.device | str) -> Images:
        """Return the images on a device."""
        return replace(self, x=self.x.to(device), y=self.y.to(device), ids=self.ids.to(device))

    def fingerprint(self) -> str:
        """Return a SHA-256 (hex) over pixels, labels and ids."""
        digest = hashlib.sha256()
        for part in (self.x, self.y, self.ids):
            digest.update(repr(tuple(part.shape)).encode())
            digest.update(part.contiguous().cpu().numpy().tobytes())
        return digest.hexdigest()


def check_images(images: Images) -> Images:
    """Return the images unchanged, or say what is wrong with them.

    Raises:
        InputError: pixels outside [0, 1] (with the likely remedy), NaN or infinity (with the ids), labels out of
            range, or nothing at all.
    """
    if len(images) == 0:
        raise InputError(f"the data set {images.name!r} ({images.split}) has no images.")
    _check_finite(images)
    _check_range(images)
    _check_labels(images)
    return images


def _check_finite(images: Images) -> None:
    bad = images.ids[~torch.isfinite(images.x).flatten(1).all(1)]
    if len(bad):
        shown = ", ".join(str(int(i)) for i in bad[:10]) + (", …" if len(bad) > 10 else "")
        raise InputError(
            f"{len(bad)} images of {images.name!r} hold NaN or infinity (ids {shown}); remove or repair them."
        )


def _check_range(images: Images) -> None:
    low, high = float(images.x.min()), float(images.x.max())
    if low >= 0 and high <= 1:
        return
    remedy = "divide by 255" if low >= 0 and high <= 255 else "undo the normalisation (the model's wrapper applies it)"
    raise InputError(f"pixels of {images.name!r} run from {low:.4g} to {high:.4g} where [0, 1] is due; {remedy}.")


def _check_labels(images: Images) -> None:
    low, high = int(images.y.min()), int(images.y.max())
    if low < 0 or high >= len(images.classes):
        value = low if low < 0 else high
        raise InputError(
            f"label {value} of {images.name!r} is outside 0 … {len(images.classes) - 1}, "
            f"its {len(images.classes)} classes."
        )
