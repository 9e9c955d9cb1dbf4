"""Twins of one model shown to others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from faultlight import api
from faultlight.errors import InputError
from faultlight.evaluation.verdict import percent
from faultlight.studies._case import Bench, Case
from faultlight.studies._search import named
from faultlight.studies._words import array, study_result, table
from faultlight.views._result import Panel, Scale, ViewResult


@dataclass(frozen=True)
class Transfer:
    """Each model's adversarial twins judged on every model: the matrix made on × judged on.

    rate(a, b) = #{i: twin_a(i) misleads b} / #{i: a broken by the attack, b right on the clean image}; rate(a, a) = 1.

    Source: Papernot et al. 2016, "Transferability in machine learning: from phenomena to black-box attacks using
    adversarial samples", §3 (there the share of all samples).

    Args:
        attack: an attack by name, with its default settings.
    """

    attack: str = "fgsm"

    def __call__(self, case: Case) -> ViewResult:
        """Return the rates, and the counts that they are made of.

        Raises:
            InputError: fewer than two models, or an attack that is not made for the norm.
        """
        if len(case.subjects) < 2:
            raise InputError("the study 'transfer' compares models: name at least two.")
        benches = {name: case.bench(subject) for name, subject in case.subjects.items()}
        counts = torch.stack([self._row(case, bench, list(benches.values())) for bench in benches.values()])
        names = list(benches)
        misled, eligible = counts[..., 0], counts[..., 1]
        rate = np.where(array(eligible) > 0, array(misled) / np.maximum(array(eligible), 1), np.nan)
        rows = [(name, [_cell(*pair) for pair in line]) for name, line in zip(names, counts.tolist(), strict=True)]
        clean = ", ".join(f"{name} {percent(float(bench.right.double().mean()))}" for name, bench in benches.items())
        words = [
            f"Twins made by {self.attack} within {case.threat} on one model (row), judged on another (column).",
            f"Clean accuracy on {len(case.images)} images: {clean}.",
            *table("made on", names, rows),
        ]
        panel = Panel("made on (row) × judged on (column): share misled", rate, Scale("unsigned", 0, 1))
        return study_result(
            "transfer",
            {"rate": rate, "misled": misled, "eligible": eligible},
            words,
            [panel],
            {"attack": self.attack, "threat": str(case.threat), "models": names, "n": len(case.images)},
            columns=1,
            side=2.4,
        )

    def _row(self, case: Case, source: Bench, others: list[Bench]) -> torch.Tensor:
        """Return for each model how many of the source's twins mislead it, and how many could."""
        result = api.attack(
            source.subject, source.images, named(self.attack), case.threat, seed=case.seed, quiet=case.quiet
        )
        twins = result.broken & source.right
        found = []
        for other in others:
            eligible = twins.to(other.images.x.device) & other.right
            x = result.x.to(other.images.x.device)[eligible]
            misled = other.rule(x, other.images.take(eligible), case.threat).accepted if len(x) else eligible[:0]
            found.append([int(misled.sum()), int(eligible.sum())])
        return torch.tensor(found)


def _cell(misled: int, eligible: int) -> str:
    return f"{percent(misled / eligible)} of {eligible}" if eligible else "none to try"
