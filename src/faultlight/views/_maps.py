"""Maps of many dimensions onto two, how far they are to be trusted, and new points on them."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from faultlight.errors import InputError

# What t-SNE is given, as its authors advise.
COMPONENTS = 50
# Neighbours that a map is asked to keep, and that place a new point where the map itself has no way to.
NEIGHBOURS = 5
# Trustworthiness compares all pairs; of more images than this, the first ones are taken.
MOST_JUDGED = 2000
# Of the usual length of a vector: points nearer to each other are the same but for rounding.
ROUNDING = 1e-6

Points = Float[ndarray, "n 2"]


@dataclass(frozen=True)
class Reduced:
    """Features in the coordinates of their principal components.

    Args:
        values: at most fifty coordinates an image, those of greatest variance first.
        explained: the share of the variance that each coordinate holds; zeros where the features never vary.
        pca: scikit-learn's, fitted.
    """

    values: Float[ndarray, "n k"]
    explained: Float[ndarray, " k"]
    pca: Any

    @property
    def varies(self) -> bool:
        """Whether any two images differ."""
        return bool(self.explained.any())

    def project(self, features: Float[ndarray, "m f"]) -> Float[ndarray, "m k"]:
        """Return further features in these coordinates."""
        found: Float[ndarray, "m k"] = self.pca.transform(features.astype(np.float64))
        return found


def reduce(features: Float[ndarray, "n f"], seed: int = 0) -> Reduced:
    """Return the first fifty principal components (fewer where there are fewer images or features)."""
    from sklearn.decomposition import PCA

    values = features.astype(np.float64)
    pca = PCA(min(COMPONENTS, *values.shape), random_state=seed % 2**32)
    with np.errstate(invalid="ignore"):  # no variance at all divides 0 by 0
        pca.fit(values)
    variance = float(values.var(0).sum())
    scale = float((values**2).mean()) * values.shape[1]
    explained = pca.explained_variance_ratio_ if variance > ROUNDING**2 * scale else np.zeros(pca.n_components_)
    return Reduced(pca.transform(values), np.nan_to_num(explained), pca)


@dataclass(frozen=True)
class Map:
    """A map of images onto a plane.

    Args:
        method: "PCA", or "t-SNE" with the package that made it.
        points: where each image lies.
        trust: its trustworthiness, in [0, 1]; NaN where there is nothing to map.
        reduced: what was mapped.
        embedding: openTSNE's own object, which can place new points.
    """

    method: str
    points: Points
    trust: float
    reduced: Reduced
    embedding: Any = None

    @property
    def placement(self) -> Literal["projection", "openTSNE", "nearest neighbours"]:
        """How new points are placed."""
        if self.method == "PCA":
            return "projection"
        return "nearest neighbours" if self.embedding is None else "openTSNE"

    def place(self, features: Float[ndarray, "m f"]) -> Points:
        """Return where new images lie on this map; one whose features are an image's own lies on that image.

        On a PCA map they are projected. On a map of openTSNE its `transform` places them. scikit-learn's t-SNE has no
        such way: there a point lies at the mean of its five nearest images' places, weighted by 1 / distance².
        """
        new = self.reduced.project(features)
        if self.method == "PCA":
            return _plane(new)
        if not self.reduced.varies:
            return np.zeros((len(new), 2))
        distance, index = nearest(new, self.reduced.values, NEIGHBOURS)
        same = distance[:, 0] <= ROUNDING * float(np.sqrt((self.reduced.values**2).sum(1).mean()))
        if self.embedding is not None:
            placed = np.asarray(self.embedding.transform(new, perplexity=_few(len(self.points))), np.float64)
        else:
            weight = 1 / np.maximum(distance, 1e-150) ** 2
            weight = np.where(same[:, None], 0, weight / weight.max(1, keepdims=True))
            placed = (weight[..., None] * self.points[index]).sum(1) / np.maximum(weight.sum(1), 1e-300)[:, None]
        return np.where(same[:, None], self.points[index[:, 0]], placed)


def pca_map(reduced: Reduced, features: Float[ndarray, "n f"]) -> Map:
    """Return the plane of the first two principal components."""
    points = _plane(reduced.values)
    return Map("PCA", points, trustworthiness(features, points), reduced)


def tsne_map(reduced: Reduced, features: Float[ndarray, "n f"], perplexity: float, seed: int = 0) -> Map:
    """Return the t-SNE map of fifty principal components: openTSNE's when it is installed, else scikit-learn's."""
    maker = "openTSNE" if importlib.util.find_spec("openTSNE") else "scikit-learn"
    if not reduced.varies:
        return Map(f"t-SNE ({maker})", np.zeros((len(features), 2)), float("nan"), reduced)
    settings: dict[str, Any] = {"perplexity": perplexity, "random_state": seed % 2**32}
    embedding = None
    if maker == "openTSNE":
        from openTSNE import TSNE

        embedding = TSNE(initialization="pca", **settings).fit(reduced.values)
        points = np.array(embedding, np.float64)
    else:
        from sklearn import manifold

        points = np.asarray(manifold.TSNE(init="pca", **settings).fit_transform(reduced.values), np.float64)
    return Map(f"t-SNE ({maker})", points, trustworthiness(features, points), reduced, embedding)


def usable_perplexity(asked: float | None, n: int) -> float:
    """Return the perplexity for n images: the one asked for, or 30, or less where there are too few images for it.

    Raises:
        InputError: too few images for any map, or for the perplexity asked for, which needs three times as many.
    """
    most = (n - 1) / 3
    if n < 7:
        raise InputError(f"a t-SNE map needs at least 7 images, and there are {n}; take more, such as --n 500.")
    if asked is None:
        return min(30.0, most)
    if not 1 <= asked <= most:
        need = (
            f"at least {int(3 * asked) + 1} images, and there are {n}; take more, or choose" if asked > 1 else "to be"
        )
        raise InputError(f"the perplexity {asked:g} of t-SNE needs {need} a value in 1 … {most:.4g}.")
    return asked


def trustworthiness(features: Float[ndarray, "n f"], points: Points) -> float:
    """Return how far the neighbours on a map are neighbours in truth: 1 when all are, about 0.5 for a random map.

    T(k) = 1 − 2 / (n k (2n − 3k − 1)) · Σ_i Σ_j max(0, r(i, j) − k), j over the k nearest of i on the map and r its
    rank among the features, with k = 5 (less for fewer than 12 images). Of more than 2,000 images the first are taken.

    Source: Venna and Kaski 2001, "Neighborhood preservation in nonlinear projection methods", section 2; computed by
    scikit-learn.
    """
    from sklearn.manifold import trustworthiness as found

    k = min(NEIGHBOURS, (min(len(points), MOST_JUDGED) - 1) // 2)
    if k < 1 or not np.ptp(features, axis=0).any():
        return float("nan")
    return float(found(features[:MOST_JUDGED], points[:MOST_JUDGED], n_neighbors=k))


def nearest(
    new: Float[ndarray, "m k"], old: Float[ndarray, "n k"], count: int
) -> tuple[Float[ndarray, "m count"], Any]:
    """Return distances (L2) and rows of the nearest old vectors of each new one, the nearest first."""
    from sklearn.neighbors import NearestNeighbors

    found = NearestNeighbors(n_neighbors=min(count, len(old)), algorithm="brute").fit(old)
    _, index = found.kneighbors(new)
    # The search expands the square, which leaves rounding where the distance is 0.
    distance = np.linalg.norm(new[:, None] - old[index], axis=2)
    order = distance.argsort(1, kind="stable")
    return np.take_along_axis(distance, order, 1), np.take_along_axis(index, order, 1)


def _plane(values: Float[ndarray, "n k"]) -> Points:
    return np.pad(values[:, :2], ((0, 0), (0, max(0, 2 - values.shape[1]))))


def _few(n: int) -> float:
    return float(min(NEIGHBOURS, (n - 1) / 3))
