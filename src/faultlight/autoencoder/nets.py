"""Networks that give back an image: the convolutional autoencoder, and denoising encoder–decoders of any depth."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from faultlight.errors import InputError

Pixels = Float32[Tensor, "n c h w"]
Family = Literal["convolutional", "encoder-decoder"]


@dataclass(frozen=True)
class Blueprint:
    """How a network is built.

    Args:
        family: "convolutional" (16 and 4 maps, two poolings) or "encoder-decoder".
        shape: channels, height and width of the images.
        depth: halvings of the image, ≥ 1; for "encoder-decoder" alone, as are those that follow.
        width: maps at full size, ≥ 1; twice as many after each halving.
        skips: whether each map of the encoder is added to the decoder's map of the same size.
        residual: whether the noise is predicted and taken away (Zhang et al. 2017) instead of the image drawn anew.
    """

    family: Family
    shape: tuple[int, int, int]
    depth: int = 2
    width: int = 16
    skips: bool = False
    residual: bool = False

    def __post_init__(self) -> None:
        if self.family not in ("convolutional", "encoder-decoder"):
            raise InputError(f"there is no family {self.family!r}; choose convolutional or encoder-decoder.")
        if self.depth < 1 or self.width < 1 or min(self.shape) < 1:
            raise InputError(f"depth, width and the sides of the images must be at least 1, not {self}.")
        self._check_sides()

    def _check_sides(self) -> None:
        sides = "×".join(map(str, self.shape[1:]))
        if self.family == "convolutional" and any(side % 4 for side in self.shape[1:]):
            raise InputError(
                f"the convolutional autoencoder halves its images twice, so sides must be multiples of 4, not {sides}; "
                f"choose family = 'encoder-decoder'."
            )
        if self.family == "encoder-decoder" and min(self.shape[1:]) < 2**self.depth:
            raise InputError(f"images of {sides} cannot be halved {self.depth} times; take a smaller depth.")


class Convolutional(nn.Module):
    """The convolutional autoencoder: 3 → 16 → 4 maps, and back by transposed convolutions; 1,495 parameters for RGB.

    Encoder: conv 3×3 (16, padding 1) – ReLU – max-pool 2 – conv 3×3 (4, padding 1) – ReLU – max-pool 2. Decoder:
    transposed conv 2×2, stride 2 (16) – ReLU – transposed conv 2×2, stride 2 – sigmoid.
    """

    latent = "encoder"

    def __init__(self, blueprint: Blueprint):
        super().__init__()
        self.blueprint = blueprint
        channels = blueprint.shape[0]
        self.encoder = nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(channels, 16, 3, padding=1),
                relu1=nn.ReLU(),
                pool1=nn.MaxPool2d(2),
                conv2=nn.Conv2d(16, 4, 3, padding=1),
                relu2=nn.ReLU(),
                pool2=nn.MaxPool2d(2),
            )
        )
        self.decoder = nn.Sequential(
            OrderedDict(
                up1=nn.ConvTranspose2d(4, 16, 2, stride=2),
                relu1=nn.ReLU(),
                up2=nn.ConvTranspose2d(16, channels, 2, stride=2),
                sigmoid=nn.Sigmoid(),
            )
        )

    def forward(self, x: Pixels) -> Pixels:
        """Map pixels in [0, 1] to pixels in [0, 1]."""
        _check_shape(x, self.blueprint)
        drawn: Tensor = self.decoder(self.encoder(x))
        return drawn


class EncoderDecoder(nn.Module):
    """A denoiser of any depth: strided convolutions down, transposed ones up.

    Stem: conv 3×3 – ReLU. Each block down: conv 3×3, stride 2 – ReLU. Each block up: transposed conv 3×3, stride 2 –
    ReLU, whose output has the size that was halved, odd or even. Head: conv 3×3, then a sigmoid; or, where the noise is
    predicted, x minus what the head says, clipped to [0, 1] in evaluation mode (in training the loss sees it unclipped,
    for a clipped value has no gradient).

    Source: Zhang et al. 2017, "Beyond a Gaussian denoiser: residual learning of deep CNN for image denoising", section
    3.1, for `residual`. Departures: without batch normalisation, and with halvings, which that paper's net has not.
    """

    def __init__(self, blueprint: Blueprint):
        super().__init__()
        self.blueprint = blueprint
        channels, *sides = blueprint.shape
        widths = [blueprint.width * 2**level for level in range(blueprint.depth + 1)]
        sizes = [tuple(sides)]
        for _ in range(blueprint.depth):
            sizes.append(tuple((side + 1) // 2 for side in sizes[-1]))
        self.stem = nn.Sequential(nn.Conv2d(channels, widths[0], 3, padding=1), nn.ReLU())
        self.down = nn.ModuleList(
            nn.Sequential(nn.Conv2d(few, many, 3, stride=2, padding=1), nn.ReLU()) for few, many in pairwise(widths)
        )
        self.up = nn.ModuleList(
            _up(widths[level + 1], widths[level], sizes[level]) for level in reversed(range(blueprint.depth))
        )
        self.relu = nn.ReLU()
        self.head = nn.Conv2d(widths[0], channels, 3, padding=1)
        self.sigmoid = nn.Identity() if blueprint.residual else nn.Sigmoid()
        self.latent = f"down.{blueprint.depth - 1}"

    def forward(self, x: Pixels) -> Pixels:
        """Map pixels in [0, 1] to pixels in [0, 1]."""
        _check_shape(x, self.blueprint)
        maps = [self.stem(x)]
        for block in self.down:
            maps.append(block(maps[-1]))
        z = maps.pop()
        for block in self.up:
            kept = maps.pop()
            z = self.relu(block(z) + kept if self.blueprint.skips else block(z))
        said: Tensor = self.sigmoid(self.head(z))
        if not self.blueprint.residual:
            return said
        return x - said if self.training else (x - said).clamp(0, 1)


Net = Convolutional | EncoderDecoder


def build(blueprint: Blueprint, seed: int = 0) -> Net:
    """Return a network in training mode, on the CPU, whose initial weights are a function of the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return Convolutional(blueprint) if blueprint.family == "convolutional" else EncoderDecoder(blueprint)


def parameters_of(net: nn.Module) -> int:
    """Return how many numbers a network has learnt."""
    return sum(weight.numel() for weight in net.parameters())


def _up(many: int, few: int, size: tuple[int, ...]) -> nn.ConvTranspose2d:
    # Of the two sizes that are halved to the same one, the padding of the output chooses.
    padding = (1 - size[0] % 2, 1 - size[1] % 2)
    return nn.ConvTranspose2d(many, few, 3, stride=2, padding=1, output_padding=padding)


def _check_shape(x: Tensor, blueprint: Blueprint) -> None:
    if x.shape[1:] != blueprint.shape:
        due, found = ("×".join(map(str, shape)) for shape in (blueprint.shape, x.shape[1:]))
        raise InputError(f"the network was made for images of {due}, and these are {found}; choose other data.")
