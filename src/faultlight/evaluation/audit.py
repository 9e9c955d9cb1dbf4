"""What `audit` runs: clean look, stages, curve, checks, verdict, records. What the ledger holds is not done again."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tomli_w
import torch

from faultlight import __version__, rng, runtime, stamp
from faultlight.data.images import Images
from faultlight.errors import InputError
from faultlight.evaluation import adaptive, certificates, curve, records
from faultlight.evaluation.checks import CurvePoint, Evidence, Tried, run_all
from faultlight.evaluation.ledger import Attempt, Ledger, Status, create_ledger, resume_ledger
from faultlight.evaluation.plan import Stage, plan
from faultlight.evaluation.probing import (
    Scene,
    check_grid,
    default_slots,
    first_look,
    judge_of,
    rows_of,
    search_models,
)
from faultlight.evaluation.stages import run_stages
from faultlight.evaluation.trained import write_trained
from faultlight.evaluation.verdict import Verdict, judge_ledger
from faultlight.files import write_json, write_text
from faultlight.geometry import check_radius
from faultlight.losses import UNTARGETED
from faultlight.models.inspect import check_subject
from faultlight.models.randomness import constant, seeded
from faultlight.models.subject import Note, Subject
from faultlight.progress import Progress
from faultlight.threat import Threat

LEDGER = "ledger.sqlite"


@dataclass(frozen=True)
class Run:
    """A finished audit: its folder and its verdict."""

    folder: Path
    verdict: Verdict


@dataclass(frozen=True)
class Settings:
    """What decides the outcome of an audit, besides model and data.

    Args:
        threat: the ball the attacker may move in.
        effort: "quick", "standard" or "exact".
        seed: of every random number.
        slots: jobs in flight at once; 0 chooses; it changes no outcome.
        cross_check: attack certified images all the same.
        eight_bit: twins have to be 8-bit images: candidates are rounded onto the multiples of 1/255 before judged.
    """

    threat: Threat
    effort: str = "standard"
    seed: int = 0
    slots: int = 0
    cross_check: bool = False
    eight_bit: bool = False


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
    symptoms = adaptive.look(scene, settings.threat, rows)
    standing = sum(row.status == Status.STANDING for row in rows)
    stages = adaptive.extended(stages, symptoms, models, settings.threat, settings.effort, standing)
    conclude = partial(_conclude, scene, settings, stages, notes, symptoms, out)
    try:
        certificates.certify_audited(subject, images, settings.threat, settings.effort, ledger, quiet)
        run_stages(scene, settings.threat, stages, settings.cross_check)
        curve.draw_curve(scene, settings.threat, ledger.images())
    except KeyboardInterrupt:
        # What is known is kept: a verdict marked incomplete, its records, and the report made of them.
        conclude(complete=False)
        raise
    return Run(out, conclude(complete=True))


def _conclude(
    scene: Scene,
    settings: Settings,
    stages: tuple[Stage, ...],
    notes: tuple[Note, ...],
    symptoms: adaptive.Symptoms,
    out: Path,
    complete: bool,
) -> Verdict:
    ledger, images, subject = scene.ledger, scene.images, scene.subject
    _check_twins(scene, settings.threat)
    ledger.count_passes()
    attempts = ledger.attempts()
    points, evidence = _evidence(scene, settings, stages, notes, symptoms, attempts)
    checked = run_all(evidence)
    found = [one.finding for one in checked if one.finding]
    ledger.replace_findings([*found, *certificates.findings(ledger, settings.threat)])
    verdict = judge_ledger(ledger.images(), ledger.findings(), _words(settings), complete, certificates.proofs(ledger))
    ran = {attempt.probe for attempt in attempts}
    records.write_probes(out, tuple(stage for stage in stages if not stage.after or stage.name in ran), attempts)
    records.write_checks(out, checked)
    nearest = curve.nearest_twins(ledger.images(), attempts, settings.threat.norm)
    drawn = curve.curve_record(points, ledger.images(), settings.threat, nearest)
    write_json(out / "records" / "curve.json", drawn)
    write_json(out / "records" / "certificates.json", certificates.certificate_record(ledger))
    records.write_adversarial(out, ledger, images)
    write_trained(out, subject)
    with constant(subject.module, subject.device) if scene.judge.draws > 1 else nullcontext():
        records.write_model(out, subject, images)
        records.write_gallery(out, ledger, images, subject)
    seconds = ledger.seconds()
    write_json(out / "verdict.json", _verdict_record(scene, settings, verdict, complete, seconds, attempts))
    hashes = {"model": subject.fingerprint(), "data": images.fingerprint()}
    write_json(
        out / "stamp.json",
        stamp.collect(seed=settings.seed, device=str(subject.device), hashes=hashes, timings={"audit": seconds}),
    )
    return verdict


def _words(settings: Settings) -> str:
    return settings.threat.words() + (", by 8-bit images" if settings.eight_bit else "")


def _evidence(
    scene: Scene,
    settings: Settings,
    stages: tuple[Stage, ...],
    notes: tuple[Note, ...],
    symptoms: adaptive.Symptoms,
    attempts: list[Attempt],
) -> tuple[list[CurvePoint], Evidence]:
    rows, threat = scene.ledger.images(), settings.threat
    shape = scene.images.shape
    points = curve.curve_points(rows, attempts, curve.radii(threat, shape))
    evidence = Evidence(
        images=rows,
        attempts=[a for a in attempts if a.probe not in curve.PROBES],
        classes=scene.subject.classes,
        norm=threat.norm,
        notes=notes,
        symptoms=symptoms,
        curve=points,
        reaches_all=points[-1].epsilon >= curve.grey_radius(threat.norm, shape),
        single_step=curve.standing_after(curve.SINGLE_STEP, threat, points[0].standing, attempts),
        iterated=curve.standing_after(curve.PROBE, threat, points[0].standing, attempts),
        data_notes=scene.images.notes,
        probes={stage.name: _tried(stage, attempts) for stage in stages},
        fresh=_fresh_share(scene, threat),
        rounded=settings.eight_bit,
    )
    return points, evidence


def _tried(stage: Stage, attempts: list[Attempt]) -> Tried:
    of_probe = [attempt for attempt in attempts if attempt.probe == stage.name]
    broke = {attempt.id for attempt in of_probe if attempt.broke}
    return Tried(len({attempt.id for attempt in of_probe}), len(broke), adaptive.knowledge(stage.attack))


def _fresh_share(scene: Scene, threat: Threat) -> float | None:
    """Return in what share of new draws a random subject's twins break it, free of the luck that found them."""
    stored = scene.ledger.twins()
    if scene.judge.draws == 1 or not stored:
        return None
    images = scene.images.take(rows_of(scene.images, [image for image, _ in stored]))
    judge = scene.judge.fresh(rng.key(scene.seed, "fresh"))
    goal = torch.full_like(images.y, UNTARGETED)
    ruling = judge.rule(records.twins_of(stored, images), images.x, images.y, goal, threat)
    return round(float(ruling.share.mean()), 6)


