"""Splits: a function of the seed alone, the same in every version, complete and without overlap."""

from __future__ import annotations

import hashlib
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from faultlight.data.splits import divide, positions, split_hash, tenth

# Of CIFAR-10's 50,000 training images, by seed 0. Whoever trained on this split must find it again in every version.
VALIDATION_STARTS = [2, 3, 11, 13, 15, 20, 21, 32]
SPLIT_HASH = "5d2eee9dab8139af20acea40bc5714344afa0ed56d9a8fb8c65bf3e78e8fdfa5"


def pcg64_raw(seed: int, count: int) -> list[int]:
    """PCG64 as its paper defines it (PCG XSL RR 128/64), in plain integers, from NumPy's documented seeding."""
    word = np.random.SeedSequence(seed).generate_state(4, np.uint64)
    start, stream = ((int(word[i]) << 64) | int(word[i + 1]) for i in (0, 2))
    multiplier, mask = 0x2360ED051FC65DA44385DF649FCCF645, 2**128 - 1
    increment = (stream << 1 | 1) & mask
    state = (((increment + start) & mask) * multiplier + increment) & mask
    drawn = []
    for _ in range(count):
        state = (state * multiplier + increment) & mask
        value, turn = (state >> 64 ^ state) & (2**64 - 1), state >> 122
        drawn.append((value >> turn | value << (64 - turn)) & (2**64 - 1))
    return drawn


@pytest.mark.parametrize("seed", [0, 7, 12345])
def test_the_smallest_raw_draws_are_validation(seed: int) -> None:
    keys = pcg64_raw(seed, 40)
    expected = sorted(sorted(range(40), key=lambda position: keys[position])[:9])
    train, validation = divide(40, 9, seed)
    assert validation.tolist() == expected
    assert train.tolist() == [position for position in range(40) if position not in expected]


def test_cifar_10s_split_is_fixed() -> None:
    train, validation = divide(50_000, 10_000, 0)
    assert (len(train), len(validation)) == (40_000, 10_000)
    assert sorted([*train.tolist(), *validation.tolist()]) == list(range(50_000))
    assert validation[:8].tolist() == VALIDATION_STARTS
    assert split_hash({"train": train, "validation": validation}) == SPLIT_HASH
    assert divide(50_000, 10_000, 1)[1].tolist() != validation.tolist()


@given(total=st.integers(0, 300), share=st.floats(0, 1), seed=st.integers(0, 2**32))
def test_nothing_is_lost_and_nothing_is_twice(total: int, share: float, seed: int) -> None:
    held_out = int(total * share)
    train, validation = divide(total, held_out, seed)
    assert len(validation) == held_out
    assert sorted([*train.tolist(), *validation.tolist()]) == list(range(total))
    assert train.tolist() == sorted(train.tolist())
    assert validation.tolist() == sorted(validation.tolist())


def test_positions_of_a_file_with_and_without_a_validation_part() -> None:
    train, validation = divide(10, 3, 5)
    assert positions("train", 10, None, 3, 5).tolist() == train.tolist()
    assert positions("validation", 10, None, 3, 5).tolist() == validation.tolist()
    assert positions("train+validation", 10, None, 3, 5).tolist() == list(range(10))
    assert positions("train", 4, 2, 3, 5).tolist() == [0, 1, 2, 3]
    assert positions("validation", 4, 2, 3, 5).tolist() == [4, 5]
    assert positions("train+validation", 4, 2, 3, 5).tolist() == [0, 1, 2, 3, 4, 5]


def test_split_hash_is_over_name_count_and_positions() -> None:
    content = b"test:1\n" + struct.pack("<q", 9) + b"train:2\n" + struct.pack("<qq", 1, 2)
    found = split_hash({"train": np.array([1, 2]), "test": np.array([9])})
    assert found == hashlib.sha256(content).hexdigest()


def test_a_tenth_is_at_least_one() -> None:
    assert [tenth(total) for total in (1, 9, 10, 26, 60_000)] == [1, 1, 1, 3, 6_000]
