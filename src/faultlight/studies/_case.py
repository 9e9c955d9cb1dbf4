"""What a study is given, and how its subjects are judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from faultlight import geometry
from faultlight.data.images import Images, check_images
from faultlight.errors import InputError
from faultlight.evaluation.judge import Judge, Ruling
from faultlight.evaluation.probing import judge_of
from faultlight.losses import UNTARGETED
from faultlight.models.inspect import check_subject
from faultlight.models.subject import Subject
from faultlight.threat import Threat


@dataclass(frozen=True)
class Case:
    """What a study is about.

    Args:
        subjects: the models by name; most studies want one.
        images: what is attacked and judged.
        threat: the ball.
        seed: of every random number.
        fitting: images of another split, for studies that fit something before they test it.
        quiet: show no progress.
    """

    subjects: Mapping[str, Subject]
    images: Images
    threat: Threat
    seed: int = 0
    fitting: Images | None = None
    quiet: bool = True

    def only(self, study: str) -> Subject:
        """Return the one subject.

        Raises:
            InputError: there are several.
        """
        if len(self.subjects) != 1:
            raise InputError(f"the study {study!r} looks at one model, not at {len(self.subjects)}; name one.")
        return next(iter(self.subjects.values()))

    def bench(self, subject: Subject) -> Bench:
        """Return a subject with its judge, and what it makes of the images before any attack."""
        images = check_images(self.images).to(subject.device)
        judge = judge_of(subject, check_subject(subject, images), self.seed)
        logits, prediction = judge.predict(images.x, images.y)
        right = (prediction == images.y) & torch.isfinite(logits).all(1)
        return Bench(subject, judge, images, prediction, right)


@dataclass(frozen=True)
class Bench:
    """A subject under study.

    Args:
        subject: the model.
        judge: who decides.
        images: on the subject's device.
        prediction: of the clean images.
        right: where it is the label.
    """

    subject: Subject
    judge: Judge
    images: Images
    prediction: Int64[Tensor, " n"]
    right: Bool[Tensor, " n"]

    def rule(
        self, candidate: Float32[Tensor, "n c h w"], images: Images, threat: Threat, goal: int = UNTARGETED
    ) -> Ruling:
        """Have the judge rule on a candidate for each of the images, first moved into the ball and the box."""
        inside = geometry.project(candidate, images.x, threat)
        return self.judge.rule(inside, images.x, images.y, torch.full_like(images.y, goal), threat)

    def standing(self, study: str) -> Images:
        """Return the images that are classified correctly.

        Raises:
            InputError: there are none.
        """
        if not self.right.any():
            raise InputError(
                f"the study {study!r} needs images that the model classifies correctly, and of {len(self.images)} "
                "there is none; give it a trained model."
            )
        return self.images.take(self.right)


def check_class(number: int, images: Images, what: str) -> None:
    """Raise InputError where there is no such class."""
    if not 0 <= number < len(images.classes):
        raise InputError(f"{what} {number} is no class of {images.name!r}; choose 0 … {len(images.classes) - 1}.")
