"""The verdict: a pure function of the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from scipy.stats import beta

from faultlight.evaluation.rows import Finding, ImageRow, Proof, Status

SCHEMA = 1
CONFIDENCE = 0.95
# The check that finds an attack to have broken what a certificate covers.
CONTRADICTED = "certificate-contradicted"


@dataclass(frozen=True)
class Share:
    """A share of images with its 95 % Clopper–Pearson interval.

    Args:
        value: count / n, in [0, 1].
        low: lower end of the interval.
        high: upper end of the interval.
        count: the images counted.
    """

    value: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Verdict:
    """What an audit says.

    Args:
        status: "sound", "doubtful" (a finding says why) or "withheld".
        sentence: the verdict in words.
        n: images judged, without the invalid ones.
        clean: classified correctly without attack.
        attacked: still classified correctly after every attack: an upper bound on what survives; None if withheld.
        certified: provably standing: a lower bound; None where no certificate was computed, or an attack refuted one.
        invalid: images for which the model gave NaN or infinity; they count nowhere.
        fragile: breaks that other arithmetic may undo.
        findings: what the reader must know.
    """

    status: Literal["sound", "doubtful", "withheld"]
    sentence: str
    n: int
    clean: Share
    attacked: Share | None
    certified: Share | None
    invalid: int
    fragile: int
    findings: tuple[Finding, ...]

    def record(self) -> dict[str, Any]:
        """Return the verdict as a JSON-able record."""
        return {"schema": SCHEMA, **asdict(self), "findings": [asdict(finding) for finding in self.findings]}


def judge_ledger(
    images: Sequence[ImageRow],
    findings: Sequence[Finding],
    threat: str,
    complete: bool = True,
    proofs: Sequence[Proof] = (),
) -> Verdict:
    """Return the verdict on a ledger's images and findings.

    Args:
        images: every audited image.
        findings: what the checks found.
        threat: the threat in words, for the sentence.
        complete: whether every planned attempt was made.
        proofs: what was proved of the images that certificates were tried on; none where none were.
    """
    valid = [image for image in images if image.status != Status.INVALID]
    clean = share(sum(image.prediction == image.label for image in valid), len(valid))
    standing = share(sum(image.status == Status.STANDING for image in valid), len(valid))
    status = _status(findings)
    certified = _certified(valid, proofs, findings)
    return Verdict(
        status=status,
        sentence=_sentence(status, findings, threat, clean, standing, certified, len(valid), complete),
        n=len(valid),
        clean=clean,
        attacked=None if status == "withheld" else standing,
        certified=certified,
        invalid=len(images) - len(valid),
        fragile=sum(image.fragile for image in valid),
        findings=tuple(findings),
    )


def share(count: int, n: int) -> Share:
    """Return count / n with its exact binomial interval (Clopper & Pearson 1934); no images tell nothing: [0, 1]."""
    if n == 0:
        return Share(0.0, 0.0, 1.0, 0)
    tail = (1 - CONFIDENCE) / 2
    low = float(beta.ppf(tail, count, n - count + 1)) if count > 0 else 0.0
    high = float(beta.ppf(1 - tail, count + 1, n - count)) if count < n else 1.0
    return Share(count / n, low, high, count)


def percent(value: float) -> str:
    """Return a share as "42.5 %"."""
    return f"{100 * value:.1f} %"


def _certified(valid: Sequence[ImageRow], proofs: Sequence[Proof], findings: Sequence[Finding]) -> Share | None:
    if not proofs or any(finding.check == CONTRADICTED for finding in findings):
        return None
    ids = {image.id for image in valid}
    return share(sum(proof.holds and proof.id in ids for proof in proofs), len(valid))


def _status(findings: Sequence[Finding]) -> Literal["sound", "doubtful", "withheld"]:
    severities = {finding.severity for finding in findings}
    if "fatal" in severities:
        return "withheld"
    return "doubtful" if "warning" in severities else "sound"


def _sentence(
    status: str,
    findings: Sequence[Finding],
    threat: str,
    clean: Share,
    standing: Share,
    certified: Share | None,
    n: int,
    complete: bool,
) -> str:
    if status == "withheld":
        reasons = "; ".join(finding.evidence for finding in findings if finding.severity == "fatal")
        return f"No verdict: {reasons}."
    survive = _interval(standing)
    text = (
        f"Of {n:,} images {percent(clean.value)} are classified correctly, and at most {survive} "
        f"remain so under every attack tried within {threat}"
    )
    text += "." if certified is None else f"; at least {_interval(certified)} provably."
    if not complete:
        text += " The audit was interrupted: images not yet attacked count as standing."
    if status == "doubtful":
        text += " The findings below say why this number is in doubt."
    return text


def _interval(part: Share) -> str:
    return f"{percent(part.value)} (95 % interval {percent(part.low)} to {percent(part.high)})"
