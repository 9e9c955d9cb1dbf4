"""One perturbation for all images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float32
from torch import Tensor

from faultlight import geometry, losses, rng
from faultlight.data.images import Images
from faultlight.errors import InputError
from faultlight.evaluation.judge import Ruling
from faultlight.evaluation.oracle import RecordingOracle, piece_rows
from faultlight.losses import UNTARGETED
from faultlight.settings import check_settings
from faultlight.studies._case import Bench, Case, check_class
from faultlight.studies._words import array, picture, spoken, study_result, table
from faultlight.studies.noise_transfer import shuffled
from faultlight.threat import Norm, Threat
from faultlight.views._result import Panel, ViewResult, scale_of

Noise = Float32[Tensor, "1 c h w"]


@dataclass(frozen=True)
class Universal:
    """A perturbation fitted to images of the training split, and how many held-out images it fools.

    max over ‖δ‖ ≤ ε of Σᵢ min(L(clip(xᵢ + δ), ŷᵢ), β), ŷ the prediction without δ, by steepest steps over mini-batches,
    α falling from its first value to 0; fooling rate = share of held-out images whose prediction δ changes.

    Source: Shafahi et al. 2020, "Universal adversarial training", §3.1 (the clipped loss and its stochastic gradient);
    the fooling rate: Moosavi-Dezfooli et al. 2017, "Universal adversarial perturbations", §2.

    Args:
        fit: images of the training split that it is fitted to.
        epochs: passes over them.
        batch: images a step.
        step_size: α at first, in units of ε; at least 4 / the number of steps, so that they can cross the ball.
        clip: β; without a limit a few images would draw all of the gradient.
        target: the class that all shall be seen as; −1 is any other.
    """

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")

    fit: int = 1000
    epochs: int = 10
    batch: int = 100
    step_size: float = 0.25
    clip: float = 9.0
    target: int = -1

    def __post_init__(self) -> None:
        check_settings(self, fit=1, epochs=1, batch=1)
        for name, value in (("step_size", self.step_size), ("clip", self.clip)):
            if value <= 0:
                raise InputError(f"{name} must be above 0, not {value:g}.")

    def __call__(self, case: Case) -> ViewResult:
        """Return the perturbation, and how many held-out images it and random noise as long fool.

        Raises:
            InputError: several models, no images to fit it to, or a norm other than L∞ and L2.
        """
        bench, fitting = case.bench(case.only("universal")), self._checked(case)
        known = replace(fitting, y=bench.judge.predict(fitting.x, fitting.y)[1])
        held_out = replace(bench.images, y=bench.prediction)
        noise = self.fitted(bench, known, case.threat, case.seed)
        random = shuffled(noise, held_out.ids[:1], case.seed)
        tried = {
            "fitted images": (known, noise),
            "held-out images": (held_out, noise),
            "held-out images, its pixels shuffled": (held_out, random),
        }
        rulings = {name: bench.rule(i.x + d, i, case.threat, self.target) for name, (i, d) in tried.items()}
        told, split = rulings["held-out images"], fitting.split
        rates = {name: float(ruling.accepted.double().mean()) for name, ruling in rulings.items()}
        return study_result(
            "universal",
            {"noise": noise, "random": random, "prediction": told.prediction},
            [
                f"One perturbation within {case.threat} for all, fitted to {len(known)} {split} images.",
                *_words(rulings),
            ],
            _panels(noise, random, held_out, told.x, told.prediction),
            {"threat": str(case.threat), "target": self.target, "fit": self.fit, "fooled": rates},
            columns=2,
        )

    def fitted(self, bench: Bench, images: Images, threat: Threat, seed: int) -> Noise:
        """Return the perturbation that fits images labelled as the model sees them."""
        oracle = RecordingOracle(bench.subject, piece_rows(images.shape, images.x.device))
        noise = torch.zeros_like(images.x[:1])
        batches = list(self._batches(images, seed))
        first = max(self.step_size, 4 / len(batches))  # the steps together cross the ball
        for done, rows in enumerate(batches):
            gradient = self._gradient(oracle, images.take(rows), noise)
            length = first * (1 - done / len(batches)) * threat.epsilon
            noise = _within(noise + length * geometry.ascent(gradient, threat.norm), threat)
        return noise

    def _gradient(self, oracle: RecordingOracle, images: Images, noise: Noise) -> Noise:
        """Return the gradient of the summed, clipped loss; a pixel that is clipped has none."""
        moved = images.x + noise
        goal = torch.full_like(images.y, self.target)

        def clipped(logits: Tensor, part: slice) -> Tensor:
            value = losses.loss("cross-entropy", logits, images.y[part], goal[part])
            return value.clamp(max=self.clip)

        inside = moved.clamp(0, 1)
        _, _, gradient = oracle.differentiate(inside, clipped)
        oracle.forget()
        return (gradient * (moved == inside)).sum(0, keepdim=True)

    def _batches(self, images: Images, seed: int) -> Iterator[Tensor]:
        key = rng.key(seed, "universal")
        for epoch in range(self.epochs):
            order = rng.bits(key, images.ids, torch.full_like(images.ids, epoch), 1)[:, 0].argsort()
            yield from torch.split(order, self.batch)

    def _checked(self, case: Case) -> Images:
        if case.fitting is None:
            raise InputError("the study 'universal' needs images to fit its perturbation to; give Case(fitting=…).")
        if case.threat.norm not in self.norms:
            raise InputError(f"a universal perturbation is made for linf and l2, not for {case.threat.norm}.")
        if self.target != UNTARGETED:
            check_class(self.target, case.images, "target")
        return case.fitting.first(self.fit).to(next(iter(case.subjects.values())).device)


def _within(noise: Noise, threat: Threat) -> Noise:
    if threat.norm == "linf":
        return noise.clamp(-threat.epsilon, threat.epsilon)
    length = geometry.norm(noise, "l2").clamp(min=1e-300)
    return noise * geometry.rows((threat.epsilon / length).clamp(max=1).float())


def _words(rulings: dict[str, Ruling]) -> list[str]:
    rows = [(name, [spoken(int(ruling.accepted.sum()), len(ruling.accepted))]) for name, ruling in rulings.items()]
    told = rulings["held-out images"]
    became = told.prediction[told.accepted]
    most = [f"Of the held-out images that it fools most become {int(became.mode().values)}."] if len(became) else []
    return [*table("fools", ["share"], rows), *most]


def _panels(noise: Tensor, random: Tensor, images: Images, x: Tensor, prediction: Tensor) -> list[Panel]:
    scale = scale_of(array(noise.mean(1)), array(random.mean(1)))
    shown = min(3, len(images))
    panels = [
        Panel("the perturbation", array(noise[0].mean(0)), scale),
        Panel("its pixels shuffled", array(random[0].mean(0)), scale),
    ]
    for i in range(shown):
        panels.append(Panel(f"seen as {int(images.y[i])}", picture(images.x[i])))
        panels.append(Panel(f"with it: {int(prediction[i])}", picture(x[i])))
    return panels
