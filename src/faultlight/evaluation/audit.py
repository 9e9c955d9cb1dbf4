"""What `audit` runs: clean look, stages, curve, checks, verdict, records. What the ledger holds is not done again."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from faultlight import __version__, runtime
from faultlight.data.images import Images
from faultlight.evaluation import adaptive, certificates, curve
from faultlight.evaluation.conclude import Case, conclude
from faultlight.evaluation.ledger import Ledger, create_ledger, resume_ledger
from faultlight.evaluation.plan import Stage, plan
from faultlight.evaluation.probing import (
    Scene,
    check_grid,
    default_slots,
    first_look,
    judge_of,
    search_models,
)
from faultlight.evaluation.rows import Status
from faultlight.evaluation.settings import Settings
from faultlight.evaluation.stages import run_stages
from faultlight.evaluation.symptoms import look
from faultlight.evaluation.verdict import Verdict
from faultlight.files import write_text
from faultlight.geometry import check_radius
from faultlight.models.inspect import check_subject
from faultlight.models.randomness import seeded
from faultlight.models.subject import Note, Subject
from faultlight.progress import Progress

LEDGER = "ledger.sqlite"


@dataclass(frozen=True)
class Run:
    """A finished audit: its folder and its verdict."""

    folder: Path
    verdict: Verdict


def audit_images(
    subject: Subject,
    images: Images,
    settings: Settings,
    out: Path,
    *,
    resume: bool = False,
    quiet: bool = False,
    asked: dict[str, Any] | None = None,
) -> Run:
    """Audit a subject on images and write everything but the report into `out`.

    Args:
        subject: the model under test.
        images: what it is tested on.
        settings: threat, effort, seed.
        out: the run's folder.
        resume: go on with what is there.
        quiet: show no progress.
        asked: what the user asked in full, for run.toml.

    Raises:
        InputError: the input cannot be audited, or the folder belongs to another run.
        KeyboardInterrupt: the user stopped it; the ledger and an incomplete verdict are kept.
    """
    began = time.monotonic()
    stages = plan(settings.effort)
    check_radius(settings.threat, images.shape)
    if settings.eight_bit:
        check_grid(images, settings.threat)
    notes = check_subject(subject, images)
    images = images.to(subject.device)
    with runtime.lock(out):
        if resume and not (out / LEDGER).exists():
            Progress("audit", 0, quiet).say(f"{out} holds no audit to go on with; it begins anew")
        ledger = _open(out, subject, images, settings, resume)
        try:
            ledger.count_from(began)
            _write_asked(out, settings, asked or {})
            # Views and tables ask the subject too: the luck of a random one must not differ from run to run.
            with seeded(settings.seed, subject.module, subject.device):
                return _run(subject, images, settings, out, ledger, stages, notes, quiet)
        finally:
            ledger.close()


def _run(
    subject: Subject,
    images: Images,
    settings: Settings,
    out: Path,
    ledger: Ledger,
    stages: tuple[Stage, ...],
    notes: tuple[Note, ...],
    quiet: bool,
) -> Run:
    judge = judge_of(subject, notes, settings.seed, settings.eight_bit)
    rows, ranking = first_look(judge, images)
    ledger.add_images(rows)
    slots = settings.slots if settings.slots and judge.draws == 1 else default_slots(images, subject.device)
    models, how = search_models(subject, images, notes)
    ledger.note("search", how)
    models = adaptive.further_models(subject, models, images.x)
    scene = Scene(subject, images, models, judge, ledger, ranking, settings.seed, slots, quiet)
    symptoms = look(scene, settings.threat, rows)
    standing = sum(row.status == Status.STANDING for row in rows)
    stages = adaptive.extended(stages, symptoms, models, settings.threat, settings.effort, standing)
    case = Case(scene, settings, stages, notes, symptoms, out)
    try:
        certificates.certify_audited(subject, images, settings.threat, settings.effort, ledger, quiet)
        run_stages(scene, settings.threat, stages, settings.cross_check)
        curve.draw_curve(scene, settings.threat, ledger.images())
    except KeyboardInterrupt:
        # What is known is kept: a verdict marked incomplete, its records, and the report made of them.
        conclude(case, complete=False)
        raise
    return Run(out, conclude(case, complete=True))


def _open(out: Path, subject: Subject, images: Images, settings: Settings, resume: bool) -> Ledger:
    fingerprint = {
        "version": __version__,
        "model": subject.fingerprint(),
        "data": images.fingerprint(),
        "threat": str(settings.threat),
        "effort": settings.effort,
        "seed": settings.seed,
        "n": len(images),
        "cross_check": settings.cross_check,
        "eight_bit": settings.eight_bit,
    }
    path = out / LEDGER
    if resume and path.exists():
        return resume_ledger(path, fingerprint)
    return create_ledger(path, fingerprint)


def _write_asked(out: Path, settings: Settings, asked: dict[str, Any]) -> None:
    decided = {
        "threat": str(settings.threat),
        "effort": settings.effort,
        "seed": settings.seed,
        "batch": settings.slots,
        "cross_check": settings.cross_check,
        "eight_bit": settings.eight_bit,
    }
    record = {"schema": 1, "faultlight": __version__, **asked, "audit": decided}
    write_text(out / "run.toml", tomli_w.dumps(record))
