"""A class drawn by an attack: from real images, from noise, from nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from faultlight import rng
from faultlight.attacks.pgd import PGD
from faultlight.data.images import Images
from faultlight.errors import InputError
from faultlight.evaluation.verdict import percent
from faultlight.settings import check_settings
from faultlight.studies._case import Bench, Case, check_class
from faultlight.studies._search import to_the_end
from faultlight.studies._words import picture, spoken, study_result, table
from faultlight.views._result import Panel, ViewResult


@dataclass(frozen=True)
class Drawn:
    """What became of one kind of start: the images drawn, where the judge sees the class, and its probability."""

    x: Tensor
    reached: Tensor
    sure: Tensor

    def row(self) -> list[str]:
        """Return the cells of the table."""
        return [
            spoken(int(self.reached.sum()), len(self.reached)),
            f"{100 * float(self.sure.median()):.2f} %",
            f"{100 * float(self.sure.min()):.2f} %",
            percent(float((self.sure >= 0.99).double().mean())),
        ]

    def arrays(self, name: str) -> dict[str, Tensor]:
        """Return the numbers, named after the start."""
        return {f"{name}_x": self.x, f"{name}_reached": self.reached, f"{name}_confidence": self.sure}


@dataclass(frozen=True)
class DrawnClass:
    """A targeted iterative sign attack to one class, from real images of other classes, from noise and from zeros.

    x ← Π(x + α·sign ∇ₓ log p_t(x)) within the threat's ball around where it began; each run is taken to its end, and
    the confidence is p_t at its best point. Noise is N(mean, deviation²), clipped to [0, 1]; zeros are one black image.

    Source: Kurakin et al. 2017, "Adversarial examples in the physical world", §2.3 (the iterative method, targeted);
    Nguyen et al. 2015, "Deep neural networks are easily fooled", on images of nothing that a net is sure of.

    Args:
        target: the class to be drawn.
        steps: gradient steps.
        mean: of the noise.
        deviation: of the noise.
        noises: how many noise images.
    """

    target: int = 9
    steps: int = 200
    mean: float = 0.5
    deviation: float = 0.05
    noises: int = 100

    def __post_init__(self) -> None:
        check_settings(self, steps=1, noises=1, deviation=0)
        if not 0 <= self.mean <= 1:
            raise InputError(f"mean must lie in [0, 1], as pixels do, not {self.mean:g}.")

    def __call__(self, case: Case) -> ViewResult:
        """Return how many of each start are seen as the class, and how surely.

        Raises:
            InputError: several models, no such class, or no image of another class.
        """
        check_class(self.target, case.images, "target")
        bench = case.bench(case.only("drawn-class"))
        starts = self._starts(case, bench)
        drawn = self._draw(case, bench, starts)
        rows = [(name, one.row()) for name, one in drawn.items()]
        words = [
            f"Class {self.target} drawn within {case.threat} in {self.steps} steps, as {bench.subject.name} sees it.",
            *table("from", ["seen as it", "confidence: median", "least", "≥ 99 %"], rows),
        ]
        facts = {
            "target": self.target,
            "threat": str(case.threat),
            "reached": {name: float(one.reached.double().mean()) for name, one in drawn.items()},
            "confidence": {name: float(one.sure.median()) for name, one in drawn.items()},
        }
        arrays = {key: values for name, one in drawn.items() for key, values in one.arrays(name).items()}
        return study_result("drawn-class", arrays, words, _panels(starts, drawn), facts, columns=6, side=1.3)

    def _starts(self, case: Case, bench: Bench) -> dict[str, Images]:
        real = bench.images.take((bench.images.y != self.target) & bench.right)
        if not len(real):
            raise InputError(f"no image of another class than {self.target} is classified correctly; give more.")
        ids = torch.arange(self.noises, device=real.x.device)
        noise = rng.normal(rng.key(case.seed, "drawn class"), ids, torch.zeros_like(ids), real.shape)
        drawn = (self.mean + self.deviation * noise).clamp(0, 1)
        return {
            "real": real,
            "noise": _seen(bench, replace(real, x=drawn, y=ids, ids=ids)),
            "zeros": _seen(bench, replace(real, x=torch.zeros_like(real.x[:1]), y=ids[:1], ids=ids[:1])),
        }

    def _draw(self, case: Case, bench: Bench, starts: dict[str, Images]) -> dict[str, Drawn]:
        """Return what became of each start."""
        whole = Images(
            torch.cat([images.x for images in starts.values()]),
            torch.cat([images.y for images in starts.values()]),
            torch.arange(sum(map(len, starts.values())), device=bench.images.x.device),
            bench.images.classes,
        )
        attack, goal = PGD(steps=self.steps, random_start=False), torch.full_like(whole.y, self.target)
        x = to_the_end(bench, whole, attack, case.threat, case.seed, goal).strongest
        ruling = bench.rule(x, whole, case.threat, self.target)
        sure = bench.judge.logits(ruling.x).double().softmax(1)[:, self.target]
        sizes = [len(images) for images in starts.values()]
        parts = zip(*(torch.split(t, sizes) for t in (ruling.x, ruling.accepted, sure)), strict=True)
        return {name: Drawn(*part) for name, part in zip(starts, parts, strict=True)}


def _seen(bench: Bench, images: Images) -> Images:
    """Return images of nothing, labelled as the model sees them."""
    return replace(images, y=bench.judge.logits(images.x).argmax(1))


def _panels(starts: dict[str, Images], drawn: dict[str, Drawn]) -> list[Panel]:
    panels: list[Panel] = []
    for name, images in starts.items():
        panels += [Panel("", np.full((1, 1), np.nan))] * (-len(panels) % 6)
        for i in range(min(3, len(images))):
            panels.append(Panel(f"{name}: seen as {int(images.y[i])}", picture(images.x[i])))
            panels.append(Panel(f"p = {float(drawn[name].sure[i]):.4f}", picture(drawn[name].x[i])))
    return panels