def _check_twins(scene: Scene, threat: Threat) -> None:
    """Have the judge rule on every twin once more: SQLite notices a lost page, not a changed pixel."""
    stored = scene.ledger.twins()
    if not stored:
        return
    images = scene.images.take(rows_of(scene.images, [image for image, _ in stored]))
    goal = torch.full_like(images.y, UNTARGETED)
    ruling = scene.judge.rule(records.twins_of(stored, images), images.x, images.y, goal, threat)
    # What a random model answers may depend on luck that cannot be had twice.
    bad = images.ids[~ruling.accepted if scene.judge.draws == 1 else ruling.outside].tolist()
    if bad:
        raise InputError(
            f"the ledger is damaged: the twins of {len(bad)} images (ids {', '.join(map(str, bad[:10]))}) no longer "
            "break the model. Move ledger.sqlite away and run the same command without --resume."
        )


def _verdict_record(
    scene: Scene, settings: Settings, verdict: Verdict, complete: bool, seconds: float, attempts: list[Attempt]
) -> dict[str, Any]:
    images, rows = scene.images, scene.ledger.images()
    facts = {
        "faultlight": __version__,
        "complete": complete,
        "threat": str(settings.threat),
        "norm": settings.threat.norm,
        "epsilon": settings.threat.epsilon,
        "effort": settings.effort,
        "data": {
            "name": images.name,
            "split": images.split,
            "classes": list(images.classes),
            "fingerprint": images.fingerprint(),
        },
        "model": {"name": scene.subject.name, "fingerprint": scene.subject.fingerprint()},
        "search": scene.ledger.meta().get("search", ""),
        "halved": scene.ledger.meta().get("halved", {}),
        "cost": {
            "forward": len(rows) + sum(a.forwards for a in attempts),
            "backward": sum(a.backwards for a in attempts),
            "seconds": round(seconds, 2),
        },
    }
    return verdict.record() | facts


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
