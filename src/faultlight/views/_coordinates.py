"""What an optimiser of images acts on, and how rough an image is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float32
from torch import Tensor


class Adam:
    """Adam's step, row by row alike: −rate · m̂ / (√v̂ + 1e-8), with decays of 0.9 and 0.999.

    Not torch.optim's, whose first step imports torch's compiler for seconds.

    Source: Kingma and Ba 2015, "Adam: a method for stochastic optimization", algorithm 1.
    """

    def __init__(self, like: Tensor, rate: float):
        self.rate, self.steps = rate, 0
        self.mean, self.square = torch.zeros_like(like), torch.zeros_like(like)

    def step(self, gradient: Tensor) -> Tensor:
        """Return by how much to move, after having seen one more gradient."""
        self.steps += 1
        self.mean.lerp_(gradient, 0.1)
        self.square.lerp_(gradient.square(), 0.001)
        mean, square = self.mean / (1 - 0.9**self.steps), self.square / (1 - 0.999**self.steps)
        return -self.rate * mean / (square.sqrt() + 1e-8)


@dataclass(frozen=True)
class Coordinates:
    """What Adam acts on: the pixels, or their Fourier coefficients divided by the wavelength in pixels.

    Args:
        sides: height and width.
        fourier: the latter.
        device: where.
    """

    sides: tuple[int, ...]
    fourier: bool
    device: torch.device

    def pixels(self, u: Float32[Tensor, "n c ..."]) -> Float32[Tensor, "n c h w"]:
        """Return the pixels of coordinates."""
        if not self.fourier:
            return u
        x: Tensor = torch.fft.irfft2(torch.view_as_complex(u) * self._wavelength(), s=self.sides, norm="ortho")
        return x

    def of(self, x: Float32[Tensor, "n c h w"]) -> Float32[Tensor, "n c ..."]:
        """Return the coordinates of pixels."""
        if not self.fourier:
            return x.clone()
        return torch.view_as_real(torch.fft.rfft2(x, norm="ortho") / self._wavelength()).contiguous()

    def _wavelength(self) -> Float32[Tensor, "h half"]:
        height, width = self.sides
        rows, columns = torch.fft.fftfreq(height), torch.fft.rfftfreq(width)
        frequency = (rows[:, None].square() + columns.square()).sqrt()
        # The mean has no wavelength; it moves like the longest wave that fits.
        wavelength: Tensor = 1 / frequency.clamp(min=1 / max(height, width))
        return wavelength.to(self.device)


def variation(x: Float32[Tensor, "n c h w"]) -> Float32[Tensor, " n"]:
    """Return the total variation: the sum of |differences| between neighbours, down and across."""
    down, across = x.diff(dim=2).abs(), x.diff(dim=3).abs()
    return down.flatten(1).sum(1) + across.flatten(1).sum(1)
