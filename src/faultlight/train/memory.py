"""The data of a run: three splits, resident in memory, and the order in which an epoch goes through them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float32, Int64, Shaped
from torch import Tensor

from faultlight import rng
from faultlight.data.images import Images
from faultlight.data.load import load_data
from faultlight.errors import InputError


@dataclass(frozen=True)
class Splits:
    """What a run learns from, chooses its checkpoint on, and is measured on once at the end."""

    train: Images
    validation: Images
    test: Images

    def fingerprints(self) -> dict[str, str]:
        """Return a SHA-256 (hex) over each split."""
        return {split.split: split.fingerprint() for split in (self.train, self.validation, self.test)}


@dataclass(frozen=True)
class Resident:
    """Images on the device: as bytes where that loses nothing, a quarter of the memory of float32.

    Args:
        pixels: uint8 in 0 … 255 or float32 in [0, 1], shape (n, c, h, w).
        labels: int64, shape (n,).
    """

    pixels: Shaped[Tensor, "n c h w"]
    labels: Int64[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Int64[Tensor, " m"]) -> tuple[Float32[Tensor, "m c h w"], Int64[Tensor, " m"]]:
        """Return pixels in [0, 1] and labels of the given rows."""
        rows = rows.to(self.labels.device)
        return _as_float(self.pixels[rows]), self.labels[rows]


def load_splits(data: str, split_seed: int) -> Splits:
    """Return the three splits of a data set.

    Raises:
        InputError: the data cannot be loaded, or its splits differ in shape or classes.
    """
    train, validation, test = (load_data(data, name, split_seed=split_seed) for name in ("train", "validation", "test"))
    return check_splits(Splits(train, validation, test))


def check_splits(splits: Splits) -> Splits:
    """Return the splits unchanged.

    Raises:
        InputError: they differ in shape or classes.
    """
    for other in (splits.validation, splits.test):
        for what, due, found in (
            ("images of shape", tuple(splits.train.x.shape[1:]), tuple(other.x.shape[1:])),
            ("classes", splits.train.classes, other.classes),
        ):
            if due != found:
                raise InputError(
                    f"the {other.split} split of {other.name!r} has {what} {found} where the training "
                    f"images have {due}; make them alike."
                )
    return splits


def reside(images: Images, device: str) -> Resident:
    """Return the images on the device."""
    levels = (images.x * 255).round().to(torch.uint8)
    exact = torch.equal(_as_float(levels), images.x)
    return Resident((levels if exact else images.x).to(device), images.y.to(device))


def shuffle(count: int, seed: int, epoch: int) -> Int64[Tensor, " count"]:
    """Return the order of an epoch: a permutation of 0 … count − 1 that is a pure function of (seed, epoch)."""
    generator = torch.Generator().manual_seed(rng.key(seed, "shuffle", epoch) >> 1)
    return torch.randperm(count, generator=generator)


def _as_float(pixels: Tensor) -> Tensor:
    return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels
