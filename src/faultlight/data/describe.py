"""What a data set holds: counts, pixel statistics, fingerprints, and which image is in which split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from faultlight.data.images import Images
from faultlight.data.load import find_source, load_data
from faultlight.data.source import Request
from faultlight.data.splits import split_hash

_CHUNK = 4_096  # images whose float64 copy is held at a time


@dataclass(frozen=True)
class SplitFacts:
    """What one split holds.

    Args:
        split: its name.
        n: number of images.
        shape: channels, height and width of each.
        histogram: number of images of each class, by label.
        mean: mean of each channel over all pixels.
        std: standard deviation of each channel over all pixels.
        low: the least pixel.
        high: the greatest pixel.
        fingerprint: SHA-256 over pixels, labels and ids.
        notes: what the loader had to say.
    """

    split: str
    n: int
    shape: tuple[int, ...]
    histogram: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: float
    high: float
    fingerprint: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Description:
    """What a data set holds.

    Args:
        name: the set's name or path.
        classes: names of the classes, by label.
        split_seed: the seed that divided the training file.
        split_hash: SHA-256 over which image is in which split.
        splits: the facts of each split.
    """

    name: str
    classes: tuple[str, ...]
    split_seed: int
    split_hash: str
    splits: tuple[SplitFacts, ...]


def describe(name: str, *, split_seed: int = 0, **options: Any) -> Description:
    """Load every split of a set, one at a time, and return what it holds.

    Args:
        name: a set's name or a path, as for `load_data`.
        split_seed: the seed that divides the training file.
        options: `folder`, `skip_bad` and `resize`, as for `load_data`.

    Raises:
        InputError: as `load_data`.
    """
    request = Request(name, split_seed=split_seed, **options)
    facts: list[SplitFacts] = []
    members: dict[str, Int64[np.ndarray, " n"]] = {}
    classes: tuple[str, ...] = ()
    for split in find_source(name).splits(request):
        images = load_data(name, split, split_seed=split_seed, **options)
        facts.append(split_facts(images))
        members[split] = images.ids.numpy()
        classes = images.classes
    return Description(name, classes, split_seed, split_hash(members), tuple(facts))


def split_facts(images: Images) -> SplitFacts:
    """Return the facts of one split."""
    mean, std = channel_statistics(images.x)
    return SplitFacts(
        images.split,
        len(images),
        tuple(images.x.shape[1:]),
        tuple(torch.bincount(images.y, minlength=len(images.classes)).tolist()),
        mean,
        std,
        float(images.x.min()),
        float(images.x.max()),
        images.fingerprint(),
        images.notes,
    )


def channel_statistics(x: Float32[Tensor, "n c h w"]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation (of the population) of each channel, summed in float64.

    σ² = Σ(x - μ)² / N over the N = n·h·w pixels of a channel.

    Args:
        x: pixels, shape (n, c, h, w).
    """
    count = x.numel() / x.shape[1]
    mean = _sum(x, torch.zeros(x.shape[1], 1, 1, dtype=torch.float64), power=1) / count
    variance = _sum(x, mean[:, None, None], power=2) / count
    return tuple(mean.tolist()), tuple(variance.sqrt().tolist())


def _sum(x: Tensor, origin: Tensor, power: int) -> Tensor:
    parts = (x[start : start + _CHUNK].double() for start in range(0, len(x), _CHUNK))
    return torch.stack([((part - origin) ** power).sum((0, 2, 3)) for part in parts]).sum(0)
