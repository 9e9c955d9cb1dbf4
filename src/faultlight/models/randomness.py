"""Luck under control: the random numbers that a model draws for itself, made a function of a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from faultlight import rng


@contextmanager
def seeded(seed: int, module: nn.Module, device: torch.device) -> Iterator[None]:
    """Seed whatever a model may draw from: PyTorch, NumPy, Python, and the generators it keeps for itself.

    The global generators are put back afterwards as they were. Numbers that a model has from the operating system
    cannot be had twice.

    Args:
        seed: any whole number; 64 bits of it are used.
        module: its generators among the attributes of its modules are seeded too.
        device: the generator of this device is seeded besides the CPU's.
    """
    python, numpy = random.getstate(), np.random.get_state()
    devices = [device] if device.type == "cuda" else []
    word = seed % (1 << 64)
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(word)
        random.seed(word)
        np.random.seed(word % (1 << 32))
        _seed_own(module, word)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def fingerprints(x: Tensor) -> list[int]:
    """Return a number for each row of float32 pixels, (n, c, h, w), that depends on nothing but its bits."""
    zero = torch.zeros(1, dtype=torch.int64, device=x.device)
    words = x.contiguous().view(torch.int32).flatten(1).long()
    # Odd factors, so that no bit is lost; int64 wraps around, so that the order of the sum does not matter.
    factors = rng.bits(0, zero, zero, words.shape[1]) | 1
    return list((words * factors).sum(1).tolist())


def _seed_own(module: nn.Module, word: int) -> None:
    for part in module.modules():
        for value in vars(part).values():
            if isinstance(value, torch.Generator):
                value.manual_seed(word)
            elif isinstance(value, random.Random):
                value.seed(word)
            elif isinstance(value, np.random.RandomState):
                value.seed(word % (1 << 32))
            elif isinstance(value, np.random.Generator):
                value.bit_generator.state = type(value.bit_generator)(word).state
