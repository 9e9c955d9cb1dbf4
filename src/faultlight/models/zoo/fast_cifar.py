"""A network that learns CIFAR-10 in seconds of GPU time."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from jaxtyping import Float32
from torch import Tensor, nn
from torch.nn import functional

from faultlight.errors import InputError
from faultlight.models.zoo._parts import after_windows

_GROUPS = (64, 256, 256)
_SIDE = 2
_SAMPLE = 5000
# Added to the eigenvalues, so that directions without variance are not blown up.
_FLOOR = 5e-4
_SCALE = 1 / 9


@dataclass(frozen=True)
class FastCifar:
    """Six convolutions behind a fixed whitening layer, 1,972,792 parameters on CIFAR-10.

    A 2×2 convolution onto the principal directions of the training images' patches and their negatives (24) – GELU –
    three groups (64, 256, 256) of conv 3×3 – max-pool 2 – BN – GELU – conv 3×3 – BN – GELU – global max-pooling –
    linear without bias – times 1/9. The whitening filters and the scales of batch norm do not learn.

    Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", 2024, sections 3.1, 3.2 and the appendix. Departures: the
    bias of the whitening layer learns throughout, and images moved by a pixel are not averaged over.

    Args:
        classes: the number of logits.
        shape: channels, height and width of the pixels, at least 9×9.
        mirror: 1 makes the network's answer in evaluation mode the mean of the logits of an image and of its mirror
            image, as the paper evaluates; 0 leaves it as it is.
    """

    classes: int = 10
    shape: tuple[int, int, int] = (3, 32, 32)
    mirror: int = 0
    recipe: ClassVar[str] = "fast-cifar"

    def module(self) -> nn.Module:
        """Build the network; its whitening layer is random until `prepare` has seen images."""
        if self.mirror not in (0, 1):
            raise InputError(f"the option mirror of the network 'fast-cifar' is 0 or 1, not {self.mirror}.")
        after_windows("fast-cifar", self.shape, [(_SIDE, 1, 0), *[(2, 2, 0)] * len(_GROUPS)])
        channels = self.shape[0]
        directions = channels * _SIDE**2
        whiten = nn.Conv2d(channels, 2 * directions, _SIDE)
        whiten.weight.requires_grad_(False)
        groups = [_group(before, after) for before, after in zip((2 * directions, *_GROUPS), _GROUPS, strict=False)]
        layers = nn.Sequential(
            OrderedDict(
                whiten=whiten,
                act=nn.GELU(),
                layer1=groups[0],
                layer2=groups[1],
                layer3=groups[2],
                pool=nn.AdaptiveMaxPool2d(1),
                flatten=nn.Flatten(),
                fc=nn.Linear(_GROUPS[-1], self.classes, bias=False),
                scale=Scale(_SCALE),
            )
        )
        return Mirrored(layers) if self.mirror else layers

    def prepare(self, module: nn.Module, x: Float32[Tensor, "n c h w"]) -> None:
        """Set the whitening layer from training images.

        Rows of Λ^(−1/2)·Eᵀ and their negatives, with Λ and E the eigenvalues and eigenvectors of the covariance of all
        2×2 patches of the first 5,000 images.
        """
        weight = module.get_parameter("inner.whiten.weight" if self.mirror else "whiten.weight")
        with torch.no_grad():
            rows = whitening(x[:_SAMPLE]).to(weight)
            weight.copy_(torch.cat([rows, -rows]))


class Mirrored(nn.Module):
    """A network whose answer in evaluation mode is the mean over an image and its mirror image.

    Args:
        inner: from pixels to logits.
    """

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        if self.training:
            return cast(Tensor, self.inner(x))
        # The image itself goes last: a view looks at the last use of a layer.
        mirrored: Tensor = self.inner(x.flip(3))
        return (mirrored + cast(Tensor, self.inner(x))) / 2


class Scale(nn.Module):
    """Multiply by a constant."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Return factor·x."""
        return self.factor * x


def whitening(x: Float32[Tensor, "n c h w"]) -> Float32[Tensor, "d c 2 2"]:
    """Return the filters that map the 2×2 patches of the images to uncorrelated values of variance 1."""
    patches = functional.unfold(x, _SIDE).transpose(1, 2).flatten(0, 1).double()
    values, vectors = torch.linalg.eigh(patches.T.cov())
    rows = vectors.T / (values + _FLOOR).sqrt()[:, None]
    filters: Tensor = rows.flip(0).reshape(-1, x.shape[1], _SIDE, _SIDE).float()
    return filters


def _group(width_in: int, width_out: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv1=_convolution(width_in, width_out),
            pool=nn.MaxPool2d(2),
            bn1=_batch_norm(width_out),
            act1=nn.GELU(),
            conv2=_convolution(width_out, width_out),
            bn2=_batch_norm(width_out),
            act2=nn.GELU(),
        )
    )


def _convolution(width_in: int, width_out: int) -> nn.Conv2d:
    layer = nn.Conv2d(width_in, width_out, 3, padding=1, bias=False)
    # The first channels out begin as the channels in: the paper's partial identity.
    nn.init.dirac_(layer.weight.data[:width_in])
    return layer


def _batch_norm(width: int) -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(width, momentum=0.4)
    layer.weight.requires_grad_(False)
    return layer
