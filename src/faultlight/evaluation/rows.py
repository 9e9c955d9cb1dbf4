"""What a ledger holds: a row an image, an attempt and a proof, and what the checks found. Free of torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """What became of an image."""

    STANDING = "standing"
    BROKEN = "broken"
    MISCLASSIFIED = "misclassified"
    INVALID = "invalid"


class Outcome(StrEnum):
    """What became of an attempt."""

    BROKE = "broke"
    STOOD = "stood"
    REFUSED = "refused"  # it stood, and a candidate left the ball or the box: the attack is faulty
    INVALID = "invalid"  # the model gave NaN or infinity


@dataclass(frozen=True)
class ImageRow:
    """One audited image.

    Args:
        id: position in the file order of its split.
        label: the true class.
        prediction: the class predicted without attack.
        status: a `Status`.
        broken: whether a judged twin exists.
        broken_by: the probe that broke it, or "".
        distance: ‖x' − x‖ of the twin in the threat's norm, or None.
        margin: the largest margin any attempt reached, in logits; above 0 when broken; None if never attacked.
        fragile: the twin wins by so little that other arithmetic may undo it.
        twin_prediction: the class predicted for the twin, or None.
        clean_margin: max_{j≠y} z_j − z_y without attack; below 0 when classified correctly; None if not a number.
        forwards: forward passes spent on it.
        backwards: backward passes spent on it.
    """

    id: int
    label: int
    prediction: int
    status: str
    broken: bool = False
    broken_by: str = ""
    distance: float | None = None
    margin: float | None = None
    fragile: bool = False
    twin_prediction: int | None = None
    clean_margin: float | None = None
    forwards: int = 0
    backwards: int = 0


@dataclass(frozen=True)
class Attempt:
    """One job: an image, a probe, a threat, a restart and a target (−1: untargeted), and what came of it.

    Args:
        margin: the largest judged margin, in logits; None when it was not a number.
        distance: of the accepted twin, or None.
        twin_prediction: the class predicted for the accepted twin, or None.
        claims_refused: successes seen in the search that the judge did not uphold.
    """

    id: int
    probe: str
    threat: str
    restart: int
    target: int
    outcome: str
    margin: float | None
    distance: float | None
    twin_prediction: int | None
    fragile: bool
    steps: int
    forwards: int
    backwards: int
    claims_refused: int

    @property
    def broke(self) -> bool:
        """Whether the judge accepted a twin."""
        return self.outcome == Outcome.BROKE


@dataclass(frozen=True)
class Proof:
    """What was proved of one image at the audited threat.

    Args:
        id: of the image.
        bound: the bound that proved that no point of the ball is classified otherwise, or "" where none did.
        margin: the best lower bound of min over j ≠ y of z_y − z_j over the ball, in logits; above 0 when proved.
    """

    id: int
    bound: str
    margin: float | None

    @property
    def holds(self) -> bool:
        """Whether the image is certified."""
        return bool(self.bound)


@dataclass(frozen=True)
class Finding:
    """Something about the evaluation that the reader must know.

    Args:
        check: the name of the check.
        severity: "info", "warning" (the verdict is doubtful) or "fatal" (it is withheld).
        evidence: one sentence with the numbers seen.
    """

    check: str
    severity: str
    evidence: str


def record_of(row: ImageRow | Attempt | Finding) -> dict[str, Any]:
    """Return a row as a JSON-able record."""
    return asdict(row)
