"""How near a network comes to the clean image, and what its answers are worth to a classifier."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float32, Float64
from torch import Tensor, nn

from faultlight.autoencoder.tampering import Tampering, needs_classifier, tamper
from faultlight.data.images import Images
from faultlight.errors import InputError
from faultlight.evaluation.verdict import Share, share
from faultlight.models.subject import Subject
from faultlight.progress import Progress

CLEAN = "none"
_ROWS = 250


@dataclass(frozen=True)
class Row:
    """What one noise of one strength does, and what the network makes of it.

    Args:
        kind: the noise, or "none" for the clean images.
        strength: its strength; 0 for the clean images.
        mse: mean squared error of the images given, over all values of all images.
        mse_restored: of what the network makes of them.
        psnr: 10·log₁₀(1 / mse) in decibels; None where nothing differs.
        psnr_restored: the same of what the network makes of them.
        accuracy: share of the images given that the classifier gets right; None without a classifier.
        accuracy_restored: share of what the network makes of them.
    """

    kind: str
    strength: float
    mse: float
    mse_restored: float
    psnr: float | None
    psnr_restored: float | None
    accuracy: Share | None = None
    accuracy_restored: Share | None = None

    @property
    def name(self) -> str:
        """The noise in words."""
        return "clean" if self.kind == CLEAN else f"{self.kind} {self.strength:.3g}"


@dataclass(frozen=True)
class Comparison:
    """What a network is worth against several noises.

    Args:
        n: images measured on.
        rows: the clean images first, then noise by noise.
    """

    n: int
    rows: tuple[Row, ...]

    def cost(self) -> float | None:
        """Return the accuracy that the network costs where nothing was tampered with; None without a classifier."""
        return _difference(self.rows[0].accuracy, self.rows[0].accuracy_restored)

    def gap(self, row: Row) -> float | None:
        """Return how far the accuracy on restored images stays below that on clean ones; None without a classifier."""
        return _difference(self.rows[0].accuracy, row.accuracy_restored)

    def record(self) -> dict[str, Any]:
        """Return the comparison as plain JSON."""
        rows = [asdict(row) | {"gap": self.gap(row)} for row in self.rows]
        return {"n": self.n, "rows": rows, "cost": self.cost()}


def compare(
    net: nn.Module,
    images: Images,
    noises: Sequence[tuple[str, float]],
    classifier: Subject | None = None,
    *,
    seed: int = 0,
    quiet: bool = True,
) -> Comparison:
    """Measure a network on clean images and on images with each of the noises.

    Args:
        net: pixels to pixels, in evaluation mode.
        images: clean test images.
        noises: kinds with strengths, such as [("gaussian", 0.5)].
        classifier: whose accuracy is measured, and at which adversarial noise is aimed.
        seed: of the noise.
        quiet: show no progress.

    Raises:
        InputError: a noise that cannot be laid, images of the wrong shape for the network, or NaN from it.
    """
    asked = [Tampering(kind, strength, strength) for kind, strength in noises]
    if needs_classifier(asked) and classifier is None:
        raise InputError("adversarial noise is aimed at a classifier, and none was given; name one by --classifier.")
    with Progress("compare", len(asked) + 1, quiet) as progress:
        rows = [_row(net, images, images, CLEAN, 0.0, classifier)]
        progress.update(1)
        for place, each in enumerate(asked):
            given = tamper(images, each.kind, each.low, seed, classifier)
            rows.append(_row(net, images, given, each.kind, each.low, classifier))
            progress.update(place + 2, rows[-1].name)
    return Comparison(len(images), tuple(rows))


@torch.no_grad()
def restore(net: nn.Module, x: Float32[Tensor, "n c h w"]) -> Float32[Tensor, "n c h w"]:
    """Return what a network makes of images, a few hundred at a time.

    Raises:
        InputError: the images have another shape than it was made for, or it gives NaN or infinity.
    """
    found = torch.cat([net(part) for part in torch.split(x, _ROWS)])
    if not bool(torch.isfinite(found).all()):
        raise InputError("the network gives NaN or infinity for some of the images; train it again.")
    return found


def errors(x: Float32[Tensor, "n c h w"], y: Float32[Tensor, "n c h w"]) -> Float64[Tensor, " n"]:
    """Return the mean squared difference of each pair of images, in float64."""
    return (x.double() - y.double()).square().flatten(1).mean(1)


def decibels(mse: float) -> float | None:
    """Return the peak signal-to-noise ratio, 10·log₁₀(1 / mse), for pixels in [0, 1]; None where mse is 0."""
    return 10 * math.log10(1 / mse) if mse > 0 else None


@torch.no_grad()
def accuracy(classifier: Callable[[Tensor], Tensor], x: Float32[Tensor, "n c h w"], y: Tensor) -> Share:
    """Return the share of images classified rightly, with its 95 % interval."""
    parts = zip(torch.split(x, _ROWS), torch.split(y, _ROWS), strict=True)
    return share(sum(int((classifier(part).argmax(1) == labels).sum()) for part, labels in parts), len(y))


def _row(net: nn.Module, clean: Images, given: Images, kind: str, strength: float, classifier: Subject | None) -> Row:
    restored = restore(net, given.x)
    before, after = (float(errors(x, clean.x).mean()) for x in (given.x, restored))
    shares = [accuracy(classifier, x, clean.y) if classifier else None for x in (given.x, restored)]
    return Row(kind, strength, before, after, decibels(before), decibels(after), *shares)


def _difference(one: Share | None, other: Share | None) -> float | None:
    return None if one is None or other is None else one.value - other.value
