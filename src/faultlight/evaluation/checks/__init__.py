"""Checks: what would make a verdict untrustworthy, each one function from evidence to what it saw and how grave it is.

The list follows Carlini et al. 2019, "On evaluating adversarial robustness", Pintor et al. 2022, "Indicators of attack
failure", and the flags of AutoAttack (Croce & Hein 2020). A check never changes a number; it says what the reader must
know about it.
"""

from __future__ import annotations

from faultlight.evaluation.checks import attack, model, search
from faultlight.evaluation.checks.evidence import Checked, CurvePoint, Evidence, Tried
from faultlight.evaluation.rows import Finding

__all__ = ["CHECKS", "Checked", "CurvePoint", "Evidence", "Tried", "run_all", "run_checks"]

CHECKS = (*model.CHECKS, *search.CHECKS, *attack.CHECKS)


def run_all(evidence: Evidence) -> list[Checked]:
    """Return what every check says, by the order of the checks."""
    return [check(evidence) for check in CHECKS]


def run_checks(evidence: Evidence) -> list[Finding]:
    """Return every finding, by the order of the checks."""
    return [checked.finding for checked in run_all(evidence) if checked.finding]
