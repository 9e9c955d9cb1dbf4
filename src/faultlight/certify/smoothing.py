"""Randomised smoothing: a certificate for any classifier, of its answer under noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, Int64
from scipy.stats import beta, binomtest, norm
from torch import Tensor

from faultlight import rng
from faultlight.data.images import Images
from faultlight.errors import InputError
from faultlight.models.subject import Subject

ABSTAINED = -1


@dataclass(frozen=True)
class Smoothed:
    """What the smoothed classifier says of each image. It is another classifier than the subject.

    Args:
        prediction: its class, or −1 where it abstains, (n,).
        radius: the L2 distance within which it provably says the same, (n,); 0 where it abstains.
        probability: the lower bound of the probability of that class under noise, (n,).
    """

    prediction: Int64[Tensor, " n"]
    radius: Float64[Tensor, " n"]
    probability: Float64[Tensor, " n"]

    def certified(self, y: Int64[Tensor, " n"], epsilon: float) -> Bool[Tensor, " n"]:
        """Return which images the smoothed classifier gets right within an L2 distance, with confidence 1 − α each."""
        return (self.prediction == y) & (self.radius > epsilon)


@dataclass(frozen=True)
class Smoothing:
    """The class that the subject names most often when Gaussian noise is added to the image, and how far that holds.

    g(x) = argmax_c P(f(x + η) = c), η ~ N(0, σ²I). If the most likely class has probability at least p > 1/2, then g is
    constant within L2 distance σ·Φ⁻¹(p). p is bounded from draws (Clopper & Pearson) at confidence 1 − α; where the
    bound is not above 1/2 the smoothed classifier abstains. The certificate is one of g, never of the subject itself.

    Source: Cohen, Rosenfeld and Kolter 2019, "Certified adversarial robustness via randomized smoothing", theorem 1 and
    algorithm 1 (Certify and Predict).

    Departures: a draw on which the subject gives NaN or infinity counts for no class. As in the paper, noise is not cut
    off at [0, 1].

    Args:
        sigma: σ in pixel units; the subject must have been trained with about as much noise to answer well.
        first: draws that choose the class, n₀ in the paper.
        draws: draws that bound its probability, n.
        alpha: the probability α that the certificate of an image is wrong.
        seed: of the noise, which depends on nothing else but the image's id and the number of the draw.
        batch: images that go through the subject at once.
    """

    sigma: float = 0.25
    first: int = 100
    draws: int = 10_000
    alpha: float = 0.001
    seed: int = 0
    batch: int = 512

    def __post_init__(self) -> None:
        if not self.sigma > 0 or not 0 < self.alpha < 1 or min(self.first, self.draws, self.batch) < 1:
            raise InputError(f"Smoothing needs sigma > 0, 0 < alpha < 1, and at least one draw, not {self}.")

    def certify(self, subject: Subject, images: Images) -> Smoothed:
        """Return the smoothed classifier's answers with their certified radii (Certify in the paper)."""
        rows = [self._certify_one(subject, images, row) for row in range(len(images))]
        return _smoothed(rows, images)

    def predict(self, subject: Subject, images: Images) -> Int64[Tensor, " n"]:
        """Return the smoothed classifier's answers alone, −1 where it abstains (Predict in the paper).

        An answer is wrong about g with probability at most α.
        """
        found = [self._predict_one(self._counts(subject, images, row, 0, self.draws)) for row in range(len(images))]
        return torch.tensor(found, dtype=torch.int64, device=images.x.device)

    def _certify_one(self, subject: Subject, images: Images, row: int) -> tuple[int, float, float]:
        likely = int(self._counts(subject, images, row, 0, self.first).argmax())
        count = int(self._counts(subject, images, row, self.first, self.draws)[likely])
        probability = lower_bound(count, self.draws, self.alpha)
        if probability <= 0.5:
            return ABSTAINED, 0.0, probability
        return likely, self.sigma * float(norm.ppf(probability)), probability

    def _predict_one(self, counts: Tensor) -> int:
        (most, second), (likely, _) = (part.tolist() for part in counts.topk(2))
        if most + second == 0 or binomtest(most, most + second, 0.5).pvalue > self.alpha:
            return ABSTAINED
        return int(likely)

    def _counts(self, subject: Subject, images: Images, row: int, start: int, draws: int) -> Tensor:
        """Return how often each class is named in the draws start … start + draws − 1 of an image."""
        counts = torch.zeros(subject.classes, dtype=torch.int64, device=images.x.device)
        for noisy in self._noisy(images, row, start, draws):
            with torch.no_grad():
                logits = subject(noisy)
            named = logits.argmax(1)[torch.isfinite(logits).all(1)]
            counts += torch.bincount(named, minlength=subject.classes)
        return counts

    def _noisy(self, images: Images, row: int, start: int, draws: int) -> Iterator[Tensor]:
        key, end = rng.key(self.seed, "smoothing"), start + draws
        for low in range(start, end, self.batch):
            step = torch.arange(low, min(low + self.batch, end), device=images.x.device)
            ids = images.ids[row].expand(len(step))
            yield images.x[row] + self.sigma * rng.normal(key, ids, step, images.shape)


def lower_bound(count: int, n: int, alpha: float) -> float:
    """Return the one-sided lower Clopper–Pearson bound of a probability: count or more of n has probability α there."""
    return float(beta.ppf(alpha, count, n - count + 1)) if count else 0.0


def _smoothed(rows: list[tuple[int, float, float]], images: Images) -> Smoothed:
    device = images.x.device
    prediction, radius, probability = zip(*rows, strict=True) if rows else ((), (), ())
    reals = (torch.tensor(part, dtype=torch.float64, device=device) for part in (radius, probability))
    return Smoothed(torch.tensor(prediction, dtype=torch.int64, device=device), *reals)
