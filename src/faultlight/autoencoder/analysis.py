"""What an autoencoder has learnt and what it loses, in numbers: kernels, code, classes, frequencies."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float32, Float64
from torch import Tensor, nn

from faultlight.autoencoder.measure import errors, restore
from faultlight.autoencoder.nets import Net
from faultlight.data.images import Images
from faultlight.geometry import rows

Pixels = Float32[Tensor, "n c h w"]
# What a kernel's energy is divided into.
PARTS = ("brightness", "edge", "pattern", "colour")
BANDS = 8


@dataclass(frozen=True)
class Kernel:
    """What one kernel that touches the image answers to, as shares of its energy Σw² that add up to 1.

    w = brightness + edge + pattern + colour, each orthogonal to the others: the mean over channels and places; a ramp
    across the places, the same in every channel; what else varies over the places alike in every channel; and what
    differs between the channels.

    Args:
        index: which kernel of the layer.
        shares: the four shares.
        angle: the direction in which the edge part grows brighter, in degrees: 0 is to the right, 90 downwards.
        energy: Σw².
    """

    index: int
    shares: dict[str, float]
    angle: float
    energy: float

    @property
    def kind(self) -> str:
        """The largest share's name."""
        return max(self.shares, key=lambda part: self.shares[part])


def kernel_facts(kernels: Float32[Tensor, "k c h w"]) -> list[Kernel]:
    """Return what each of a layer's kernels answers to."""
    w = kernels.detach().cpu().double()
    grey = w.mean(1, keepdim=True).expand_as(w)
    flat = grey.mean((2, 3), keepdim=True).expand_as(w)
    across, down = _ramps(*w.shape[2:])
    slopes = [(grey * ramp).sum((1, 2, 3)) / w.shape[1] for ramp in (across, down)]
    edge = (rows(slopes[0]) * across + rows(slopes[1]) * down).expand_as(w)
    parts = [flat, edge, grey - flat - edge, w - grey]
    energy = w.square().sum((1, 2, 3))
    shares = torch.stack([_energy(part) for part in parts], 1) / energy[:, None].clamp(min=1e-30)
    return [
        Kernel(
            row,
            dict(zip(PARTS, shares[row].tolist(), strict=True)),
            math.degrees(math.atan2(float(slopes[1][row]), float(slopes[0][row]))),
            float(energy[row]),
        )
        for row in range(len(w))
    ]


def ends(net: nn.Module, channels: int) -> dict[str, Float32[Tensor, "k c h w"]]:
    """Return the kernels that touch the image, (k, channels, h, w): those that read it, and those that draw it."""
    layers = [
        (name, module) for name, module in net.named_modules() if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
    ]
    (first, reads), (last, draws) = layers[0], layers[-1]
    drawn = draws.weight if isinstance(draws, nn.ConvTranspose2d) else draws.weight.transpose(0, 1)
    found = {first: reads.weight, last: drawn}
    return {name: weight.detach() for name, weight in found.items() if weight.shape[1] == channels}


@dataclass(frozen=True)
class Channel:
    """What one channel of the code is worth.

    Args:
        index: which channel.
        mse: mean squared error with the channel set to zero.
        active: share of the images and places where it is not zero.
        mean: over images and places.
    """

    index: int
    mse: float
    active: float
    mean: float


def code_facts(net: Net, x: Pixels) -> list[Channel]:
    """Return the reconstruction error with each channel of the code zeroed in turn, the rest as it is."""
    code = code_of(net, x)
    found = []
    for channel in range(code.shape[1]):
        with zeroed(net, channel):
            mse = float(errors(restore(net, x), x).mean())
        part = code[:, channel]
        found.append(Channel(channel, mse, float((part != 0).float().mean()), float(part.mean())))
    return found


@torch.no_grad()
def code_of(net: Net, x: Pixels) -> Float32[Tensor, "n k g j"]:
    """Return the code of images: what the encoder's last layer puts out."""
    heard: list[Tensor] = []
    hook = net.get_submodule(net.latent).register_forward_hook(lambda _module, _given, output: heard.append(output))
    try:
        restore(net, x)
    finally:
        hook.remove()
    return torch.cat(heard)


