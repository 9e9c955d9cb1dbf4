"""Checks of the model and the data: what is odd about them before anything is attacked."""

from __future__ import annotations

from faultlight.evaluation.checks.evidence import Checked, Evidence, interval
from faultlight.evaluation.rows import Status
from faultlight.evaluation.verdict import percent, share
from faultlight.models.inspect import (
    NOTE_BATCH,
    NOTE_INNER,
    NOTE_NOT_FINITE,
    NOTE_PROBABILITIES,
    NOTE_RANDOM,
)
from faultlight.models.load import NOTE_UNTRAINED
from faultlight.models.subject import NOTE_TRAIN_MODE

_UNSTABLE = 0.1
# Below four classes the targeted ratio of logits has no fourth class to be measured against.
_FEW = 4


def clean_accuracy_at_chance(evidence: Evidence) -> Checked:
    """A classifier that cannot be told from guessing has nothing to attack: the verdict is withheld."""
    name = "clean-accuracy-at-chance"
    valid = [image for image in evidence.images if image.status != Status.INVALID]
    clean = share(sum(image.prediction == image.label for image in valid), len(valid))
    if clean.low > evidence.chance:
        return Checked(name, f"clean accuracy {interval(clean)}, chance {percent(evidence.chance)}")
    text = f"clean accuracy {interval(clean)} cannot be told from chance ({percent(evidence.chance)})"
    return Checked(name, text, "fatal")


def random_output(evidence: Evidence) -> Checked:
    """A random forward pass needs attacks that average over it."""
    found = evidence.noted(NOTE_RANDOM)
    if not found:
        return Checked(NOTE_RANDOM, "two equal calls gave equal logits")
    if evidence.fresh is not None:
        found += f"; over new draws its twins break it in {percent(evidence.fresh)} of them"
    return Checked(NOTE_RANDOM, found, "warning")


def train_mode(evidence: Evidence) -> Checked:
    """A model in training mode was put into evaluation mode; its owner should know."""
    return _noted(evidence, NOTE_TRAIN_MODE, "info", "the model came in evaluation mode")


def untrained(evidence: Evidence) -> Checked:
    """A net of the zoo that was never trained; harmless to know, embarrassing to overlook."""
    return _noted(evidence, NOTE_UNTRAINED, "warning", "the model came with weights")


def batch_dependent(evidence: Evidence) -> Checked:
    """Logits that depend on the other images of the batch are no function of an image."""
    return _noted(evidence, NOTE_BATCH, "warning", "images alone and in a batch gave the same logits")


def inner_optimisation(evidence: Evidence) -> Checked:
    """A forward pass that optimises has gradients of its own, which attacks do not see through."""
    return _noted(evidence, NOTE_INNER, "warning", "the forward pass computes no gradients of its own")


def probabilities(evidence: Evidence) -> Checked:
    """Probabilities in place of logits starve the loss of gradients; attacks then work on their logarithm."""
    found = evidence.noted(NOTE_PROBABILITIES)
    if not found:
        return Checked(NOTE_PROBABILITIES, "the outputs are no probabilities")
    return Checked(NOTE_PROBABILITIES, f"{found}; attacks searched on their logarithm", "info")


def few_classes(evidence: Evidence) -> Checked:
    """With two or three classes, the ratios of logits that some attacks follow fall back to the plain margin."""
    text = f"{evidence.classes} classes"
    if evidence.classes >= _FEW:
        return Checked("few-classes", text)
    return Checked("few-classes", f"{text}: losses made of ratios of logits fall back to the margin", "info")


def not_finite(evidence: Evidence) -> Checked:
    """Images for which the model gives NaN or infinity are invalid: they count neither as standing nor as broken."""
    ids = [image.id for image in evidence.images if image.status == Status.INVALID]
    if not ids:
        return Checked(NOTE_NOT_FINITE, "every logit was a finite number")
    shown = ", ".join(map(str, ids[:10])) + (", …" if len(ids) > 10 else "")
    text = f"the model gave NaN or infinity for {len(ids)} images (ids {shown}); they are left out"
    return Checked(NOTE_NOT_FINITE, text, "warning")


def abstains(evidence: Evidence) -> Checked:
    """A model that answers with equal logits has not answered; under attack that counts as standing, not as broken."""
    silent = evidence.symptoms.silent
    if not silent:
        return Checked("abstains", "no image has equal logits for all classes")
    text = f"{silent} images get equal logits for all classes, as they are or on the way of a single step: the model"
    return Checked("abstains", f"{text} abstains, and an attack that only makes it abstain is no break", "warning")


def unstable_predictions(evidence: Evidence) -> Checked:
    """Where noise far smaller than ε changes predictions, the loss is too rough for its gradients to lead anywhere."""
    symptoms = evidence.symptoms
    text = f"noise of a tenth of ε broke {symptoms.unstable} of {symptoms.sample} images"
    severity = "warning" if symptoms.unstable > max(1, _UNSTABLE * symptoms.sample) else ""
    return Checked("unstable-predictions", text, severity)


def unread_data(evidence: Evidence) -> Checked:
    """Images that could not be read, and were skipped as asked."""
    if not evidence.data_notes:
        return Checked("data", "every image was read")
    return Checked("data", "; ".join(evidence.data_notes), "info")


def _noted(evidence: Evidence, check: str, severity: str, well: str) -> Checked:
    found = evidence.noted(check)
    return Checked(check, found, severity) if found else Checked(check, well)


CHECKS = (
    clean_accuracy_at_chance,
    random_output,
    train_mode,
    untrained,
    batch_dependent,
    inner_optimisation,
    probabilities,
    few_classes,
    not_finite,
    abstains,
    unstable_predictions,
    unread_data,
)
