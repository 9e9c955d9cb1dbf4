"""Gates: the form they are written in, and which end of the interval they are held against."""

from __future__ import annotations

import pytest

from faultlight.errors import InputError
from faultlight.evaluation.gate import Gate, parse_gates
from faultlight.evaluation.rows import Finding, ImageRow, Proof, Status
from faultlight.evaluation.verdict import Verdict, judge_ledger

FATAL = Finding("zero-gradients", "fatal", "no gradient")


def verdict(standing: int, broken: int, *findings: Finding) -> Verdict:
    statuses = [Status.STANDING] * standing + [Status.BROKEN] * broken
    return judge_ledger([ImageRow(i, 0, 0, status) for i, status in enumerate(statuses)], findings, "linf:0.1")


@pytest.mark.parametrize(
    ("text", "gate"),
    [
        ("attacked>=0.45", Gate("attacked", ">=", 0.45)),
        (" clean >= 90 % ", Gate("clean", ">=", 0.9)),
        ("attacked>=.5", Gate("attacked", ">=", 0.5)),
        ("attacked>=100%", Gate("attacked", ">=", 1.0)),
        ("attacked>=0", Gate("attacked", ">=", 0.0)),
    ],
)
def test_forms(text: str, gate: Gate) -> None:
    assert parse_gates([text]) == [gate]


def test_gates_are_written_as_they_are_read() -> None:
    assert [str(gate) for gate in parse_gates(["attacked>=45%", "clean<=0.99"])] == ["attacked>=0.45", "clean<=0.99"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("attacked", 'not of the form "attacked>=0.45"'),
        ("attacked>0.45", "not of the form"),
        ("attacked>=half", "not of the form"),
        ("attacked>=-0.1", "not of the form"),
        ("", "not of the form"),
        ("atacked>=0.45", "did you mean 'attacked'"),
        ("attacked>=0.4.5", "'0.4.5' .* is not a number"),
        ("attacked>=45", "above 1; write shares like 0.45, or 45%"),
        ("attacked>=101%", "above 1"),
    ],
)
def test_other_forms_are_refused(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_gates(["clean>=0.5", text])


@pytest.mark.parametrize(
    ("text", "holds"),
    [  # of 10 images 5 stand: the interval is [0.1871, 0.8129]
        ("attacked>=0.187", True),
        ("attacked>=0.188", False),
        ("attacked>=0.5", False),
        ("attacked<=0.813", True),
        ("attacked<=0.812", False),
        ("attacked<=0.5", False),
        ("clean>=0.69", True),  # 10 of 10: [0.6915, 1]
        ("clean>=0.70", False),
    ],
)
def test_the_cautious_end_decides(text: str, holds: bool) -> None:
    (gate,) = parse_gates([text])
    failure = gate.failure(verdict(5, 5))
    assert (failure is None) == holds


def test_a_failure_says_the_value_and_the_end() -> None:
    (low, high) = parse_gates(["attacked>=0.45", "attacked<=0.45"])
    assert low.failure(verdict(5, 5)) == "attacked>=0.45 fails: 50.00 % with the lower end of its interval at 18.71 %"
    assert high.failure(verdict(5, 5)) == "attacked<=0.45 fails: 50.00 % with the upper end of its interval at 81.29 %"


def test_a_larger_n_lets_the_same_share_pass() -> None:
    (gate,) = parse_gates(["attacked>=0.45"])
    assert gate.failure(verdict(5, 5)) is not None
    assert gate.failure(verdict(500, 500)) is None


def test_what_was_not_computed_fails() -> None:
    (attacked,), certified = parse_gates(["attacked>=0"]), Gate("certified", ">=", 0.0)
    assert attacked.failure(verdict(5, 5, FATAL)) == "attacked accuracy was not computed, so attacked>=0 cannot hold"
    assert certified.failure(verdict(5, 5)) == "certified accuracy was not computed, so certified>=0 cannot hold"


def test_certificates_are_held_to_their_lower_end() -> None:
    proofs = [Proof(i, "crown", 1.0) for i in range(5)]
    images = [ImageRow(i, 0, 0, Status.STANDING) for i in range(10)]
    certified = judge_ledger(images, [], "linf:0.1", proofs=proofs)
    kept, broken = parse_gates(["certified>=0.187", "certified>=0.188"])
    assert kept.failure(certified) is None
    assert broken.failure(certified) == "certified>=0.188 fails: 50.00 % with the lower end of its interval at 18.71 %"
