"""Running probes over images and writing each settled attempt into the ledger."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor, nn

from faultlight import geometry, rng
from faultlight.attacks._contract import Attack, points, restarts, targets
from faultlight.data.images import Images
from faultlight.errors import InputError
from faultlight.evaluation.engine import Engine
from faultlight.evaluation.judge import DRAWS, Judge
from faultlight.evaluation.ledger import Ledger
from faultlight.evaluation.oracle import ONCE, Model, Sampling, piece_rows
from faultlight.evaluation.plan import Search
from faultlight.evaluation.rows import Attempt, ImageRow, Status
from faultlight.evaluation.slots import Probe, Settled, Work
from faultlight.losses import UNTARGETED
from faultlight.models.inspect import NOTE_PROBABILITIES, NOTE_RANDOM
from faultlight.models.search import search_copy
from faultlight.models.subject import Note, Subject
from faultlight.progress import Progress
from faultlight.threat import Threat

_PIECES = 8
# Short pieces are filled up to a multiple of so many rows.
_MULTIPLE = 4
# Over how many draws of a random model a search averages, and over how many points a smoothed gradient.
SEARCH_DRAWS, SMOOTHING_POINTS = 8, 16


@dataclass(frozen=True)
class Scene:
    """All that the probes of one audit share.

    Args:
        subject: the model under test.
        images: the audited images, on the subject's device.
        models: the models to search on, by name, as `search_models` gives them.
        judge: who decides.
        ledger: where it is written down.
        ranking: the wrong classes of each image by clean logit, the most likely first, (n, classes − 1).
        seed: of every random number.
        slots: jobs in flight at once; `default_slots` for a random subject.
        quiet: show no progress.
    """

    subject: Subject
    images: Images
    models: Mapping[Search, Model]
    judge: Judge
    ledger: Ledger
    ranking: Tensor
    seed: int
    slots: int
    quiet: bool


def default_slots(images: Images, device: torch.device) -> int:
    """Return how many jobs are kept in flight: eight pieces of the model's fixed batch."""
    return _PIECES * piece_rows(images.shape, device)


def judge_of(subject: Subject, notes: Sequence[Note], seed: int, eight_bit: bool = False) -> Judge:
    """Return the judge of a subject: it asks once, or often where the subject is random."""
    return Judge(subject, DRAWS if _is_random(notes) else 1, rng.key(seed, "judge"), eight_bit)


def check_grid(images: Images, threat: Threat) -> None:
    """Raise InputError where no twin can be an 8-bit image: too many pixels of the images are none.

    An image whose pixels are no multiples of 1/255 has to be moved onto that grid, each pixel by up to half a level.
    """
    levels = 255 * geometry.on_grid(images.x)
    if threat.norm == "l0" and bool(((levels - levels.round()).abs() > 1e-6).any()):
        raise InputError(
            f"the images of {images.name!r} are no 8-bit images, so that every pixel would have to change; "
            "leave out --eight-bit, or choose another norm than l0."
        )


def sampling_of(judge: Judge, model: Model, seed: int) -> Sampling:
    """Return what a search on a model averages over: the draws of a random subject, none of them the judge's."""
    if judge.draws == 1:
        return ONCE
    module = model if isinstance(model, nn.Module) else judge.subject.module
    return Sampling(SEARCH_DRAWS, module=module, key=rng.key(seed, "search"))


def smoothing_of(scene: Scene, model: Model, threat: Threat) -> Sampling:
    """Return the averaging of gradients over noise of half the radius: the slope of the ball, not of the point."""
    spread = 1 if threat.norm == "linf" else math.sqrt(math.prod(scene.images.shape))
    sampling = sampling_of(scene.judge, model, scene.seed)
    return replace(
        sampling, draws=SMOOTHING_POINTS, noise=0.5 * threat.epsilon / spread, key=rng.key(scene.seed, "noise")
    )


