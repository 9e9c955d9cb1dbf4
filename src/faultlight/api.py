"""The verbs of the command line as Python functions: `fl.attack` and `fl.audit`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from faultlight import rng
from faultlight.attacks._contract import Attack, is_minimal
from faultlight.data.images import Images, check_images
from faultlight.errors import InputError
from faultlight.evaluation.audit import Run, audit_images
from faultlight.evaluation.engine import Engine
from faultlight.evaluation.judge import Judge
from faultlight.evaluation.oracle import Model
from faultlight.evaluation.probing import check_grid, default_slots, first_look, judge_of, sampling_of, search_models
from faultlight.evaluation.rows import Attempt
from faultlight.evaluation.settings import Settings
from faultlight.evaluation.slots import Probe, Work
from faultlight.geometry import check_radius
from faultlight.losses import UNTARGETED
from faultlight.models.inspect import check_subject
from faultlight.models.subject import Subject
from faultlight.progress import Progress
from faultlight.report.write import write_report
from faultlight.threat import Threat, parse_threat


@dataclass(frozen=True)
class AttackResult:
    """What one attack did to each image, judged in float32 by the untouched model.

    Args:
        x: the twin where the image was broken, the image itself elsewhere; in [0, 1], (n, c, h, w).
        broken: predicted as another class than its label (or as the target), (n,).
        distance: ‖x' − x‖ in the threat's norm, (n,); 0 where nothing was changed.
        prediction: the class predicted for `x`, (n,).
        forwards: forward passes spent on each image, (n,).
        backwards: backward passes spent on each image, (n,).
    """

    x: Float32[Tensor, "n c h w"]
    broken: Bool[Tensor, " n"]
    distance: Float64[Tensor, " n"]
    prediction: Int64[Tensor, " n"]
    forwards: Int64[Tensor, " n"]
    backwards: Int64[Tensor, " n"]


def attack(
    subject: Subject,
    images: Images,
    attack: Attack,
    threat: str | Threat,
    *,
    seed: int = 0,
    target: int | None = None,
    slots: int = 0,
    fast: bool = True,
    quiet: bool = True,
    eight_bit: bool = False,
) -> AttackResult:
    """Attack images with one attack.

    Images that are wrong without any attack count as broken at distance 0 and are not attacked (with a target: those
    that are predicted as the target).

    Args:
        subject: the model under test.
        images: what is attacked.
        attack: a frozen dataclass of hyper-parameters, such as `fl.attacks.PGD(steps=40)`.
        threat: the ball, such as "linf:8/255".
        seed: of every random number.
        target: the class that has to be reached; None where any wrong class will do.
        slots: images in flight at once; 0 chooses. It changes no outcome.
        fast: search on a bfloat16 copy where that pays and agrees; the judge is the untouched model either way.
        quiet: show no progress.
        eight_bit: twins are 8-bit images: their pixels are multiples of 1/255, and they were judged so. Candidates are
            rounded onto that grid inside the ball. Clean images that do not lie on it are moved there too, so that
            some of ε is spent before the attack begins (up to half a level a pixel).

    Raises:
        InputError: images, model or target do not belong together.

    Example:
        result = fl.attack(subject, images, fl.attacks.PGD(steps=40), threat="linf:0.3")
        result.broken.float().mean()
    """
    check_images(images)
    notes = check_subject(subject, images)
    if target is not None and not 0 <= target < subject.classes:
        raise InputError(f"target {target} is no class of {images.name!r}; choose 0 … {subject.classes - 1}.")
    ball = parse_threat(threat)
    check_radius(ball, images.shape)
    images = images.to(subject.device)
    if eight_bit:
        check_grid(images, ball)
    judge = judge_of(subject, notes, seed, eight_bit)
    rows, ranking = first_look(judge, images)
    prediction = torch.tensor([row.prediction for row in rows], device=subject.device)
    finite = torch.tensor([row.clean_margin is not None for row in rows], device=subject.device)
    reached = (prediction != images.y if target is None else prediction == target) & finite
    open_rows = (finite & ~reached).nonzero()[:, 0]
    probe = _probe(attack, ball, search_models(subject, images, notes)[0]["fast"] if fast else subject, judge, seed)
    work = _work(images, ranking, open_rows, UNTARGETED if target is None else target)
    result = _untouched(images, reached, prediction)
    slots = slots if slots and judge.draws == 1 else default_slots(images, subject.device)
    _collect(Engine(probe, work, judge, slots), open_rows, result, quiet)
    return result


def audit(
    subject: Subject,
    images: Images,
    threat: str | Threat,
    out: str | Path,
    *,
    effort: str = "standard",
    seed: int = 0,
    slots: int = 0,
    resume: bool = False,
    quiet: bool = True,
    cross_check: bool = False,
    eight_bit: bool = False,
    asked: dict[str, Any] | None = None,
) -> Run:
    """Audit a subject on images: attacks, checks, verdict, records and report, all in the folder `out`.

    Args:
        subject: the model under test.
        images: what it is tested on.
        threat: the ball the attacker may move in, such as "linf:8/255" or "l2:0.5".
        out: the run's folder; it must not hold another run.
        effort: "quick", "standard", or "exact" (AutoAttack's protocol and nothing else).
        seed: of every random number.
        slots: images in flight at once; 0 chooses. It changes no outcome.
        resume: go on with the run that is in `out`.
        quiet: show no progress.
        cross_check: attack images that are certified all the same, so that attacks and proofs check each other.
        eight_bit: twins have to be 8-bit images, as in `attack`.
        asked: what was asked in full, for run.toml.

    Returns:
        The run: `run.verdict.attacked.value` is the attacked accuracy, `run.folder / "report.html"` the report.

    Raises:
        InputError: the input cannot be audited, or `out` belongs to another run.
    """
    settings = Settings(parse_threat(threat), effort, seed, slots, cross_check, eight_bit)
    folder = Path(out)
    try:
        run = audit_images(subject, check_images(images), settings, folder, resume=resume, quiet=quiet, asked=asked)
    except KeyboardInterrupt:
        if (folder / "verdict.json").exists():
            write_report(folder)
        raise
    write_report(folder)
    return run


def _probe(attack: Attack, threat: Threat, model: Model, judge: Judge, seed: int) -> Probe:
    name = type(attack).__name__.lower()
    return Probe(
        name=name,
        attack=attack,
        threat=threat,
        model=model,
        key=rng.key(seed, name, str(threat)),
        exact=model is judge.subject and judge.rules_on_what_it_is_given,
        nearest=is_minimal(attack),
        sampling=sampling_of(judge, model, seed),
    )


def _work(images: Images, ranking: Tensor, rows: Tensor, goal: int) -> Work:
    return Work(
        x=images.x[rows],
        y=images.y[rows],
        ids=images.ids[rows],
        ranking=ranking[rows],
        goal=torch.full_like(rows, goal),
        done=torch.zeros_like(rows),
    )


def _untouched(images: Images, reached: Tensor, prediction: Tensor) -> AttackResult:
    """Return what is known before the first attack: one pass an image, and some broken without any."""
    return AttackResult(
        x=images.x.clone(),
        broken=reached,
        distance=torch.zeros(len(images), dtype=torch.float64, device=images.x.device),
        prediction=prediction,
        forwards=torch.ones_like(prediction),
        backwards=torch.zeros_like(prediction),
    )


def _collect(engine: Engine, rows: Tensor, result: AttackResult, quiet: bool) -> None:
    """Run the engine and write each settled attempt into the result's rows."""
    finished = 0
    with Progress(engine.probe.name, len(rows), quiet) as progress:
        for batch in engine.run():
            for settled in batch:
                row, attempt = int(rows[settled.row]), settled.attempt
                result.forwards[row] += attempt.forwards
                result.backwards[row] += attempt.backwards
                if settled.twin is not None and not _is_farther(attempt, result, row):
                    result.x[row] = settled.twin
                    result.broken[row] = True
                    result.distance[row] = attempt.distance or 0.0
                    result.prediction[row] = -1 if attempt.twin_prediction is None else attempt.twin_prediction
                finished += engine.is_last(settled)
            progress.update(finished, f"{int(result.broken.sum())} broken")


def _is_farther(attempt: Attempt, result: AttackResult, row: int) -> bool:
    """Return whether an earlier run has already found a nearer twin."""
    return bool(result.broken[row]) and (attempt.distance or 0.0) >= float(result.distance[row])
