"""A layer's output as one vector an image, and how far such vectors lie apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from numpy import ndarray
from torch import Tensor

from faultlight.data.images import Images
from faultlight.errors import InputError
from faultlight.models.subject import Subject
from faultlight.views._input import check_finite
from faultlight.views._project import reach
from faultlight.views.activations import MOST_NUMBERS
from faultlight.views.listening import leaves_of, outputs, rows_at_once

MEASURES = ("mse", "cosine", "cross_entropy", "kl")


def feature_layer(subject: Subject, x: Float32[Tensor, "n c h w"], layer: str | None) -> str:
    """Return the layer by that name, or, when none is named, the last but one that is called: what the logits see."""
    if layer is not None:
        return layer
    called = list(outputs(subject, x[:1].to(subject.device), leaves_of(subject)))
    if not called:
        raise InputError(f"the model {subject.name!r} has no layer that gives one row an image; name one.")
    return called[-2] if len(called) > 1 else called[-1]


@torch.no_grad()
def features(subject: Subject, images: Images, layer: str) -> Float32[ndarray, "n f"]:
    """Return the output of a layer for each image, as one vector; nothing is computed beyond the layer.

    Raises:
        InputError: the layer is unknown (the nearest is named) or never called, a number is NaN or infinite, or there
            are too many of them.
    """
    parts: list[Tensor] = []
    rows = rows_at_once(images.x)
    for x, ids in zip(torch.split(images.x, rows), torch.split(images.ids, rows), strict=True):
        output = reach(subject, x.to(subject.device), layer).float().flatten(1).cpu()
        check_finite(output, ids, f"activations of the layer {layer!r}")
        if len(images) * output.shape[1] > MOST_NUMBERS:
            raise InputError(
                f"the layer {layer!r} gives {output.shape[1]:,} numbers an image, so that {len(images)} images exceed "
                f"the {MOST_NUMBERS:,} kept at once; take at most {max(1, MOST_NUMBERS // output.shape[1])} images."
            )
        parts.append(output.clone())
    return torch.cat(parts).numpy()


@dataclass(frozen=True)
class Distances:
    """Mean distances of two different images, class by class.

    Args:
        mean: by measure, from class i to class j; NaN where there are no two such images.
        own: by measure, the mean distance of an image from itself; 0 but for the cross-entropy, where it is the
            entropy.
        counts: images of each class.
    """

    mean: dict[str, Float[ndarray, "classes classes"]]
    own: dict[str, float]
    counts: Int[ndarray, " classes"]

    def within(self, measure: str, label: int | None = None) -> float:
        """Return the mean over pairs of one class, or of any one class."""
        pairs = self.counts * (self.counts - 1.0)
        return _weighted(self.mean[measure].diagonal(), pairs, label)

    def between(self, measure: str, pair: tuple[int, int] | None = None) -> float:
        """Return the mean over pairs of two classes, in both orders, or of any two classes."""
        if pair is not None:
            return float(self.mean[measure][[*pair], [*pair[::-1]]].mean())
        pairs = np.outer(self.counts, self.counts) * (1.0 - np.eye(len(self.counts)))
        return _weighted(self.mean[measure], pairs, None)


def distances(values: Float32[ndarray, "n f"], label: Int[ndarray, " n"], classes: int) -> Distances:
    """Return the mean distances within and between classes, over all pairs of different images.

    With p = softmax(f): mse mean (f_i − f_j)²; cosine 1 − ⟨f_i, f_j⟩ / ‖f_i‖‖f_j‖ (1 where a vector is 0);
    cross-entropy −Σ p_i log p_j; kl Σ p_i log(p_i / p_j). Each is u_i + v_j − ⟨a_i, b_j⟩, so sums over classes give
    every mean without a table of all pairs.
    """
    member = np.eye(classes)[label]
    counts = member.sum(0)
    terms = _terms(values.astype(np.float64))
    mean, own = {}, {}
    for measure in MEASURES:
        u, v, a, b = terms[measure]
        total = np.outer(member.T @ u, counts) + np.outer(counts, member.T @ v) - (member.T @ a) @ (member.T @ b).T
        itself = u + v - (a * b).sum(1)
        total[np.diag_indices(classes)] -= member.T @ itself
        pairs = np.outer(counts, counts) - np.diag(counts)
        found = np.divide(total, pairs, out=np.full_like(total, np.nan), where=pairs > 0)
        # What is left of terms that cancel is rounding; without this, equal features would lie 1e-15 apart.
        mean[measure] = np.where(found < 1e-12 * (np.abs(u).max() + np.abs(v).max()), 0, found)
        own[measure] = float(itself.mean())
    return Distances(mean, own, counts.astype(np.int64))


Terms = tuple[ndarray, ndarray, ndarray, ndarray]


def _terms(values: Float[ndarray, "n f"]) -> dict[str, Terms]:
    """Return for each measure u, v, a, b with d(i, j) = u_i + v_j − ⟨a_i, b_j⟩."""
    zero = np.zeros(len(values))
    # Differences do not feel a shift; sums of squares lose digits to it.
    centred = (values - values.mean(0)) / np.sqrt(values.shape[1])
    square = (centred**2).sum(1)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    unit = np.divide(values, length, out=np.zeros_like(values), where=length > 0)
    shifted = values - values.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    p = np.exp(log_p)
    return {
        "mse": (square, square, 2 * centred, centred),
        "cosine": (zero + 1, zero, unit, unit),
        "cross_entropy": (zero, zero, p, log_p),
        "kl": ((p * log_p).sum(1), zero, p, log_p),
    }


def _weighted(values: Float[ndarray, "..."], weights: Float[ndarray, "..."], label: int | None) -> float:
    if label is not None:
        return float(values[label])
    total = weights.sum()
    return float((np.nan_to_num(values) * weights).sum() / total) if total else float("nan")
