"""Accuracy against the radius, with examples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from faultlight import api
from faultlight.api import AttackResult
from faultlight.evaluation.verdict import Share, percent, share
from faultlight.geometry import check_radius
from faultlight.settings import check_settings
from faultlight.studies._case import Bench, Case
from faultlight.studies._search import named
from faultlight.studies._words import picture, study_result, table
from faultlight.views._result import Panel, ViewResult


@dataclass(frozen=True)
class EpsilonCurve:
    """Accuracy under one attack at growing radii, and for each radius examples with true → predicted.

    accuracy(ε) = share of images that the judge still finds classified correctly after the attack within ε. The norm is
    that of the threat.

    Source: Goodfellow et al. 2015, "Explaining and harnessing adversarial examples", §4; PyTorch's tutorial
    "Adversarial example generation" draws the same curve.

    Args:
        attack: an attack by name, with its default settings.
        largest: the largest ε; 0 stands for the threat's.
        points: radii from 0 to the largest, evenly spaced.
        samples: examples for each radius, broken ones first.
    """

    attack: str = "fgsm"
    largest: float = 0.0
    points: int = 7
    samples: int = 5

    def __post_init__(self) -> None:
        check_settings(self, largest=0, points=2, samples=0)

    def __call__(self, case: Case) -> ViewResult:
        """Return the accuracies, their intervals and the examples.

        Raises:
            InputError: several models, or an attack that is not made for the norm.
        """
        bench = case.bench(case.only("epsilon-curve"))
        largest = self.largest or case.threat.epsilon
        check_radius(case.threat.at(largest), bench.images.shape)
        radii = [largest * i / (self.points - 1) for i in range(self.points)]
        results = [self._at(case, bench, epsilon) for epsilon in radii]
        standing = [int((~result.broken).sum()) for result in results]
        shares = [share(count, len(bench.images)) for count in standing]
        pairs = list(zip(radii, results, strict=True))
        return study_result(
            "epsilon-curve",
            {
                "epsilon": np.array(radii),
                "accuracy": np.array([one.value for one in shares]),
                "low": np.array([one.low for one in shares]),
                "high": np.array([one.high for one in shares]),
                "prediction": torch.stack([result.prediction for result in results]),
                "label": bench.images.y,
            },
            self._words(case, bench, radii, shares),
            [panel for epsilon, result in pairs for panel in self._examples(bench, epsilon, result)],
            {
                "attack": self.attack,
                "norm": case.threat.norm,
                "n": len(bench.images),
                "model": bench.subject.name,
            },
            columns=max(1, self.samples),
            side=1.1,
        )

    def _words(self, case: Case, bench: Bench, radii: list[float], shares: list[Share]) -> list[str]:
        rows = [
            (f"{epsilon:.4g}", [percent(one.value), f"{percent(one.low)} to {percent(one.high)}"])
            for epsilon, one in zip(radii, shares, strict=True)
        ]
        title = (
            f"Accuracy of {bench.subject.name} on {len(bench.images)} images under {self.attack} ({case.threat.norm})."
        )
        return [title, *table("ε", ["accuracy", "95 % interval"], rows)]

    def _at(self, case: Case, bench: Bench, epsilon: float) -> AttackResult:
        if epsilon == 0:
            zero = torch.zeros_like(bench.prediction)
            return AttackResult(bench.images.x, ~bench.right, zero.double(), bench.prediction, zero, zero)
        threat = case.threat.at(round(epsilon, 9))
        return api.attack(bench.subject, bench.images, named(self.attack), threat, seed=case.seed, quiet=case.quiet)

    def _examples(self, bench: Bench, epsilon: float, result: AttackResult) -> list[Panel]:
        """Return pictures of images that were right before, those that the attack broke first."""
        broken = (result.broken & bench.right).nonzero()[:, 0].tolist()
        standing = (~result.broken).nonzero()[:, 0].tolist()
        chosen = [*broken, *standing][: self.samples]
        titles = [f"ε {epsilon:.3g}: {int(bench.images.y[i])} → {int(result.prediction[i])}" for i in chosen]
        panels = [Panel(title, picture(result.x[i])) for title, i in zip(titles, chosen, strict=True)]
        blank = Panel("", np.full((1, 1), np.nan))
        return panels + [blank] * (self.samples - len(panels))
