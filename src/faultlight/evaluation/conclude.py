"""What an audit ends in: the checks, the verdict and the records, made of nothing but the ledger and the subject."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from faultlight import __version__, rng, stamp
from faultlight.errors import InputError
from faultlight.evaluation import adaptive, certificates, curve, records
from faultlight.evaluation.checks import CurvePoint, Evidence, Tried, run_all
from faultlight.evaluation.ledger import Ledger
from faultlight.evaluation.plan import Stage
from faultlight.evaluation.probing import Scene, rows_of
from faultlight.evaluation.rows import Attempt
from faultlight.evaluation.settings import Settings
from faultlight.evaluation.stages import spared_images
from faultlight.evaluation.symptoms import Symptoms
from faultlight.evaluation.trained import write_trained
from faultlight.evaluation.verdict import Verdict, judge_ledger
from faultlight.files import write_json
from faultlight.losses import UNTARGETED
from faultlight.models.randomness import constant
from faultlight.models.subject import Note
from faultlight.threat import Threat


@dataclass(frozen=True)
class Case:
    """An audit that has run, wholly or till it was stopped.

    Args:
        scene: subject, images, judge and ledger.
        settings: what was asked.
        stages: what was tried.
        notes: what was noticed about the subject.
        symptoms: of masked gradients.
        out: the run's folder.
    """

    scene: Scene
    settings: Settings
    stages: tuple[Stage, ...]
    notes: tuple[Note, ...]
    symptoms: Symptoms
    out: Path


def conclude(case: Case, complete: bool) -> Verdict:
    """Judge the ledger and write the verdict, the records and the stamp.

    Args:
        case: what has run.
        complete: whether it ran to its end.

    Raises:
        InputError: a twin in the ledger no longer breaks the subject.
    """
    ledger = case.scene.ledger
    _check_twins(case.scene, case.settings.threat)
    ledger.count_passes()
    attempts = ledger.attempts()
    verdict = _judge(case, attempts, complete)
    _write_records(case, attempts)
    seconds = ledger.seconds()
    write_json(case.out / "verdict.json", _verdict_record(case, verdict, complete, seconds, attempts))
    _write_stamp(case, seconds)
    return verdict


def _judge(case: Case, attempts: list[Attempt], complete: bool) -> Verdict:
    ledger, threat = case.scene.ledger, case.settings.threat
    checked = run_all(_evidence(case, attempts))
    records.write_checks(case.out, checked)
    found = [one.finding for one in checked if one.finding]
    ledger.replace_findings([*found, *certificates.findings(ledger, threat)])
    words, proofs = case.settings.words(), certificates.proofs(ledger)
    return judge_ledger(ledger.images(), ledger.findings(), words, complete, proofs)


def _write_records(case: Case, attempts: list[Attempt]) -> None:
    scene, out, threat = case.scene, case.out, case.settings.threat
    ledger, images, subject = scene.ledger, scene.images, scene.subject
    rows, ran = ledger.images(), {attempt.probe for attempt in attempts}
    records.write_probes(out, tuple(stage for stage in case.stages if not stage.after or stage.name in ran), attempts)
    nearest = curve.nearest_twins(rows, attempts, threat.norm)
    own, lent = (_points(case, attempts, probe) for probe in (curve.PROBE, curve.LENT))
    write_json(out / "records" / "curve.json", curve.curve_record(own, lent, rows, threat, nearest))
    write_json(out / "records" / "certificates.json", certificates.certificate_record(ledger))
    records.write_adversarial(out, ledger, images)
    write_trained(out, subject)
    with constant(subject.module, subject.device) if scene.judge.draws > 1 else nullcontext():
        records.write_model(out, subject, images)
        records.write_gallery(out, ledger, images, subject)


def _write_stamp(case: Case, seconds: float) -> None:
    subject = case.scene.subject
    hashes = {"model": subject.fingerprint(), "data": case.scene.images.fingerprint()}
    write_json(
        case.out / "stamp.json",
        stamp.collect(seed=case.settings.seed, device=str(subject.device), hashes=hashes, timings={"audit": seconds}),
    )


def _points(case: Case, attempts: list[Attempt], probe: str = curve.PROBE) -> list[CurvePoint]:
    radii = curve.radii(case.settings.threat, case.scene.images.shape)
    return curve.curve_points(case.scene.ledger.images(), attempts, radii, probe)


def _evidence(case: Case, attempts: list[Attempt]) -> Evidence:
    scene, threat, shape = case.scene, case.settings.threat, case.scene.images.shape
    points = _points(case, attempts)
    return Evidence(
        images=scene.ledger.images(),
        attempts=[a for a in attempts if a.probe not in curve.PROBES],
        classes=scene.subject.classes,
        norm=threat.norm,
        notes=case.notes,
        symptoms=case.symptoms,
        curve=points,
        reaches_all=points[-1].epsilon >= curve.grey_radius(threat.norm, shape),
        single_step=curve.standing_after(curve.SINGLE_STEP, threat, points[0].standing, attempts),
        iterated=curve.standing_after(curve.PROBE, threat, points[0].standing, attempts),
        data_notes=scene.images.notes,
        probes={stage.name: _tried(stage, attempts, scene.ledger) for stage in case.stages},
        fresh=_fresh_share(scene, threat),
        rounded=case.settings.eight_bit,
    )


def _tried(stage: Stage, attempts: list[Attempt], ledger: Ledger) -> Tried:
    of_probe = [attempt for attempt in attempts if attempt.probe == stage.name]
    broke = {attempt.id for attempt in of_probe if attempt.broke}
    spared = spared_images(stage.name, ledger)
    return Tried(len({attempt.id for attempt in of_probe}), len(broke), adaptive.knowledge(stage.attack), spared)


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
    case: Case, verdict: Verdict, complete: bool, seconds: float, attempts: list[Attempt]
) -> dict[str, Any]:
    scene, settings = case.scene, case.settings
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
