"""Checks of the gradients, and of the searches that do not rest on them."""

from __future__ import annotations

from faultlight.evaluation.adaptive import (
    ADAPTIVE,
    BLACK_BOX,
    DOUBLED,
    DOUBLED_ALL,
    NOISE,
    SMOOTHED,
    SMOOTHED_ALL,
    STRAIGHT_THROUGH,
    STRAIGHT_THROUGH_TARGETED,
    TRANSFER,
    TRANSFER_ALL,
)
from faultlight.evaluation.checks.evidence import Checked, Evidence, Tried, most_tried
from faultlight.evaluation.verdict import percent

_MASKED = 0.5
# A search of another kind may find an image or two by luck.
_LUCK = 0.02


def zero_gradients(evidence: Evidence) -> Checked:
    """Where the gradient is zero everywhere, a gradient attack stands still and its silence proves nothing."""
    symptoms = evidence.symptoms
    count = f"{symptoms.useless} of {symptoms.sample} images"
    if not symptoms.useless:
        return Checked("zero-gradients", f"the margin's gradient is zero or not a number on {count}")
    part = symptoms.useless / symptoms.sample
    text = f"the margin's gradient is zero or not a number everywhere on {count} ({percent(part)})"
    if part >= _MASKED:
        text += ", so gradient attacks prove nothing here"
    return Checked("zero-gradients", text + _adaptive(evidence), "fatal" if part >= _MASKED else "warning")


def saturated_logits(evidence: Evidence) -> Checked:
    """Logits at the end of a flat function: gradients that are not zero and yet promise nothing."""
    symptoms = evidence.symptoms
    text = f"on {symptoms.flat} of {symptoms.sample} images the gradient promises less than 1 % of the margin"
    if not symptoms.flat:
        return Checked("saturated-logits", text)
    return Checked("saturated-logits", text + _adaptive(evidence), "warning")


def tied_logits(evidence: Evidence) -> Checked:
    """Equal logits of the likeliest wrong classes: a last ReLU or rounding hides which of them is near."""
    symptoms = evidence.symptoms
    text = f"the two largest wrong logits are equal on {symptoms.tied} of {symptoms.sample} images"
    if not symptoms.tied:
        return Checked("tied-logits", text)
    return Checked("tied-logits", text + _adaptive(evidence), "warning")


def scattered_gradients(evidence: Evidence) -> Checked:
    """Gradients that change direction within a hundredth of ε lead nowhere: they are shattered."""
    symptoms = evidence.symptoms
    text = f"gradients a hundredth of ε apart agree with a median cosine of {symptoms.agreement:.2f}"
    if not symptoms.scattered:
        return Checked("scattered-gradients", text)
    return Checked("scattered-gradients", text + _adaptive(evidence), "warning")


def unexplained_changes(evidence: Evidence) -> Checked:
    """A margin that moves by jumps, which its gradients do not show, cannot be searched along them."""
    symptoms = evidence.symptoms
    share = percent(symptoms.unexplained)
    text = f"over a quarter of ε the gradients leave {share} of the margin's change unexplained (median)"
    if not symptoms.jumpy:
        return Checked("unexplained-changes", text)
    return Checked("unexplained-changes", text + _adaptive(evidence), "warning")


def adaptive_stronger(evidence: Evidence) -> Checked:
    """Searches with lent, smoothed or no gradients found what the model's own gradients had passed by."""
    done = evidence.tried(*ADAPTIVE)
    if not done.tried:
        return Checked("adaptive-stronger", "no symptom asked for adaptive searches")
    text = f"adaptive searches broke {done.broke} of {done.tried} images that the gradient attacks had left standing"
    return Checked("adaptive-stronger", text, "warning" if done.broke else "")


def black_box_stronger(evidence: Evidence) -> Checked:
    """An attack that asks for scores alone and finds more than those that see gradients: the gradients are masked."""
    done = [one for name, one in evidence.probes.items() if one.knowledge == "scores" and name not in ADAPTIVE]
    return _rival("black-box-stronger", most_tried(done), "attacks by scores alone")


def noise_stronger(evidence: Evidence) -> Checked:
    """Random noise must not break what gradient attacks left standing."""
    return _rival("noise-stronger", evidence.tried(NOISE), "random noise")


def transfer_stronger(evidence: Evidence) -> Checked:
    """Twins made on a surrogate must not break what attacks on the model itself left standing."""
    return _rival(
        "transfer-stronger", evidence.tried(TRANSFER, TRANSFER_ALL), "twins made on the straight-through surrogate"
    )


def incomplete_optimisation(evidence: Evidence) -> Checked:
    """If twice the steps break more, the attacks were stopped too early."""
    return _rival(
        "incomplete-optimisation", evidence.tried(DOUBLED, DOUBLED_ALL), "the longest attack with twice its steps"
    )


def _rival(name: str, done: Tried, who: str) -> Checked:
    if not done.tried:
        return Checked(name, f"{who}: nothing was left to try it on", "not run")
    text = f"{who} broke {done.broke} of {done.tried} images that stood before"
    if done.spared:
        text += f", and none of {done.spared:,} certified ones could be"
    return Checked(name, text, "warning" if done.broke > max(1, _LUCK * (done.tried + done.spared)) else "")


def _adaptive(evidence: Evidence) -> str:
    """Return what the adaptive searches did, to be said with a symptom."""
    said = []
    straight = evidence.tried(STRAIGHT_THROUGH, STRAIGHT_THROUGH_TARGETED)
    for done, who in (
        (straight, "straight-through"),
        (evidence.tried(SMOOTHED, SMOOTHED_ALL), "smoothed"),
        (evidence.tried(BLACK_BOX), "black-box"),
    ):
        if done.tried:
            said.append(f"{who} searches broke {done.broke} of {done.tried}")
    return f"; {', '.join(said)} images that stood till then" if said else "; no adaptive search applied"


CHECKS = (
    zero_gradients,
    saturated_logits,
    tied_logits,
    scattered_gradients,
    unexplained_changes,
    adaptive_stronger,
    black_box_stronger,
    noise_stronger,
    transfer_stronger,
    incomplete_optimisation,
)
