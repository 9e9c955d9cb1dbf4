"""Checks: what would make a verdict untrustworthy, each one function from evidence to a finding.

The list follows Carlini et al. 2019, "On evaluating adversarial robustness", and Pintor et al. 2022, "Indicators of
attack failure". A check never changes a number; it says what the reader must know about it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from faultlight.evaluation.ledger import Attempt, Finding, ImageRow, Outcome, Status
from faultlight.evaluation.verdict import Share, percent, share
from faultlight.models.inspect import NOTE_BATCH, NOTE_NOT_FINITE, NOTE_PROBABILITIES, NOTE_RANDOM
from faultlight.models.load import NOTE_UNTRAINED
from faultlight.models.subject import NOTE_TRAIN_MODE, Note

# A few images may stand at a larger ε and not at a smaller one by the luck of the path taken.
_REVERSALS = 0.03
_MASKED = 0.5
_REFUSED = 0.05


@dataclass(frozen=True)
class CurvePoint:
    """The curve at one radius: which images of the sample still stand."""

    epsilon: float
    text: str
    standing: frozenset[int]


@dataclass(frozen=True)
class Evidence:
    """All that the checks look at.

    Args:
        images: the ledger's images.
        attempts: the attempts at the audited threat.
        classes: the number of classes.
        norm: the threat's norm.
        notes: what was seen when the model was wrapped and inspected.
        useless_gradients: images of the sample whose gradient of the margin is zero or not a number everywhere.
        sample: the size of that sample.
        curve: points by ascending ε; the first is ε = 0.
        reaches_all: whether the last point's ε lets any image become any grey, so that nothing may stand but by chance.
        single_step: images of the curve's sample that stand after one step at the audited ε; None if not run.
        iterated: those that stand after the curve's attack at the audited ε.
        data_notes: what was seen when the data were read.
    """

    images: Sequence[ImageRow]
    attempts: Sequence[Attempt]
    classes: int
    norm: str
    notes: Sequence[Note]
    useless_gradients: int
    sample: int
    curve: Sequence[CurvePoint]
    reaches_all: bool
    single_step: frozenset[int] | None
    iterated: frozenset[int] | None
    data_notes: Sequence[str] = ()


def run_checks(evidence: Evidence) -> list[Finding]:
    """Return every finding, by the order of the checks."""
    return [finding for check in CHECKS if (finding := check(evidence))]


def clean_accuracy_at_chance(evidence: Evidence) -> Finding | None:
    """A classifier that cannot be told from guessing has nothing to attack: the verdict is withheld."""
    valid = [image for image in evidence.images if image.status != Status.INVALID]
    clean = share(sum(image.prediction == image.label for image in valid), len(valid))
    chance = _chance(evidence)
    if clean.low > chance:
        return None
    text = f"clean accuracy {_interval(clean)} cannot be told from chance ({percent(chance)})"
    return Finding("clean-accuracy-at-chance", "fatal", text)


def zero_gradients(evidence: Evidence) -> Finding | None:
    """Where the gradient is zero everywhere, a gradient attack stands still and its silence proves nothing."""
    if not evidence.useless_gradients:
        return None
    part = evidence.useless_gradients / evidence.sample
    count = f"{evidence.useless_gradients} of {evidence.sample} images ({percent(part)})"
    text = f"the margin's gradient is zero or not a number everywhere on {count}"
    if part >= _MASKED:
        text += ", so gradient attacks prove nothing here"
    return Finding("zero-gradients", "fatal" if part >= _MASKED else "warning", text)


def random_output(evidence: Evidence) -> Finding | None:
    """A random forward pass needs attacks that average over it."""
    return _note(evidence, NOTE_RANDOM, "warning")


def train_mode(evidence: Evidence) -> Finding | None:
    """A model in training mode was put into evaluation mode; its owner should know."""
    return _note(evidence, NOTE_TRAIN_MODE, "info")


def untrained(evidence: Evidence) -> Finding | None:
    """A net of the zoo that was never trained; harmless to know, embarrassing to overlook."""
    return _note(evidence, NOTE_UNTRAINED, "warning")


def batch_dependent(evidence: Evidence) -> Finding | None:
    """Logits that depend on the other images of the batch are no function of an image."""
    return _note(evidence, NOTE_BATCH, "warning")


def probabilities(evidence: Evidence) -> Finding | None:
    """Probabilities in place of logits starve the loss of gradients; attacks then work on their logarithm."""
    finding = _note(evidence, NOTE_PROBABILITIES, "info")
    return finding and Finding(finding.check, "info", f"{finding.evidence}; attacks searched on their logarithm")


def not_finite(evidence: Evidence) -> Finding | None:
    """Images for which the model gives NaN or infinity are invalid: they count neither as standing nor as broken."""
    ids = [image.id for image in evidence.images if image.status == Status.INVALID]
    if not ids:
        return None
    shown = ", ".join(map(str, ids[:10])) + (", …" if len(ids) > 10 else "")
    return Finding(
        NOTE_NOT_FINITE,
        "warning",
        f"the model gave NaN or infinity for {len(ids)} images (ids {shown}); they are left out",
    )


def not_monotone(evidence: Evidence) -> Finding | None:
    """An image broken within a ball is broken within every larger one; an attack that forgets it is failing."""
    reversals: set[int] = set()
    for i, point in enumerate(evidence.curve):
        for larger in evidence.curve[i + 1 :]:
            reversals |= larger.standing - point.standing
    n = len(evidence.curve[0].standing) if evidence.curve else 0
    if len(reversals) <= max(1, _REVERSALS * n):
        return None
    text = f"{len(reversals)} of {n} images were broken at some ε and stood at a larger one: the attack loses its way"
    return Finding("not-monotone", "warning", text)


def curve_not_reaching_zero(evidence: Evidence) -> Finding | None:
    """With a radius that lets every image become grey, more than chance still standing means the attack fails."""
    if not evidence.curve or not evidence.reaches_all:
        return None
    last, n = evidence.curve[-1], len(evidence.curve[0].standing)
    standing = share(len(last.standing), n)
    if standing.low <= _chance(evidence):
        return None
    text = f"at ε = {last.text}, where any image can be turned grey, {_interval(standing)} of the sample still stand"
    return Finding("curve-not-reaching-zero", "warning", text)


def single_step_stronger(evidence: Evidence) -> Finding | None:
    """An iterative attack that is weaker than one step is stuck: a sign of masked gradients."""
    if evidence.single_step is None or evidence.iterated is None:
        return None
    once, often = len(evidence.single_step), len(evidence.iterated)
    if often <= once + max(1, 0.01 * once):
        return None
    text = f"one step left {once} images of the sample standing and many steps left {often}: the gradients mislead"
    return Finding("single-step-stronger", "warning", text)


def faulty_attack(evidence: Evidence) -> Finding | None:
    """An attack whose candidates leave the ball or the box was refused by the judge."""
    probes = sorted({attempt.probe for attempt in evidence.attempts if attempt.outcome == Outcome.REFUSED})
    if not probes:
        return None
    count = sum(attempt.outcome == Outcome.REFUSED for attempt in evidence.attempts)
    return Finding(
        "faulty-attack", "warning", f"{count} attempts of {', '.join(probes)} left the ball or [0, 1] and were refused"
    )


def claims_refused(evidence: Evidence) -> Finding | None:
    """Successes seen in the search and not upheld in float32: a few are rounding, many mean that the copy misleads."""
    refused = sum(attempt.claims_refused > 0 and not attempt.broke for attempt in evidence.attempts)
    attempts = len(evidence.attempts)
    if not attempts or refused <= max(1, _REFUSED * attempts):
        return None
    return Finding(
        "claims-refused",
        "warning",
        f"in {refused} of {attempts} attempts the judge upheld none of the claimed successes",
    )


def weak_norm(evidence: Evidence) -> Finding | None:
    """For some norms this version has no strong attack."""
    if evidence.norm in ("linf", "l2"):
        return None
    return Finding(
        "weak-norm",
        "warning",
        f"this version has no strong attack for {evidence.norm}: the attacked accuracy is a loose bound",
    )


def unread_data(evidence: Evidence) -> Finding | None:
    """Images that could not be read, and were skipped as asked."""
    return Finding("data", "info", "; ".join(evidence.data_notes)) if evidence.data_notes else None


CHECKS: tuple[Callable[[Evidence], Finding | None], ...] = (
    clean_accuracy_at_chance,
    zero_gradients,
    random_output,
    train_mode,
    untrained,
    batch_dependent,
    probabilities,
    not_finite,
    not_monotone,
    curve_not_reaching_zero,
    single_step_stronger,
    faulty_attack,
    claims_refused,
    weak_norm,
    unread_data,
)


def _chance(evidence: Evidence) -> float:
    """Return what guessing reaches: an even draw, or always the most common label."""
    labels = Counter(image.label for image in evidence.images if image.status != Status.INVALID)
    return max(1 / evidence.classes, max(labels.values(), default=0) / max(labels.total(), 1))


def _note(evidence: Evidence, check: str, severity: str) -> Finding | None:
    found = [note.evidence for note in evidence.notes if note.check == check]
    return Finding(check, severity, "; ".join(found)) if found else None


def _interval(part: Share) -> str:
    return f"{percent(part.value)} (95 % interval {percent(part.low)} to {percent(part.high)})"
