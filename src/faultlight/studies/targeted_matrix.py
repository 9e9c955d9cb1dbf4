"""The noise of a targeted attack on one image, added to images of all classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faultlight import geometry
from faultlight.attacks.weighted_distance import WeightedDistance
from faultlight.data.images import Images
from faultlight.errors import InputError
from faultlight.evaluation.verdict import percent
from faultlight.studies._case import Case, check_class
from faultlight.studies._search import to_the_end
from faultlight.studies._words import array, picture, study_result, table
from faultlight.threat import Threat
from faultlight.views._result import Panel, Scale, ViewResult, scale_of


@dataclass(frozen=True)
class TargetedMatrix:
    """Noise that turns one image into each of several classes, and what it does to images of every class.

    δ_t is what the attack `weighted-distance` adds to the first image of the class `source` that is classified
    correctly; share(t, c) = #{images x of class c: clip(x + δ_t) is misclassified} / #{images of class c}, over images
    that are right without noise, and beside it the share that becomes t. The distance has a price and no bound, so the
    radius of the threat says nothing here.

    Source: Szegedy et al. 2014, "Intriguing properties of neural networks", §4; the weighted sum as in
    `weighted-distance`.

    Args:
        source: the class of the image that the noise is made on.
        targets: classes aimed at, such as "3,6,8".
        weight: b, what a unit of squared L2 distance costs.
        steps: gradient steps.
    """

    source: int = 2
    targets: str = "3,6,8"
    weight: float = 1.0
    steps: int = 200

    def __call__(self, case: Case) -> ViewResult:
        """Return the noises, where they lead their own image, and the matrix.

        Raises:
            InputError: several models, no such class, or no image of the source that is classified correctly.
        """
        bench = case.bench(case.only("targeted-matrix"))
        images, aims = bench.standing("targeted-matrix"), self._aims(case.images)
        origin = images.take((images.y == self.source).nonzero()[:1, 0])
        if not len(origin):
            raise InputError(f"no image of class {self.source} is classified correctly; give more images with --n.")
        threat = Threat("l2", geometry.diameter(images.shape, "l2"))
        attack = WeightedDistance(steps=self.steps, weight=self.weight)
        goal = torch.tensor(aims, device=origin.x.device)
        origins = origin.take(torch.zeros_like(goal))
        noise = to_the_end(bench, origins, attack, threat, case.seed, goal).last - origin.x
        own = bench.rule(origin.x + noise, origins, threat).prediction
        prediction = torch.stack([bench.rule(images.x + one, images, threat).prediction for one in noise])
        misled, reached, count = _shares(prediction, images, aims)
        length = geometry.norm(noise, "l2")
        return study_result(
            "targeted-matrix",
            {
                "noise": noise,
                "length": length,
                "own_prediction": own,
                "prediction": prediction,
                "misled": misled,
                "reached": reached,
                "count": count,
            },
            self._words(aims, own.tolist(), length.tolist(), misled, reached, count),
            self._panels(origin, noise, aims, own.tolist(), misled),
            {"source": self.source, "targets": aims, "weight": self.weight, "n": len(images)},
            columns=max(2, len(aims) + 1),
            side=1.8,
        )

    def _aims(self, images: Images) -> list[int]:
        try:
            aims = [int(word) for word in self.targets.split(",")]
        except ValueError:
            raise InputError(f"targets {self.targets!r} are no class numbers; write them like 3,6,8.") from None
        for number, what in [(self.source, "source"), *((aim, "target") for aim in aims)]:
            check_class(number, images, what)
        if self.source in aims:
            raise InputError(f"the source {self.source} is among the targets {self.targets}; aim at other classes.")
        return aims

    def _words(
        self,
        aims: list[int],
        own: list[int],
        length: list[float],
        misled: NDArray[Any],
        reached: NDArray[Any],
        count: NDArray[Any],
    ) -> list[str]:
        columns = [f"{label} ({n})" for label, n in enumerate(count.tolist())]
        rows = []
        for i, aim in enumerate(aims):
            rows.append((f"{self.source} → {aim}: misled", [_cell(value) for value in misled[i]]))
            rows.append((f"{self.source} → {aim}: now {aim}", [_cell(value) for value in reached[i]]))
        made = ", ".join(f"{aim}: now {now}, ‖δ‖₂ {size:.2f}" for aim, now, size in zip(aims, own, length, strict=True))
        return [
            f"Noise made on one image of class {self.source} (b = {self.weight:g}), towards {made}.",
            "Added to the images of each class (how many) that are right without it:",
            *table("noise", columns, rows),
        ]

    def _panels(
        self, origin: Images, noise: Tensor, aims: list[int], own: list[int], misled: NDArray[Any]
    ) -> list[Panel]:
        scale = scale_of(array(noise.mean(1)))
        noises = [Panel(f"noise to {aim}", array(one.mean(0)), scale) for aim, one in zip(aims, noise, strict=True)]
        twins = [
            Panel(f"{self.source} → {now}", picture((origin.x[0] + one).clamp(0, 1)))
            for now, one in zip(own, noise, strict=True)
        ]
        matrix = Panel("noise (row) × class (column): share misled", misled, Scale("unsigned", 0, 1))
        row = [Panel(f"the image: {self.source}", picture(origin.x[0])), *twins, matrix, *noises]
        return [*row, *[Panel("", np.full((1, 1), np.nan))] * (len(row) % max(2, len(aims) + 1))]


def _shares(prediction: Tensor, images: Images, aims: list[int]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return for each noise and class the share misled and the share that becomes the target, and images a class."""
    classes = [images.y == label for label in range(len(images.classes))]
    wrong = prediction != images.y
    now = torch.stack([(p == aim) & bad for p, aim, bad in zip(prediction, aims, wrong, strict=True)])
    return _by_class(wrong, classes), _by_class(now, classes), np.array([int(mask.sum()) for mask in classes])


def _by_class(found: Tensor, classes: list[Tensor]) -> NDArray[Any]:
    return np.array([[float(row[mask].double().mean()) for mask in classes] for row in found])


def _cell(value: float) -> str:
    return percent(value) if value == value else "–"
