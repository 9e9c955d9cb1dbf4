"""What the checks look at, and what each of them says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from faultlight.evaluation.rows import Attempt, Finding, ImageRow, Status
from faultlight.evaluation.symptoms import Symptoms
from faultlight.evaluation.verdict import Share, percent
from faultlight.models.subject import Note


@dataclass(frozen=True)
class CurvePoint:
    """The curve at one radius: which images of the sample still stand."""

    epsilon: float
    text: str
    standing: frozenset[int]


@dataclass(frozen=True)
class Tried:
    """What a probe did.

    Args:
        tried: images it was given.
        broke: those of them that it broke.
        knowledge: what it had to know of the model.
        spared: further images that it would have been given, had they not been certified: it could have broken none.
    """

    tried: int
    broke: int
    knowledge: str = "gradients"
    spared: int = 0


def most_tried(probes: Sequence[Tried]) -> Tried:
    """Return what probes did in all: the images of the one that was given most, and what all of them broke."""
    most = max(probes, key=lambda one: one.tried, default=Tried(0, 0))
    return replace(most, broke=sum(one.broke for one in probes))


@dataclass(frozen=True)
class Evidence:
    """All that the checks look at.

    Args:
        images: the ledger's images.
        attempts: the attempts at the audited threat.
        classes: the number of classes.
        norm: the threat's norm.
        notes: what was seen when the model was wrapped and inspected.
        symptoms: what a first look at the gradients showed.
        curve: points by ascending ε; the first is ε = 0.
        reaches_all: whether the last point's ε lets any image become any grey, so that nothing may stand but by chance.
        single_step: images of the curve's sample that stand after one step at the audited ε; None if not run.
        iterated: those that stand after the curve's attack at the audited ε.
        data_notes: what was seen when the data were read.
        probes: what each probe at the audited threat did, by name.
        rounded: whether candidates were rounded to 8-bit images before they were judged.
        fresh: of a random model, the share of new draws in which its twins break it, on average; None without twins.
    """

    images: Sequence[ImageRow]
    attempts: Sequence[Attempt]
    classes: int
    norm: str
    notes: Sequence[Note]
    symptoms: Symptoms
    curve: Sequence[CurvePoint]
    reaches_all: bool
    single_step: frozenset[int] | None
    iterated: frozenset[int] | None
    data_notes: Sequence[str] = ()
    probes: Mapping[str, Tried] = field(default_factory=dict)
    fresh: float | None = None
    rounded: bool = False

    @property
    def chance(self) -> float:
        """What guessing reaches: an even draw, or always the most common label."""
        labels = Counter(image.label for image in self.images if image.status != Status.INVALID)
        return max(1 / self.classes, max(labels.values(), default=0) / max(labels.total(), 1))

    def noted(self, check: str) -> str:
        """Return what was noted under a check's name, or ""."""
        return "; ".join(note.evidence for note in self.notes if note.check == check)

    def tried(self, *names: str) -> Tried:
        """Return what several probes did in all."""
        found = [self.probes[name] for name in names if name in self.probes]
        return most_tried(found)


@dataclass(frozen=True)
class Checked:
    """What a check says.

    Args:
        check: its name.
        saw: what it saw, in a sentence with the numbers.
        severity: "" where all is well, "not run" where there was nothing to look at, else that of its finding.
    """

    check: str
    saw: str
    severity: str = ""

    @property
    def finding(self) -> Finding | None:
        """The finding, where all is not well."""
        return Finding(self.check, self.severity, self.saw) if self.severity not in ("", "not run") else None


def interval(part: Share) -> str:
    """Return a share with its interval, in words."""
    return f"{percent(part.value)} (95 % interval {percent(part.low)} to {percent(part.high)})"
