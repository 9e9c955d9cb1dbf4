"""How close drawn images come to real ones, by the features that a classifier computes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from numpy import ndarray
from torch import Tensor

_ROWS = 1000
# Of float64 products of a few thousand terms, relative to the squares they are taken from.
_ROUNDING = 1e-13


@dataclass(frozen=True)
class Manifolds:
    """How far two sets of points cover each other.

    Args:
        precision: share of the drawn points that lie where real ones are, in [0, 1].
        recall: share of the real points that lie where drawn ones are, in [0, 1].
    """

    precision: float
    recall: float


def frechet_distance(first: Float[ndarray, "n f"], second: Float[ndarray, "m f"]) -> float:
    """Return ‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2(Σ₁Σ₂)^½), the squared Fréchet distance of two Gaussians fitted to points.

    With the features of a classifier of the data at hand this is a *classifier*-FID: it is never to be compared with
    figures by an Inception network, nor with those by another classifier.

    Args:
        first: points, a row each; at least 2.
        second: the same.

    Source: Heusel et al. 2017, "GANs trained by a two time-scale update rule", section 3. Departure: the trace of
    (Σ₁Σ₂)^½ is the sum of the roots of the eigenvalues of Σ₁^½ Σ₂ Σ₁^½, which stay real where Σ₁ is singular.
    """
    (mean, covariance), (other_mean, other) = _gaussian(first), _gaussian(second)
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ other @ root).clip(min=0)).sum()
    distance = ((mean - other_mean) ** 2).sum() + np.trace(covariance) + np.trace(other) - 2 * cross
    return float(max(distance, 0.0))


def precision_recall(real: Float[ndarray, "n f"], drawn: Float[ndarray, "m f"], k: int = 3) -> Manifolds:
    """Return which share of each set lies within a ball around a point of the other that reaches its k-th neighbour.

    Args:
        real: features of real images, a row each; more than k.
        drawn: features of drawn ones; more than k. Figures depend on how many there are: compare equal numbers alone.
        k: neighbours, ≥ 1, the point itself not counted.

    Source: Kynkäänniemi et al. 2019, "Improved precision and recall metric for assessing generative models", section 2.
    """
    x, y = torch.from_numpy(real).double(), torch.from_numpy(drawn).double()
    return Manifolds(_share_within(y, x, k), _share_within(x, y, k))


def neighbour_radii(points: Float64[Tensor, "n f"], k: int) -> Float64[Tensor, " n"]:
    """Return each point's distance from its k-th nearest neighbour, itself not counted."""
    parts = [_distances(rows, points).kthvalue(k + 1, dim=1).values for rows in torch.split(points, _ROWS)]
    return torch.cat(parts)


def _share_within(asked: Tensor, points: Tensor, k: int) -> float:
    radii = neighbour_radii(points, k)
    inside: list[Bool[Tensor, " r"]] = [
        (_distances(rows, points) <= radii).any(1) for rows in torch.split(asked, _ROWS)
    ]
    return float(torch.cat(inside).double().mean())


def _distances(rows: Tensor, points: Tensor) -> Tensor:
    """Return distances by products, far quicker than by differences; what rounding leaves of 0 is 0."""
    scale = (rows**2).sum(1)[:, None] + (points**2).sum(1)
    square = scale - 2 * rows @ points.T
    return torch.where(square > _ROUNDING * scale, square, 0.0).sqrt()


def _gaussian(points: ndarray) -> tuple[ndarray, ndarray]:
    exact = points.astype(np.float64)
    return exact.mean(0), np.atleast_2d(np.cov(exact, rowvar=False))
