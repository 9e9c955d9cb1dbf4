"""Generators and discriminators: a pair of two-layer perceptrons, and convolutional pairs in the manner of DCGAN.

Pixels are in [0, 1] on the outside. A generator ends in (1 + tanh)/2, and a discriminator begins with 2x − 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from faultlight import rng
from faultlight.errors import InputError

NetName = Literal["mlp", "dcgan"]
Norm = Literal["batch", "spectral", "none"]
_SLOPE = 0.2


@dataclass(frozen=True)
class Design:
    """How a pair of networks is built.

    Args:
        net: "mlp": latent – width – pixels and back; "dcgan": see `dcgan_generator`.
        latent: numbers that an image is drawn from, each standard normal.
        width: hidden units of the perceptrons, or channels at half the size of an image.
        shape: channels, height and width of an image.
        norm: what steadies the discriminator of "dcgan".
        hidden: units of a linear layer between latent numbers and maps of "dcgan", and of one between maps and score;
            0 for none.
        codes: of the latent numbers, the first so many say one of so many codes; see `coded`. 0 for none.
    """

    net: NetName
    latent: int
    width: int
    shape: tuple[int, int, int]
    norm: Norm = "none"
    hidden: int = 0
    codes: int = 0

    def __post_init__(self) -> None:
        _, height, width = self.shape
        if self.net == "dcgan" and (height % 4 or width % 4):
            raise InputError(
                f"the net 'dcgan' halves an image twice, and {height}×{width} does not divide by 4; "
                f"choose net = 'mlp' or other images."
            )
        if self.codes == 1 or not 0 <= self.codes <= self.latent:
            raise InputError(f"codes must be 0, or from 2 to the {self.latent} latent numbers, not {self.codes}.")


def code_of(z: Float32[Tensor, "n latent"], codes: int) -> Int64[Tensor, " n"]:
    """Return which of its first numbers is the largest: of standard normal ones, each as often as any other."""
    return z[:, :codes].argmax(1)


def coded(z: Float32[Tensor, "n latent"], codes: int) -> Float32[Tensor, "n latent"]:
    """Return latent numbers of which the first K became a code: K/√(K − 1) at the largest, 0 elsewhere.

    The factor gives each of them variance 1, as the others have. Images of different codes need no images between them,
    which a continuous function of normal numbers cannot help drawing.

    Args:
        z: standard normal.
        codes: K, 0 or at least 2; 0 changes nothing.

    Source: Chen et al. 2016, "InfoGAN", section 5. Departure: a code is read off normal numbers, so that latent points
    stay points.
    """
    if not codes:
        return z
    chosen = nn.functional.one_hot(code_of(z, codes), codes).to(z.dtype)
    return torch.cat([chosen * (codes / (codes - 1) ** 0.5), z[:, codes:]], 1)


class Generator(nn.Module):
    """Latent numbers in, pixels in [0, 1] out."""

    def __init__(self, design: Design):
        super().__init__()
        self.design = design
        self.layers = _mlp_generator(design) if design.net == "mlp" else dcgan_generator(design)

    def forward(self, z: Float32[Tensor, "n latent"]) -> Float32[Tensor, "n c h w"]:
        """Draw an image for each row of numbers."""
        drawn: Tensor = self.layers(coded(z, self.design.codes))
        return (1 + torch.tanh(drawn)) / 2


class Discriminator(nn.Module):
    """Pixels in [0, 1] in, one score an image out: the larger, the more it looks real."""

    def __init__(self, design: Design):
        super().__init__()
        self.layers = _mlp_discriminator(design) if design.net == "mlp" else dcgan_discriminator(design)
        # Of its own only where there are codes, so that the weights of all other nets stay the same.
        self.reader = nn.Linear(_units(self.layers[-1]), design.codes) if design.codes else None

    def forward(self, x: Float32[Tensor, "n c h w"]) -> Float32[Tensor, " n"]:
        """Score images."""
        scores: Tensor = self.layers(2 * x - 1)
        return scores.flatten()

    def read(self, x: Float32[Tensor, "n c h w"]) -> tuple[Float32[Tensor, " n"], Float32[Tensor, "n codes"]]:
        """Score images, and say by logits with which code they were drawn."""
        assert self.reader is not None
        seen = self.layers[:-1](2 * x - 1)
        return self.layers[-1](seen).flatten(), self.reader(seen)


def build_pair(design: Design, seed: int) -> tuple[Generator, Discriminator]:
    """Return both networks, with initial weights that depend on the seed alone.

    Convolutions of "dcgan" and its linear layers begin with N(0, 0.02²), scales of batch norm with 1, as in the paper;
    the perceptrons as PyTorch begins them.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(rng.key(seed, "gan") >> 1)
        generator = Generator(design)
        discriminator = Discriminator(design)
        if design.net == "dcgan":
            generator.apply(_begin)
            discriminator.apply(_begin)
            discriminator = _spectral(discriminator) if design.norm == "spectral" else discriminator
    return generator, discriminator


