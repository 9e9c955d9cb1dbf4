"""Random numbers that are a pure function of (seed, image id, probe, step).

A counter-based generator: SplitMix64's output function (Steele, Lea & Flood 2014, "Fast splittable pseudorandom
number generators") applied to a key made of the words, advanced by the element's position. No state is kept, so
neither the order of the images, nor the batch size, nor the number of processes changes a single number.
"""

from __future__ import annotations

import hashlib
import math

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB
_WORD = 1 << 64


def key(seed: int, *words: str | int) -> int:
    """Hash a seed and words such as the probe's name to a 64-bit key, equal on every machine."""
    text = "\x1f".join([str(seed), *map(str, words)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def bits(key: int, ids: Int64[Tensor, " n"], step: Int64[Tensor, " n"], count: int) -> Int64[Tensor, "n count"]:
    """Return 64 random bits for each of `count` elements of each row, as int64.

    Args:
        key: from `key(seed, probe)`.
        ids: one image id a row.
        step: one counter a row, such as the attack's step.
        count: elements a row.
    """
    row = _mix(_mix(ids + _signed(key)) + step)
    position = torch.arange(1, count + 1, device=ids.device, dtype=torch.int64) * _signed(_GOLDEN)
    return _mix(row[:, None] + position)


def uniform(
    key: int, ids: Int64[Tensor, " n"], step: Int64[Tensor, " n"], shape: tuple[int, ...]
) -> Float32[Tensor, "n ..."]:
    """Return numbers uniform in [0, 1), of shape (n, *shape), with 24 random bits each."""
    words = _shift(bits(key, ids, step, math.prod(shape)), 40)
    return (words.to(torch.float32) * 2.0**-24).view(len(ids), *shape)


def normal(
    key: int, ids: Int64[Tensor, " n"], step: Int64[Tensor, " n"], shape: tuple[int, ...]
) -> Float32[Tensor, "n ..."]:
    """Return standard normal numbers of shape (n, *shape), by the Box–Muller transform."""
    count = math.prod(shape)
    words = _shift(bits(key, ids, step, 2 * count), 40).to(torch.float32)
    radius = torch.sqrt(-2 * torch.log((words[:, :count] + 1) * 2.0**-24))
    angle = words[:, count:] * (2 * math.pi * 2.0**-24)
    return (radius * torch.cos(angle)).view(len(ids), *shape)


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)) * _signed(_FIRST)
    z = (z ^ _shift(z, 27)) * _signed(_SECOND)
    return z ^ _shift(z, 31)


def _shift(z: Tensor, places: int) -> Tensor:
    # int64 shifts in copies of the sign bit; masking makes the shift logical.
    return (z >> places) & ((1 << (64 - places)) - 1)


def _signed(word: int) -> int:
    return (word + _WORD // 2) % _WORD - _WORD // 2
