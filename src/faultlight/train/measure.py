"""What a finished network withstands, for the figure that its recipe must reach; the verdict is the audit's to give."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from faultlight import rng
from faultlight.attacks.pgd import PGD
from faultlight.certify.certificate import certify
from faultlight.data.images import Images
from faultlight.models.subject import Subject
from faultlight.threat import parse_threat
from faultlight.train.inner import pose, run_attack
from faultlight.train.recipe import RobustTarget

_BATCH = 250


def withstood(subject: Subject, images: Images, target: RobustTarget, seed: int) -> Bool[Tensor, " n"]:
    """Return which of the first images are classified rightly under the target's attack, or provably under any.

    PGD counts as papers count it: a random start, no restart, the last point decides, in float32.
    """
    chosen = images.first(min(target.images, len(images)))
    return torch.cat(
        [
            _withstood(subject, chosen.take(rows), target, seed)
            for rows in torch.split(torch.arange(len(chosen)), _BATCH)
        ]
    )


def _withstood(subject: Subject, images: Images, target: RobustTarget, seed: int) -> Tensor:
    images = images.to(subject.device)
    x, y, ids = images.x, images.y, images.ids
    if target.by == "certificate":
        return certify(subject, x, y, target.threat).certified.cpu()
    problem = pose(subject, x, y, ids, parse_threat(target.threat), rng.key(seed, "robust target"))
    attack = PGD(steps=target.steps, step_size=target.step_size)
    with torch.no_grad():
        right = subject(x).argmax(1) == y
        return (right & (subject(run_attack(attack, problem)).argmax(1) == y)).cpu()
