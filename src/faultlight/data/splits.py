"""Which images of a training file are for training, and which for validation: a function of a seed alone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
from jaxtyping import Int64

from faultlight.errors import InputError


def divide(total: int, held_out: int, seed: int) -> tuple[Int64[np.ndarray, " t"], Int64[np.ndarray, " v"]]:
    """Divide positions 0 … total - 1 into train and validation, both in ascending order.

    Image i draws the 64 bits k_i, the i-th raw output of PCG64(seed); the `held_out` images of smallest k are the
    validation split. NumPy promises the raw stream of its bit generators, but not the algorithm of `permutation`, so
    the split stays the same in every version.

    Args:
        total: number of images in the training file, ≥ 0.
        held_out: number of images for validation, in [0, total].
        seed: any integer ≥ 0.

    Returns:
        The positions of the train split, and those of the validation split.
    """
    keys = np.asarray(np.random.PCG64(seed).random_raw(total), dtype=np.uint64)
    order = np.argsort(keys, kind="stable").astype(np.int64)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def positions(split: str, train: int, validation: int | None, held_out: int, seed: int) -> Int64[np.ndarray, " n"]:
    """Return the positions of a split in the training file.

    Args:
        split: "train", "validation" or "train+validation".
        train: number of images in the training part of the file.
        validation: number of images in its validation part, which follows; None when the file has no such part and
            the split is drawn by seed.
        held_out: how many images to draw for validation, when they are drawn.
        seed: the seed to draw by.

    Raises:
        InputError: the only training image is drawn for validation, and the train split asked for.
    """
    if split == "train+validation":
        return np.arange(train + (validation or 0), dtype=np.int64)
    if split == "train" and validation is None and train == 1:
        raise InputError(
            "the data has a single training image, which cannot be both learnt from and held out for validation; "
            "give at least two, better some hundred."
        )
    if validation is None:
        parts = divide(train, held_out, seed)
    else:
        parts = np.arange(train, dtype=np.int64), np.arange(train, train + validation, dtype=np.int64)
    return parts[0] if split == "train" else parts[1]


def tenth(total: int) -> int:
    """Return how many images a set without a published division holds out: one in ten, at least one."""
    return max(1, round(total / 10))


def split_hash(members: Mapping[str, Int64[np.ndarray, " _"]]) -> str:
    """Return a SHA-256 (hex) over which image is in which split: each split's name, count and positions."""
    digest = hashlib.sha256()
    for name in sorted(members):
        ids = np.ascontiguousarray(members[name], dtype="<i8")
        digest.update(f"{name}:{len(ids)}\n".encode())
        digest.update(ids.tobytes())
    return digest.hexdigest()