@contextmanager
def zeroed(net: Net, channel: int) -> Iterator[None]:
    """Set a channel of the code to zero while the context lasts."""

    def change(_module: nn.Module, _given: Any, output: Tensor) -> Tensor:
        changed = output.clone()
        changed[:, channel] = 0
        return changed

    hook = net.get_submodule(net.latent).register_forward_hook(change)
    try:
        yield
    finally:
        hook.remove()


def by_class(images: Images, restored: Pixels) -> list[dict[str, Any]]:
    """Return mean squared error and count of each class that has images."""
    each = errors(restored, images.x)
    present = [(label, images.y == label) for label in range(len(images.classes)) if bool((images.y == label).any())]
    return [
        {"label": label, "name": images.classes[label], "mse": float(each[of].mean()), "count": int(of.sum())}
        for label, of in present
    ]


def by_frequency(x: Pixels, restored: Pixels, bands: int = BANDS) -> list[dict[str, float]]:
    """Return for each band of frequencies the power of the images and that of the error, and their ratio.

    Bands are of equal width in √(u² + v²), u and v in cycles a pixel, up to ½; what lies beyond, in the corners, is of
    the last band. The powers of all bands add up to the mean square (Parseval); that of the images includes their mean.
    """
    power, lost = (band_powers(part, bands) for part in (x, restored - x))
    ends_at = [0.5 * (band + 1) / bands for band in range(bands)]
    return [
        {"up_to": up_to, "power": float(has), "lost": float(off), "ratio": float(off / has) if has > 0 else 0.0}
        for up_to, has, off in zip(ends_at, power, lost, strict=True)
    ]


def band_powers(x: Pixels, bands: int = BANDS) -> Float64[Tensor, " bands"]:
    """Return the mean square of the values that lies in each band of frequencies."""
    height, width = x.shape[2:]
    power = torch.fft.fft2(x.double(), norm="ortho").abs().square().mean((0, 1)) / (height * width)
    radius = torch.hypot(_frequencies(height)[:, None], _frequencies(width)[None, :])
    band = (radius / (0.5 / bands)).long().clamp(max=bands - 1)
    return torch.zeros(bands, dtype=torch.float64).index_add(0, band.flatten(), power.flatten().cpu())


def principal_error(train: Float32[Tensor, "m c h w"], x: Pixels, numbers: int) -> float | None:
    """Return the mean squared error of principal components, as many as a code has numbers; None where that is all.

    The components are those of the training images, and x̂ = μ + V Vᵀ(x − μ) is not clipped to [0, 1].
    """
    flat = train.flatten(1)
    if numbers >= min(len(flat) - 1, flat.shape[1]):
        return None
    mean = flat.mean(0)
    centred = flat - mean
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    kept = vectors[:, -numbers:]
    off = x.flatten(1) - mean
    return float((off - (off @ kept) @ kept.T).double().square().mean())


def _energy(part: Float64[Tensor, "k c h w"]) -> Float64[Tensor, " k"]:
    return part.square().sum((1, 2, 3))


def _frequencies(length: int) -> Float64[Tensor, " length"]:
    found: Tensor = torch.fft.fftfreq(length, dtype=torch.float64)
    return found


def _ramps(height: int, width: int) -> tuple[Float64[Tensor, "h w"], Float64[Tensor, "h w"]]:
    """Return the ramps across and down, each of length 1; zero where a side is of one pixel."""
    down = torch.arange(height, dtype=torch.float64)[:, None].expand(height, width)
    across = torch.arange(width, dtype=torch.float64)[None, :].expand(height, width)
    found = [ramp - ramp.mean() for ramp in (across, down)]
    return found[0] / found[0].norm().clamp(min=1e-30), found[1] / found[1].norm().clamp(min=1e-30)
