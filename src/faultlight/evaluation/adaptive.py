"""The adaptive path: symptoms seen before an attack choose searches that do not rest on the model's own gradients.

After the attacks come cross-checks: small searches on a sample of what still stands, each of which would succeed where
the evaluation had failed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from faultlight.attacks._contract import Attack, norms
from faultlight.attacks.pgd import PGD
from faultlight.attacks.square import Square
from faultlight.attacks.uniform_noise import UniformNoise
from faultlight.evaluation.oracle import Model
from faultlight.evaluation.plan import CANARY, Search, Stage
from faultlight.evaluation.symptoms import Symptoms
from faultlight.models.straight_through import StraightThrough
from faultlight.models.subject import Subject
from faultlight.runtime import is_out_of_memory
from faultlight.threat import Norm, Threat

STRAIGHT_THROUGH, STRAIGHT_THROUGH_TARGETED = "straight-through", "straight-through-targeted"
SMOOTHED, SMOOTHED_ALL, BLACK_BOX = "smoothed", "smoothed-all", "black-box"
ADAPTIVE = (STRAIGHT_THROUGH, STRAIGHT_THROUGH_TARGETED, SMOOTHED, SMOOTHED_ALL, BLACK_BOX)
NOISE, TRANSFER, DOUBLED = "check-noise", "check-transfer", "check-doubled"
TRANSFER_ALL, DOUBLED_ALL = "transfer", "doubled"


def further_models(subject: Subject, models: dict[Search, Model], x: Tensor) -> dict[Search, Model]:
    """Return the models of the adaptive path: the straight-through twin where it runs, and the exact one, to smooth."""
    found: dict[Search, Model] = {**models, "smoothed": models["exact"]}
    for functions in (True, False):
        twin = StraightThrough(subject.module, peel=functions, functions=functions)
        if _runs(twin, x[:1]):
            found["straight-through"] = twin
            break
    return found


def extended(
    plan: tuple[Stage, ...],
    symptoms: Symptoms,
    models: dict[Search, Model],
    threat: Threat,
    effort: str,
    standing: int,
) -> tuple[Stage, ...]:
    """Return a plan with the stages that symptoms ask for, and the cross-checks of all of them.

    AutoAttack's protocol stays as it is, so that its figures can be compared. Where a search by queries alone is added,
    it stands for the canary, which asks far fewer.
    """
    if effort == "exact":
        return plan
    further = adaptive_stages(symptoms, models, threat, effort)
    if any(stage.name == BLACK_BOX for stage in further):
        plan = tuple(stage for stage in plan if stage.name != CANARY)
    return (*plan, *further, *cross_checks((*plan, *further), models, threat.norm, standing))


def adaptive_stages(symptoms: Symptoms, models: dict[Search, Model], threat: Threat, effort: str) -> tuple[Stage, ...]:
    """Return the stages that the symptoms ask for: none where the gradients are as they should be."""
    sweep = PGD(steps=40, step_size=2.0, schedule="cosine", momentum=0.75, loss="margin")
    stages = []
    if symptoms.masked and "straight-through" in models:
        stages.append(Stage(STRAIGHT_THROUGH, replace(sweep, random_start=False), model="straight-through"))
        aimed = replace(sweep, steps=20, targets=9)
        stages.append(Stage(STRAIGHT_THROUGH_TARGETED, aimed, share=0.25, least=200, model="straight-through"))
    if symptoms.scattered or symptoms.jumpy or symptoms.flat:
        # It asks the model many times a step.
        stages.append(Stage(SMOOTHED, sweep, share=0.25, least=200, model="smoothed"))
        stages.append(Stage(SMOOTHED_ALL, sweep, model="smoothed", after=(SMOOTHED,), rest=True))
    if (symptoms.masked or symptoms.scattered or symptoms.jumpy) and threat.norm in norms(Square):
        square = Square(steps=300 if effort == "quick" else 2000)
        stages.append(Stage(BLACK_BOX, square, share=0.25, least=200, model="exact"))
    return tuple(stages)


def cross_checks(plan: Sequence[Stage], models: dict[Search, Model], norm: Norm, standing: int) -> tuple[Stage, ...]:
    """Return searches on a sample of the standing images that must find nothing if the attacks were strong.

    Random noise; a transfer from the straight-through twin; the longest attack in the norm that the plan runs on all
    images, with its steps doubled. The sample is a twentieth of what stands, at least 20 and at most 100 images, the
    nearest to breaking. One success of the last two has all that stands searched in the same way.
    """
    part = {"share": min(0.05, 100 / max(standing, 1)), "least": 20}
    stages = [Stage(NOISE, UniformNoise(steps=10), **part)]  # type: ignore[arg-type]
    if "straight-through" in models:
        sweep = PGD(steps=20, step_size=2.0, schedule="cosine", momentum=0.75, loss="margin")
        stages.append(Stage(TRANSFER, sweep, model="straight-through", **part))  # type: ignore[arg-type]
        stages.append(Stage(TRANSFER_ALL, replace(sweep, steps=40), model="straight-through", after=(TRANSFER,)))
    everywhere = [stage for stage in plan if stage.share == 1 and not stage.after and norm in stage.norms]
    iterated = [stage for stage in everywhere if is_gradient_search(stage.attack)]
    if iterated:
        longest = max(iterated, key=lambda stage: stage.attack.steps)
        doubled = _doubled(longest.attack)
        stages.append(Stage(DOUBLED, doubled, model=longest.model, **part))  # type: ignore[arg-type]
        stages.append(Stage(DOUBLED_ALL, doubled, model=longest.model, after=(DOUBLED,)))
    return tuple(stages)


def knowledge(attack: Attack) -> str:
    """Return what an attack must know of the model: "gradients", "scores" or "nothing"."""
    return str(getattr(attack, "knowledge", "gradients"))


def is_gradient_search(attack: Attack) -> bool:
    """Return whether an attack takes several steps along gradients."""
    return attack.steps > 1 and knowledge(attack) == "gradients" and not isinstance(attack, UniformNoise)


def _doubled(attack: Attack) -> Attack:
    changes: dict[str, Any] = {"steps": 2 * attack.steps, "restarts": 1, "targets": 0}
    known = {field.name for field in dataclasses.fields(attack)}  # type: ignore[arg-type]
    return replace(attack, **{name: value for name, value in changes.items() if name in known})  # type: ignore[type-var]


def _runs(model: StraightThrough, x: Tensor) -> bool:
    """Return whether the twin takes an image and its gradient: what it stands in for is other people's code."""
    try:
        leaf = x.detach().requires_grad_()
        with torch.enable_grad():
            logits = model(leaf)
            if logits.requires_grad:
                torch.autograd.grad(logits.sum(), leaf, allow_unused=True)
    except Exception as error:
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            raise
        return False
    return isinstance(logits, Tensor) and logits.ndim == 2 and math.isfinite(float(logits.detach().nan_to_num().sum()))
