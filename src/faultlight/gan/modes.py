"""Which classes are drawn, how evenly, and the alarm that goes off where a generator has collapsed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Int
from numpy import ndarray

# A class counts as drawn where it gets a tenth of an even share; 1 % of the samples for ten classes.
COVERED_SHARE = 0.1
# Below these the alarm goes off: of the classes that as many real images cover, of their entropy, and of the spread
# that they have within a class. Recall is no ground for it: noise in the pixels alone brings it to nothing.
LEAST_MODES, LEAST_ENTROPY, LEAST_SPREAD = 0.8, 0.75, 0.25


@dataclass(frozen=True)
class Modes:
    """How samples fall into classes.

    Args:
        counts: samples of each class.
        entropy: −Σ p log p in nats.
        most_entropy: log of the number of classes, what an even spread would have.
        covered: classes that got at least `least` samples.
        least: samples that a class must get to count as drawn.
    """

    counts: Int[ndarray, " classes"]
    entropy: float
    most_entropy: float
    covered: int
    least: int

    def record(self) -> dict[str, Any]:
        """Return it for JSON; of more than 100 classes the counts are left to the arrays."""
        counts = {"counts": self.counts.tolist()} if len(self.counts) <= 100 else {}
        return counts | {
            "classes": len(self.counts),
            "covered": self.covered,
            "least": self.least,
            "entropy": self.entropy,
            "most_entropy": self.most_entropy,
        }


@dataclass(frozen=True)
class Finding:
    """One reason why the alarm goes off.

    Args:
        check: "modes", "entropy" or "spread".
        value: what was found.
        threshold: what is the least that passes.
        evidence: one sentence.
    """

    check: str
    value: float
    threshold: float
    evidence: str


def modes(prediction: Int[ndarray, " n"], classes: int) -> Modes:
    """Return how samples fall into classes.

    A class is covered where it gets at least a tenth of an even share of the samples, and one in any case: 100 of
    10,000 for ten classes, 1 of 10,000 for a thousand.

    Args:
        prediction: the class of each sample, in [0, classes).
        classes: how many there are.
    """
    counts = np.bincount(prediction, minlength=classes)
    share = counts[counts > 0] / len(prediction)
    least = max(1, round(COVERED_SHARE * len(prediction) / classes))
    return Modes(
        counts, abs(float((share * np.log(share)).sum())), float(np.log(classes)), int((counts >= least).sum()), least
    )


def within_class_spread(x: Float32[ndarray, "n ..."], prediction: Int[ndarray, " n"]) -> float:
    """Return √(Σ ‖x_i − x̄_c(i)‖² / (n − k)): how far images lie from the mean of their class, over k classes seen.

    Where no class has two images, all count as one. It is 0 for a generator that knows one image a class.

    Args:
        x: pixels in [0, 1].
        prediction: the class of each, as the classifier sees it.
    """
    flat = x.reshape(len(x), -1).astype(np.float64)
    _, place = np.unique(prediction, return_inverse=True)
    if place.max() + 1 >= len(x):
        place = np.zeros(len(x), np.int64)
    count = np.bincount(place)
    means = np.zeros((len(count), flat.shape[1]))
    np.add.at(means, place, flat)
    apart = flat - (means / count[:, None])[place]
    return float(np.sqrt((apart**2).sum() / max(len(x) - len(count), 1)))


def alarms(found: Modes, real: Modes, spread: float) -> tuple[Finding, ...]:
    """Return every sign that a generator has collapsed, none where there is no such sign.

    Args:
        found: how its samples fall into classes.
        real: how as many real images fall into them; for a thousand it may be fewer than there are, and less evenly.
        spread: of the samples within their classes, as a share of that of real images.
    """
    due_modes, due_entropy = LEAST_MODES * real.covered, LEAST_ENTROPY * real.entropy
    said: Sequence[Finding] = (
        Finding(
            "modes",
            float(found.covered),
            due_modes,
            f"{found.covered} of {real.covered} classes are drawn, with at least {found.least} each; "
            f"{due_modes:g} are due",
        ),
        Finding(
            "entropy",
            found.entropy,
            due_entropy,
            f"the entropy of the classes is {found.entropy:.2f} nats where {due_entropy:.2f} are due and "
            f"real images have {real.entropy:.2f}",
        ),
        Finding(
            "spread",
            spread,
            LEAST_SPREAD,
            f"samples of a class lie {100 * spread:.0f} % as far from its mean as real images do; "
            f"{100 * LEAST_SPREAD:g} % are due",
        ),
    )
    return tuple(each for each in said if each.value < each.threshold)
