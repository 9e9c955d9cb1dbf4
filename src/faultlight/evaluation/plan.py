"""What an audit runs for each effort: the cheap probes first, the costly ones on the images nearest to breaking."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from faultlight.attacks._contract import Attack, norms
from faultlight.attacks.apgd import APGD
from faultlight.attacks.corner_beam import CornerBeam
from faultlight.attacks.fab import FAB
from faultlight.attacks.fgsm import FGSM
from faultlight.attacks.pgd import PGD
from faultlight.attacks.sigma_zero import SigmaZero
from faultlight.attacks.square import Square
from faultlight.errors import InputError, nearest
from faultlight.threat import Norm

Effort = Literal["quick", "standard", "exact"]
# The models that an audit can search on; `probing.search_models` says what each is.
Search = Literal["fast", "exact", "straight-through", "smoothed"]


@dataclass(frozen=True)
class Stage:
    """One probe of a plan.

    Args:
        name: unique in the plan.
        attack: the attack.
        share: the share of standing images it is run on, those with the largest margin so far, certified ones counted
            but left out; 1 is all of them.
        least: but at least so many images.
        reach: and of the share only those whose margin is short of 0 by no more than so many times what the attacks so
            far have gained on it.
        model: what it searches on: "fast", a faster copy where one pays; "exact", the untouched model in float32.
        ranked_by: earlier targeted stages whose margins order the targets; none orders them by the clean logits.
        skip: so many of the first targets are left out, since an earlier stage aimed at them.
        sample: choose the images at random, not the nearest; every such stage draws in the same order.
        after: run only where one of these earlier stages broke an image: what succeeds on a sample is tried on all.
        rest: leave out the images that those earlier stages were run on.
        together: run all jobs of an image side by side, which is quicker for a few images.
    """

    name: str
    attack: Attack
    share: float = 1.0
    least: int = 0
    reach: float = math.inf
    model: Search = "fast"
    ranked_by: tuple[str, ...] = ()
    skip: int = 0
    sample: bool = False
    after: tuple[str, ...] = ()
    rest: bool = False
    together: bool = False

    @property
    def norms(self) -> tuple[Norm, ...]:
        """The norms that the stage's attack is made for; under another the stage is left out."""
        return norms(self.attack)


_MOMENTUM = PGD(step_size=2.0, schedule="cosine", momentum=0.75, loss="margin")
_SWEEP = replace(_MOMENTUM, steps=20, random_start=False)
_TARGETS = replace(_MOMENTUM, steps=7, random_start=False, targets=4)
_RANKED = ("pgd-targeted", "pgd-targeted-rest")
_LONG = replace(_MOMENTUM, steps=50, targets=3)
# AutoAttack's standard version (Croce & Hein 2020), part by part.
_EXACT = (
    ("apgd-ce", APGD(loss="cross-entropy")),
    ("apgd-t", APGD(loss="dlr", targets=9)),
    ("fab-t", FAB(targets=9)),
    ("square", Square(steps=5000, rescaled=False)),
)
EXACT_SAMPLE = tuple(f"sample-{name}" for name, _ in _EXACT)
CANARY = "canary"


def _sampled() -> tuple[Stage, ...]:
    """AutoAttack's exact protocol on a random sample of what still stands; what breaks one image is tried on all."""
    ahead = [(name, replace(a, lookahead=16) if isinstance(a, Square) else a) for name, a in _EXACT]
    sample = (Stage(f"sample-{name}", a, share=0.005, least=2, sample=True, together=True) for name, a in ahead)
    also = {"square": (CANARY,)}
    all_of_them = (Stage(f"{name}-all", a, after=(f"sample-{name}", *also.get(name, ()))) for name, a in _EXACT)
    return (*sample, *all_of_them)


PLANS: dict[str, tuple[Stage, ...]] = {
    "quick": (Stage("fgsm", FGSM()), Stage("pgd", _SWEEP)),
    "standard": (
        Stage("pgd", _SWEEP),
        # The margin follows the nearest wrong class alone; short runs at each class find those it passes by, and rank
        # them for the long runs. Unlikely classes are reached by images alone that the sweep moved far: at most 0.56
        # times as far as it had were they short of breaking, where any broke.
        Stage("pgd-targeted", _TARGETS, share=0.8, least=30, together=True),
        Stage("pgd-targeted-rest", replace(_TARGETS, targets=5), least=10, reach=0.6, skip=4, together=True),
        # What these leave breakable is near: each costlier attack goes to fewer images. On robust networks of MNIST and
        # CIFAR-10 all that broke lay among the nearest 4 % of what stood, 1 % and 2 %.
        Stage("apgd", APGD(), share=0.05, least=10),
        Stage("pgd-long", _LONG, share=0.025, least=8, ranked_by=_RANKED, together=True),
        Stage(
            "apgd-targeted",
            APGD(loss="dlr", targets=4),
            share=0.02,
            least=6,
            ranked_by=_RANKED,
            together=True,
        ),
        # Few pixels: the most promising corners first, then the descent that finds how few will do.
        Stage("corner-beam", CornerBeam()),
        Stage("sigma-zero", SigmaZero()),
        Stage("corner-beam-long", CornerBeam(steps=60), share=0.25, least=10),
        # No gradient is asked here: a success says that gradients mislead, and all are searched without them.
        Stage(CANARY, Square(steps=50), share=0.25, least=100),
        *_sampled(),
    ),
    "exact": tuple(Stage(name, attack) for name, attack in _EXACT),
}


def plan(effort: str) -> tuple[Stage, ...]:
    """Return the stages of an effort.

    Raises:
        InputError: an unknown effort.
    """
    if effort in PLANS:
        return PLANS[effort]
    raise InputError(f"effort {effort!r} is unknown; {nearest(effort, PLANS)}.")


def curve_attack(norm: Norm) -> Attack:
    """Return the attack of the accuracy-against-ε curve: the same for every ε, so that its points can be compared."""
    return SigmaZero(steps=60) if norm == "l0" else _SWEEP