def search_models(subject: Subject, images: Images, notes: Sequence[Note]) -> tuple[dict[Search, Model], str]:
    """Return the models that attacks search on, by name, and a sentence that says what they are.

    "fast" is a faster copy where one pays and agrees, else the subject itself; "exact" is the subject. Of a subject
    that gives probabilities the logarithm is searched: their own gradients vanish where the model is sure.
    """
    luck = f", averaged over {SEARCH_DRAWS} draws; judged by {DRAWS} others" if _is_random(notes) else ""
    if any(note.check == NOTE_PROBABILITIES for note in notes):
        logarithm = _logarithm(subject)
        how = f"the logarithm of the model's probabilities, in float32{luck}"
        return {"fast": logarithm, "exact": logarithm}, how
    if luck:
        return {"fast": subject, "exact": subject}, f"the model itself, in float32{luck}"
    copy, agreement = search_copy(subject, images.x)
    how = str(agreement) if agreement else "the model itself, in float32"
    return {"fast": copy or subject, "exact": subject}, how


def rows_of(images: Images, ids: Sequence[int]) -> Tensor:
    """Return the rows at which the images of these ids stand."""
    row = {image: i for i, image in enumerate(images.ids.tolist())}
    return torch.tensor([row[image] for image in ids], dtype=torch.int64, device=images.x.device)


def _logarithm(subject: Subject) -> Model:
    tiny = torch.finfo(torch.float32).tiny
    return lambda x: subject(x).clamp(min=tiny).log()


def first_look(judge: Judge, images: Images) -> tuple[list[ImageRow], Tensor]:
    """Return each image's row before any attack, and its wrong classes by logit, the most likely first."""
    logits, prediction = judge.predict(images.x, images.y)
    finite = torch.isfinite(logits).all(1)
    wrong = logits.scatter(1, images.y[:, None], -torch.inf)
    margin = wrong.amax(1) - logits.gather(1, images.y[:, None])[:, 0]
    facts = zip(*(t.tolist() for t in (images.ids, images.y, prediction, finite, margin)), strict=True)
    ranking = wrong.nan_to_num(nan=-torch.inf).argsort(dim=1, descending=True, stable=True)[:, :-1]
    return [_clean_row(*fact) for fact in facts], ranking


def probe_images(
    scene: Scene,
    name: str,
    attack: Attack,
    threat: Threat,
    rows: Sequence[int],
    search: Search,
    audited: bool,
    together: bool = False,
    nearest: bool = False,
) -> None:
    """Run an attack on the given rows of the scene, skipping what the ledger holds already.

    Args:
        scene: the audit.
        name: the probe's name in the ledger.
        attack: what to run.
        threat: the ball.
        rows: which images.
        search: which of the scene's models to search on.
        audited: whether breaks count for the verdict.
        together: run all jobs of an image side by side.
        nearest: go on after a break, for the nearest twin.
    """
    probe = replace(probe_of(scene, name, attack, threat, search), together=together, nearest=nearest)
    probe = replace(probe, rows=_piece(scene, probe, len(rows)))
    held = [attempt for attempt in scene.ledger.attempts(name) if attempt.threat == str(threat)]
    jobs_done = _jobs_done(held, nearest)
    for group in _groups(scene, rows):
        engine = Engine(probe, _work(scene, group, jobs_done), scene.judge, scene.slots)
        _record(scene, engine, f"{name} at {threat}", len(held), audited)


