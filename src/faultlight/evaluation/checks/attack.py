"""Checks of the attacks: an evaluation that contradicts itself, or that was refused by the judge."""

from __future__ import annotations

from faultlight.evaluation.adaptive import (
    SMOOTHED,
    SMOOTHED_ALL,
    STRAIGHT_THROUGH,
    STRAIGHT_THROUGH_TARGETED,
    TRANSFER,
)
from faultlight.evaluation.checks.evidence import Checked, Evidence, interval
from faultlight.evaluation.plan import EXACT_SAMPLE
from faultlight.evaluation.rows import Outcome
from faultlight.evaluation.verdict import percent, share
from faultlight.models.inspect import NOTE_RANDOM

# A few images may stand at a larger ε and not at a smaller one by the luck of the path taken.
_REVERSALS = 0.03
_REFUSED = 0.05


def not_monotone(evidence: Evidence) -> Checked:
    """An image broken within a ball is broken within every larger one; an attack that forgets it is failing."""
    reversals: set[int] = set()
    for i, point in enumerate(evidence.curve):
        for larger in evidence.curve[i + 1 :]:
            reversals |= larger.standing - point.standing
    n = len(evidence.curve[0].standing) if evidence.curve else 0
    text = f"{len(reversals)} of {n} images were broken at some ε and stood at a larger one"
    if len(reversals) <= max(1, _REVERSALS * n):
        return Checked("not-monotone", text)
    return Checked("not-monotone", f"{text}: the attack loses its way", "warning")


def curve_not_reaching_zero(evidence: Evidence) -> Checked:
    """With a radius that lets every image become grey, more than chance still standing means the attack fails."""
    name = "curve-not-reaching-zero"
    if not evidence.curve or not evidence.reaches_all:
        return Checked(name, "the curve does not reach the radius at which images can be turned grey", "not run")
    last, n = evidence.curve[-1], len(evidence.curve[0].standing)
    standing = share(len(last.standing), n)
    left = f"the curve's attack, by the model's own gradients, leaves {interval(standing)} of the sample standing"
    text = f"at ε = {last.text}, where any image can be turned grey, {left}"
    return Checked(name, text, "warning" if standing.low > evidence.chance else "")


def single_step_stronger(evidence: Evidence) -> Checked:
    """An iterative attack that is weaker than one step is stuck: a sign of masked gradients."""
    name = "single-step-stronger"
    if evidence.single_step is None or evidence.iterated is None:
        return Checked(name, "one step and many were not compared", "not run")
    once, often = len(evidence.single_step), len(evidence.iterated)
    text = f"one step left {once} images of the sample standing and many steps left {often}"
    if often <= once + max(1, 0.01 * once):
        return Checked(name, text)
    return Checked(name, f"{text}: the gradients mislead", "warning")


def silent_success(evidence: Evidence) -> Checked:
    """A point on an attack's path that broke the image, and was forgotten; every point asked about is judged."""
    silent = sum(a.outcome == Outcome.STOOD and a.margin is not None and a.margin > 0 for a in evidence.attempts)
    text = f"{silent} of {len(evidence.attempts)} attempts passed a point that breaks their image and did not report it"
    return Checked("silent-success", text, "warning" if silent else "")


def faulty_attack(evidence: Evidence) -> Checked:
    """An attack whose candidates leave the ball or the box was refused by the judge."""
    probes = sorted({attempt.probe for attempt in evidence.attempts if attempt.outcome == Outcome.REFUSED})
    if not probes:
        return Checked("faulty-attack", "every candidate lay in the ball and in [0, 1]")
    count = sum(attempt.outcome == Outcome.REFUSED for attempt in evidence.attempts)
    text = f"{count} attempts of {', '.join(probes)} left the ball or [0, 1] and were refused"
    return Checked("faulty-attack", text, "warning")


def claims_refused(evidence: Evidence) -> Checked:
    """Successes seen in the search and not upheld in float32: a few are rounding, many mean that the copy misleads."""
    # The adaptive searches ask stand-ins of the model, of which this is to be expected.
    asked = [a for a in evidence.attempts if a.probe not in _PROPOSING]
    refused = sum(attempt.claims_refused > 0 and not attempt.broke for attempt in asked)
    text = f"in {refused} of {len(asked)} attempts the judge upheld none of the claimed successes"
    if evidence.rounded:
        return Checked("claims-refused", f"{text}; rounding to 8-bit images undoes some")
    if evidence.noted(NOTE_RANDOM):
        return Checked("claims-refused", f"{text}; of a random model it asks for more than a search can see")
    return Checked("claims-refused", text, "warning" if asked and refused > max(1, _REFUSED * len(asked)) else "")


def weak_norm(evidence: Evidence) -> Checked:
    """For some norms this version has no strong attack."""
    if evidence.norm != "l1":
        return Checked("weak-norm", f"strong attacks were made for {evidence.norm}")
    text = f"this version has no strong attack for {evidence.norm}: the attacked accuracy is a loose bound"
    return Checked("weak-norm", text, "warning")


def exact_sample(evidence: Evidence) -> Checked:
    """What AutoAttack's exact protocol does to a random sample of what the plan left standing bounds what it missed."""
    done = evidence.tried(*EXACT_SAMPLE)
    if not done.tried:
        return Checked("exact-sample", "no image was put to AutoAttack's exact protocol", "not run")
    missed = share(done.broke, done.tried)
    drawn = f"{done.tried} images drawn at random from those left standing"
    text = f"AutoAttack's exact protocol broke {done.broke} of {drawn}"
    if done.broke:
        return Checked("exact-sample", f"{text}; its part that did was then run on all", "info")
    return Checked(
        "exact-sample", f"{text}: with 95 % confidence it breaks at most {percent(missed.high)} of them", "info"
    )


_PROPOSING = (STRAIGHT_THROUGH, STRAIGHT_THROUGH_TARGETED, SMOOTHED, SMOOTHED_ALL, TRANSFER)

CHECKS = (
    not_monotone,
    curve_not_reaching_zero,
    single_step_stronger,
    silent_success,
    faulty_attack,
    claims_refused,
    weak_norm,
    exact_sample,
)
