"""What an audit runs for each effort: the cheap probes first, the costly ones on the images nearest to breaking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from faultlight.attacks._contract import Attack
from faultlight.attacks.fgsm import FGSM
from faultlight.attacks.pgd import PGD
from faultlight.errors import InputError, nearest

Effort = Literal["quick", "standard", "exact"]
# The models that an audit can search on; `probing.search_models` says what each is.
Search = Literal["fast", "exact", "straight-through", "smoothed"]


@dataclass(frozen=True)
class Stage:
    """One probe of a plan.

    Args:
        name: unique in the plan.
        attack: the attack.
        share: the share of standing images it is run on, those with the largest margin so far; 1 is all of them.
        least: but at least so many images.
        model: what it searches on: "fast", a faster copy where one pays; "exact", the untouched model in float32.
        ranked_by: an earlier targeted stage whose margins order the targets; "" orders them by the clean logits.
        after: run only where this earlier stage broke an image: what succeeds on a sample is tried on all.
    """

    name: str
    attack: Attack
    share: float = 1.0
    least: int = 0
    model: Search = "fast"
    ranked_by: str = ""
    after: str = ""


_SWEEP = PGD(steps=20, step_size=2.0, schedule="cosine", momentum=0.75, loss="margin", random_start=False)
_TARGETS = PGD(steps=8, step_size=2.0, schedule="cosine", momentum=0.75, loss="margin", random_start=False, targets=9)
_LONG = PGD(steps=50, step_size=2.0, schedule="cosine", momentum=0.75, loss="margin", targets=3)

PLANS: dict[str, tuple[Stage, ...]] = {
    "quick": (Stage("fgsm", FGSM()), Stage("pgd", _SWEEP)),
    "standard": (
        Stage("fgsm", FGSM()),
        Stage("pgd", _SWEEP),
        # The margin follows the nearest wrong class alone; a short run at each class finds those it passes by, and
        # ranks them for the long runs.
        Stage("pgd-targeted", _TARGETS, share=0.25, least=500),
        Stage("pgd-long", _LONG, share=0.05, least=200, ranked_by="pgd-targeted"),
        # Rounding in the search copy hides a last step of 1e-2 in the margin: the nearest are finished without it.
        Stage("pgd-finish", _LONG, share=0.02, least=50, model="exact", ranked_by="pgd-targeted"),
    ),
}


def plan(effort: str) -> tuple[Stage, ...]:
    """Return the stages of an effort.

    Raises:
        InputError: an unknown effort, or one that this version does not offer.
    """
    if effort in PLANS:
        return PLANS[effort]
    if effort in get_args(Effort):
        raise InputError(f"effort {effort!r} is not offered by this version; use {' or '.join(PLANS)}.")
    raise InputError(f"effort {effort!r} is unknown; {nearest(effort, PLANS)}.")


def curve_attack() -> Attack:
    """Return the attack of the accuracy-against-ε curve: the same for every ε, so that its points can be compared."""
    return PGD(steps=20, step_size=2.0, schedule="cosine", momentum=0.75, loss="margin", random_start=False)