def _piece(scene: Scene, probe: Probe, images: int) -> int:
    """Return how many points go through a copy at once: all that are ever in flight, where those are few.

    It goes by the number of images the stage has chosen, which is written down, and not by what is left of them.
    """
    rows = piece_rows(scene.images.shape, scene.subject.device)
    if probe.exact:
        return rows
    together = restarts(probe.attack) * max(1, targets(probe.attack)) if probe.together else 1
    in_flight = images * together * points(probe.attack)
    return min(rows, -(-in_flight // _MULTIPLE) * _MULTIPLE)


def probe_of(scene: Scene, name: str, attack: Attack, threat: Threat, search: Search) -> Probe:
    """Return an attack as the engine runs it on one of the scene's models."""
    model = scene.models[search]
    judged = model is scene.subject and scene.judge.rules_on_what_it_is_given
    key = rng.key(scene.seed, name, str(threat))
    smoothed = search == "smoothed"
    sampling = smoothing_of(scene, model, threat) if smoothed else sampling_of(scene.judge, model, scene.seed)
    return Probe(name, attack, threat, model, key, judged and not smoothed, sampling=sampling)


def _groups(scene: Scene, rows: Sequence[int]) -> list[Sequence[int]]:
    """Return the rows as they are attacked together: all at once, or a random subject's in groups of a fixed size.

    What a random model draws for an image depends on its company. With fixed groups, each of them begun anew unless it
    was finished, neither the number of slots nor a kill in between changes the outcome.
    """
    if scene.judge.draws == 1:
        return [rows]
    size = default_slots(scene.images, scene.subject.device)
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def ranked_targets(scene: Scene, probes: Sequence[str]) -> Tensor:
    """Return the scene's ranking with each image's targets ordered by the margin that targeted probes reached at them.

    Targets that none of the probes tried follow in the order they had.
    """
    reached = torch.full((len(scene.images), scene.subject.classes), -torch.inf)
    row = {image: i for i, image in enumerate(scene.images.ids.tolist())}
    for attempt in chain.from_iterable(map(scene.ledger.attempts, probes)):
        if attempt.margin is not None and attempt.target != UNTARGETED:
            reached[row[attempt.id], attempt.target] = attempt.margin
    found = reached.to(scene.ranking.device).gather(1, scene.ranking)
    return scene.ranking.gather(1, found.argsort(dim=1, descending=True, stable=True))


def _record(scene: Scene, engine: Engine, label: str, held: int, audited: bool) -> None:
    broke = 0
    images = len(engine.work.ids)
    finished: set[int] = set()
    with Progress(label, images, scene.quiet) as progress:
        for settled in engine.run() if scene.judge.draws == 1 else [list(chain.from_iterable(engine.run()))]:
            scene.ledger.record([s.attempt for s in settled], [_pixels(s) for s in settled], audited)
            broke += sum(s.attempt.broke for s in settled)
            finished |= {s.row for s in settled if engine.is_last(s)}
            progress.update(len(finished), f"{broke} broken" + (f", {held} attempts were there" if held else ""))
    if engine.halved:
        scene.ledger.note("halved", {**scene.ledger.meta().get("halved", {}), label: engine.halved})


def _work(scene: Scene, rows: Sequence[int], jobs_done: Callable[[int], int]) -> Work:
    chosen = torch.tensor(rows, dtype=torch.int64, device=scene.images.x.device)
    ids = scene.images.ids[chosen]
    return Work(
        x=scene.images.x[chosen],
        y=scene.images.y[chosen],
        ids=ids,
        ranking=scene.ranking[chosen],
        goal=torch.full_like(ids, UNTARGETED),
        done=torch.tensor([jobs_done(int(i)) for i in ids.tolist()], dtype=torch.int64, device=ids.device),
    )


def _jobs_done(held: Sequence[Attempt], nearest: bool) -> Callable[[int], int]:
    """Return how many jobs of an image are settled; all of them once one broke it, unless the nearest is sought."""
    count: dict[int, int] = {}
    for attempt in held:
        count[attempt.id] = count.get(attempt.id, 0) + (1 << 30 if attempt.broke and not nearest else 1)
    return lambda image: count.get(image, 0)


def _pixels(settled: Settled) -> bytes | None:
    return None if settled.twin is None else settled.twin.cpu().contiguous().numpy().tobytes()


def _clean_row(image: int, label: int, prediction: int, finite: bool, margin: float) -> ImageRow:
    if not finite:
        return ImageRow(image, label, prediction, Status.INVALID, forwards=1)
    status = Status.STANDING if prediction == label else Status.MISCLASSIFIED
    return ImageRow(image, label, prediction, status, clean_margin=margin, forwards=1)


def _is_random(notes: Sequence[Note]) -> bool:
    return any(note.check == NOTE_RANDOM for note in notes)
