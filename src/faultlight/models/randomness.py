"""Luck under control: the random numbers that a model draws for itself, made a function of a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from faultlight import rng


class Luck:
    """Whatever a model may draw from: PyTorch, NumPy, Python, and the generators that its modules keep for themselves.

    Numbers that a model has from the operating system cannot be had twice.

    Args:
        module: the model; generators among the attributes of its modules are its own.
        device: the generator of this device counts besides the CPU's.
    """

    def __init__(self, module: nn.Module, device: torch.device):
        self._own = [value for part in module.modules() for value in vars(part).values() if _is_generator(value)]
        # Not by `torch.manual_seed`: it notes a stack trace for each kind of device that is not there, every time.
        self._torch = [torch.default_generator]
        if device.type == "cuda":
            self._torch.append(torch.cuda.default_generators[device.index or 0])

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Put the global generators back as they were when the block ends."""
        python, numpy = random.getstate(), np.random.get_state()
        states = [generator.get_state() for generator in self._torch]
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
            for generator, state in zip(self._torch, states, strict=True):
                generator.set_state(state)

    def seed(self, seed: int) -> None:
        """Seed all of them, with any whole number; 64 bits of it are used."""
        word = seed % (1 << 64)
        random.seed(word)
        np.random.seed(word % (1 << 32))
        for generator in self._torch:
            generator.manual_seed(word)
        for value in self._own:
            _seed(value, word)


@contextmanager
def seeded(seed: int, module: nn.Module, device: torch.device) -> Iterator[None]:
    """Seed whatever a model may draw from, and put the global generators back afterwards."""
    luck = Luck(module, device)
    with luck.kept():
        luck.seed(seed)
        yield


@contextmanager
def constant(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Give a module the same luck at each forward pass, so that two passes can be compared."""
    luck = Luck(module, device)
    with luck.kept():
        handle = module.register_forward_pre_hook(lambda *_: luck.seed(0))
        try:
            yield
        finally:
            handle.remove()


def fingerprints(x: Tensor) -> list[int]:
    """Return a number for each row of float32 pixels, (n, c, h, w), that depends on nothing but its bits."""
    zero = torch.zeros(1, dtype=torch.int64, device=x.device)
    words = x.contiguous().view(torch.int32).flatten(1).long()
    # Odd factors, so that no bit is lost; int64 wraps around, so that the order of the sum does not matter.
    factors = rng.bits(0, zero, zero, words.shape[1]) | 1
    return list((words * factors).sum(1).tolist())


def _is_generator(value: Any) -> bool:
    return isinstance(value, torch.Generator | random.Random | np.random.RandomState | np.random.Generator)


def _seed(generator: Any, word: int) -> None:
    if isinstance(generator, torch.Generator):
        generator.manual_seed(word)
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = type(generator.bit_generator)(word).state
    else:
        generator.seed(word if isinstance(generator, random.Random) else word % (1 << 32))