def parameter_count(module: nn.Module) -> int:
    """Return how many numbers are learnt."""
    return sum(each.numel() for each in module.parameters())


def dcgan_generator(design: Design) -> nn.Sequential:
    """Return linear – 2w channels at a quarter of the size – w at half – image.

    Two transposed convolutions 4×4 of stride 2; batch norm and ReLU before each. With `hidden`, latent numbers first go
    through that many units with batch norm and ReLU, so that the coarse maps are no longer linear in them.

    Source: Radford, Metz & Chintala 2016, "Unsupervised representation learning with deep convolutional GANs", section
    3; the hidden layer: Chen et al. 2016, "InfoGAN", appendix C.1. Departure: two doublings in place of four, since
    images are small.
    """
    channels, height, width = design.shape
    w = design.width
    size = (2 * w, height // 4, width // 4)
    return nn.Sequential(
        *_hidden_generator(design),
        nn.Linear(design.hidden or design.latent, size[0] * size[1] * size[2], bias=False),
        nn.Unflatten(1, size),
        *_after(2 * w),
        nn.ConvTranspose2d(2 * w, w, 4, stride=2, padding=1, bias=False),
        *_after(w),
        nn.ConvTranspose2d(w, channels, 4, stride=2, padding=1),
    )


def dcgan_discriminator(design: Design) -> nn.Sequential:
    """Return image – w channels at half the size – 2w at a quarter – score; leaky ReLU of slope 0.2.

    Without `hidden` the score is a sum of what 10×10 pixels say each by themselves: no unit sees a whole image, and
    parts that each look real pass together. With it, that many units do.

    Source: as `dcgan_generator`; spectral norm: Miyato et al. 2018, "Spectral normalization for generative adversarial
    networks". Batch norm, where it is chosen, is left out of the first layer, as in the paper.
    """
    channels, height, width = design.shape
    w = design.width
    norm = [nn.BatchNorm2d(2 * w)] if design.norm == "batch" else []
    return nn.Sequential(
        nn.Conv2d(channels, w, 4, stride=2, padding=1),
        nn.LeakyReLU(_SLOPE),
        nn.Conv2d(w, 2 * w, 4, stride=2, padding=1),
        *norm,
        nn.LeakyReLU(_SLOPE),
        nn.Flatten(),
        *_head(design, 2 * w * (height // 4) * (width // 4)),
    )


def _hidden_generator(design: Design) -> list[nn.Module]:
    if not design.hidden:
        return []
    return [nn.Linear(design.latent, design.hidden, bias=False), nn.BatchNorm1d(design.hidden), nn.ReLU()]


def _head(design: Design, units: int) -> list[nn.Module]:
    if not design.hidden:
        return [nn.Linear(units, 1)]
    norm = [nn.BatchNorm1d(design.hidden)] if design.norm == "batch" else []
    return [nn.Linear(units, design.hidden), *norm, nn.LeakyReLU(_SLOPE), nn.Linear(design.hidden, 1)]


def _units(layer: nn.Module) -> int:
    assert isinstance(layer, nn.Linear)
    return layer.in_features


def _mlp_generator(design: Design) -> nn.Sequential:
    channels, height, width = design.shape
    return nn.Sequential(
        nn.Linear(design.latent, design.width),
        nn.ReLU(),
        nn.Linear(design.width, channels * height * width),
        nn.Unflatten(1, design.shape),
    )


def _mlp_discriminator(design: Design) -> nn.Sequential:
    channels, height, width = design.shape
    return nn.Sequential(
        nn.Flatten(), nn.Linear(channels * height * width, design.width), nn.ReLU(), nn.Linear(design.width, 1)
    )


def _after(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.BatchNorm2d(channels), nn.ReLU()


def _begin(layer: nn.Module) -> None:
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(layer.weight, std=0.02)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def _spectral(discriminator: Discriminator) -> Discriminator:
    for layer in discriminator.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            spectral_norm(layer)
    return discriminator
