"""Noise that is aimed at a classifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from faultlight.attacks.fgsm import FGSM
from faultlight.attacks.pgd import PGD
from faultlight.autoencoder.noises._contract import Given, Pixels
from faultlight.errors import InputError
from faultlight.threat import Threat
from faultlight.train.inner import pose, run_attack


@dataclass(frozen=True)
class Adversarial:
    """The change within an L∞ ball that a gradient attack on a classifier ends with, broken or not.

    max L(f(x'), y) with ‖x' − x‖∞ ≤ ε and x' in [0, 1], by one step of FGSM or several of PGD from a random start; the
    strength is ε. The attack does not know that a denoiser will come between: what withstands an attack that does is
    for an audit of both together to say.

    Source: Goodfellow et al. 2015, "Explaining and harnessing adversarial examples", section 4; Madry et al. 2018,
    "Towards deep learning models resistant to adversarial attacks", section 2.1.

    Args:
        steps: 1 is FGSM, more is PGD.
    """

    steps: int = 10

    limits: ClassVar[tuple[float, float]] = (0.0, 1.0)
    unit: ClassVar[str] = "ε, L∞"
    # An attack runs at one radius at a time.
    levels: ClassVar[int] = 4
    aimed: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"adversarial noise needs at least 1 step, not {self.steps}.")

    def __call__(self, given: Given) -> Pixels:
        """Return the attacked pixels."""
        if given.classifier is None:
            raise InputError(
                "adversarial noise is aimed at a classifier, and none was given; name one by --classifier."
            )
        found = given.x.clone()
        for radius in sorted(set(given.strength.tolist())):
            if radius > 0:
                of = given.strength == radius
                posed = pose(
                    given.classifier, given.x[of], given.y[of], given.ids[of], Threat("linf", radius), given.key
                )
                found[of] = run_attack(FGSM() if self.steps == 1 else PGD(steps=self.steps), posed)
        return found
