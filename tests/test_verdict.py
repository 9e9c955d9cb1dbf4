"""The verdict: intervals against tables and against the binomial itself, and what each status says and hides."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from faultlight.evaluation.rows import Finding, ImageRow, Proof, Status
from faultlight.evaluation.verdict import CONTRADICTED, SCHEMA, Verdict, judge_ledger, percent, share

WARNING = Finding("not-monotone", "warning", "3 images were lost")
FATAL = Finding("zero-gradients", "fatal", "no gradient on 9 images")
INFO = Finding("train-mode", "info", "the model came in training mode")


def rows(standing: int = 0, broken: int = 0, misclassified: int = 0, invalid: int = 0) -> list[ImageRow]:
    """Images of label 0 in a ledger, so many of each kind."""
    statuses = [Status.STANDING] * standing + [Status.BROKEN] * broken
    statuses += [Status.MISCLASSIFIED] * misclassified + [Status.INVALID] * invalid
    return [
        ImageRow(i, 0, int(status == Status.MISCLASSIFIED), status, broken=status == Status.BROKEN)
        for i, status in enumerate(statuses)
    ]


def verdict(images: list[ImageRow], *findings: Finding, complete: bool = True) -> Verdict:
    return judge_ledger(images, findings, "linf:8/255", complete)


@pytest.mark.parametrize(
    ("count", "n", "low", "high"),
    [  # as printed in tables of the exact interval at 95 %
        (0, 10, 0.0, 0.3085),
        (10, 10, 0.6915, 1.0),
        (5, 10, 0.1871, 0.8129),
        (1, 10, 0.0025, 0.4450),
        (0, 1, 0.0, 0.9750),
        (81, 263, 0.2527, 0.3676),  # Agresti & Coull's and many others' example
        (0, 300, 0.0, 0.0122),
    ],
)
def test_interval_is_that_of_the_tables(count: int, n: int, low: float, high: float) -> None:
    found = share(count, n)
    assert (found.low, found.high) == pytest.approx((low, high), abs=6e-5)
    assert (found.value, found.count) == (count / n, count)


def tail(p: float, least: int, n: int) -> float:
    """P(X ≥ least) of a binomial count, term by term."""
    return math.fsum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(least, n + 1))


@pytest.mark.parametrize(("count", "n"), [(1, 2), (3, 7), (9, 10), (50, 100), (197, 200)])
def test_ends_of_the_interval_leave_a_fortieth_on_either_side(count: int, n: int) -> None:
    """At the lower end so many successes or more have probability 2.5 %, at the upper so many or fewer."""
    found = share(count, n)
    assert tail(found.low, count, n) == pytest.approx(0.025, rel=1e-6)
    assert 1 - tail(found.high, count + 1, n) == pytest.approx(0.025, rel=1e-6)


def test_no_images_tell_nothing() -> None:
    assert (share(0, 0).low, share(0, 0).high) == (0.0, 1.0)


def test_intervals_narrow_with_n() -> None:
    widths = [share(n // 2, n).high - share(n // 2, n).low for n in (10, 100, 1000, 10_000)]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] == pytest.approx(2 * 1.96 * 0.5 / 100, rel=0.02)


def test_counts_by_hand() -> None:
    found = verdict(rows(standing=5, broken=3, misclassified=2, invalid=4))
    assert (found.n, found.invalid) == (10, 4)
    assert (found.clean.count, found.clean.value) == (8, 0.8)
    assert found.attacked is not None
    assert (found.attacked.count, found.attacked.value) == (5, 0.5)
    assert found.certified is None
    assert found.status == "sound"


def test_fragile_breaks_are_counted_and_still_breaks() -> None:
    images = rows(standing=1, broken=3)
    images[1] = replace(images[1], fragile=True)
    found = verdict(images)
    assert found.fragile == 1
    assert found.attacked is not None
    assert found.attacked.count == 1


@pytest.mark.parametrize(
    ("findings", "status"),
    [
        ((), "sound"),
        ((INFO,), "sound"),
        ((WARNING,), "doubtful"),
        ((INFO, WARNING), "doubtful"),
        ((FATAL,), "withheld"),
        ((WARNING, FATAL, INFO), "withheld"),
    ],
)
def test_the_gravest_finding_decides(findings: tuple[Finding, ...], status: str) -> None:
    found = verdict(rows(standing=5, broken=5), *findings)
    assert found.status == status
    assert found.findings == findings
    assert (found.attacked is None) == (status == "withheld")


def test_a_withheld_verdict_says_why_and_no_number() -> None:
    found = verdict(rows(standing=5, broken=5), FATAL, WARNING)
    assert found.sentence == "No verdict: no gradient on 9 images."
    record = found.record()
    assert record["attacked"] is None
    assert record["clean"]["value"] == 1.0


def test_a_sound_verdict_in_words() -> None:
    found = verdict(rows(standing=1000, broken=200, misclassified=50))
    low, high = percent(share(1000, 1250).low), percent(share(1000, 1250).high)
    assert found.sentence == (
        f"Of 1,250 images 96.0 % are classified correctly, and at most 80.0 % (95 % interval {low} to {high}) "
        "remain so under every attack tried within linf:8/255."
    )


def test_certificates_are_a_lower_bound_in_words() -> None:
    images = rows(standing=1000, broken=200, misclassified=50)
    proofs = [Proof(i, "crown" if i < 900 else "", 1.0 if i < 900 else -1.0) for i in range(1200)]
    found = judge_ledger(images, [], "linf:8/255", proofs=proofs)
    assert found.certified == share(900, 1250)
    low, high = percent(share(900, 1250).low), percent(share(900, 1250).high)
    assert found.sentence.endswith(
        f"every attack tried within linf:8/255; at least 72.0 % (95 % interval {low} to {high}) provably."
    )
    assert found.record()["certified"]["count"] == 900


def test_invalid_images_are_not_certified() -> None:
    images = rows(standing=3, invalid=1)
    found = judge_ledger(images, [], "linf:8/255", proofs=[Proof(i, "interval", 1.0) for i in range(4)])
    assert found.certified == share(3, 3)


def test_a_proof_outlives_a_withheld_verdict_but_not_its_refutation() -> None:
    images, proofs = rows(standing=3), [Proof(0, "interval", 1.0)]
    assert judge_ledger(images, [FATAL], "linf:8/255", proofs=proofs).certified == share(1, 3)
    refuted = judge_ledger(images, [Finding(CONTRADICTED, "fatal", "broken")], "linf:8/255", proofs=proofs)
    assert refuted.certified is None
    assert refuted.status == "withheld"


def test_doubt_and_interruption_are_said() -> None:
    images = rows(standing=1, broken=1)
    assert verdict(images, WARNING).sentence.endswith("The findings below say why this number is in doubt.")
    assert "interrupted: images not yet attacked count as standing" in verdict(images, complete=False).sentence
    assert "interrupted" not in verdict(images).sentence


def test_a_verdict_without_a_valid_image_claims_nothing() -> None:
    found = verdict(rows(invalid=3), FATAL)
    assert (found.n, found.invalid) == (0, 3)
    assert (found.clean.low, found.clean.high) == (0.0, 1.0)


def test_it_is_a_pure_function() -> None:
    images = rows(standing=3, broken=2, misclassified=1, invalid=1)
    before = list(images)
    first = verdict(images, WARNING)
    assert verdict(images[::-1], WARNING) == first == verdict(images, WARNING)
    assert images == before


def test_record_is_plain_and_versioned() -> None:
    record = verdict(rows(standing=3, broken=1), INFO).record()
    assert record["schema"] == SCHEMA
    assert record["findings"] == [{"check": INFO.check, "severity": "info", "evidence": INFO.evidence}]
    assert set(record["attacked"]) == {"value", "low", "high", "count"}
    assert record["certified"] is None


def test_shares_in_words() -> None:
    assert [percent(value) for value in (0.0, 0.42499, 0.4255, 1.0)] == ["0.0 %", "42.5 %", "42.5 %", "100.0 %"]
