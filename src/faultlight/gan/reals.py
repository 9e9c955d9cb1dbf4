"""The images that a discriminator is shown: those of a training file, or stacks of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from faultlight import rng
from faultlight.data.images import Images
from faultlight.data.load import load_data
from faultlight.errors import InputError
from faultlight.train.memory import Resident, reside, shuffle


@dataclass(frozen=True)
class Reals:
    """Images on the device, and how many are laid over one another.

    Args:
        images: as they were loaded.
        pixels: the same on the device.
        stack: images a stack; 1 leaves them as they are.
    """

    images: Images
    pixels: Resident
    stack: int = 1

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what is learnt."""
        channels, height, width = self.images.shape
        return channels * self.stack, height, width

    def batch(self, size: int, seed: int, step: int) -> Float32[Tensor, "size c h w"]:
        """Return the images of one step, a pure function of (seed, step); epoch by epoch each image comes once."""
        layers = [
            self.pixels.take(_rows(len(self.images), size, rng.key(seed, "reals", layer), step))[0]
            for layer in range(self.stack)
        ]
        return torch.cat(layers, 1)

    def sample(self, count: int, seed: int) -> Float32[Tensor, "count c h w"]:
        """Return `count` of them, or stacks of them, in shuffled order; from the first again where there are fewer."""
        size = min(count, len(self.images))
        parts = [self.batch(size, rng.key(seed, "sample") >> 1, step) for step in range(-(-count // size))]
        return torch.cat(parts)[:count]


def load_reals(data: str, stack: int, batch: int, device: str) -> Reals:
    """Return all images of a training file.

    Raises:
        InputError: the data cannot be had, there are fewer images than a batch, or coloured ones are to be stacked.
    """
    return place_reals(load_data(data, "train+validation"), stack, batch, device)


def place_reals(images: Images, stack: int, batch: int, device: str) -> Reals:
    """Return the images on the device, after the same checks as `load_reals`."""
    if len(images) < batch:
        count = f"{len(images)} training image{'s' * (len(images) != 1)}"
        smaller = f", or batch = {len(images)} at most" if len(images) > 1 else ""
        raise InputError(
            f"{images.name!r} has {count}, and a generator learns from batches of {batch}; give more images{smaller}."
        )
    if stack > 1 and images.shape[0] != 1:
        raise InputError(f"only grey images are stacked, and those of {images.name!r} have {images.shape[0]} channels.")
    return Reals(images, reside(images, device), stack)


def _rows(count: int, size: int, seed: int, step: int) -> Int64[Tensor, " size"]:
    epoch, place = divmod(step, count // size)
    return _order(count, seed, epoch)[place * size : (place + 1) * size]


@lru_cache(maxsize=8)
def _order(count: int, seed: int, epoch: int) -> Int64[Tensor, " count"]:
    return shuffle(count, seed, epoch)
