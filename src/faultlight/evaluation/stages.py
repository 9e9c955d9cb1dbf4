"""Running a plan: each stage on the images it chooses, later ones because of what earlier ones found."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from faultlight import rng
from faultlight.evaluation import certificates
from faultlight.evaluation.ledger import Ledger
from faultlight.evaluation.plan import Stage
from faultlight.evaluation.probing import Scene, probe_images, ranked_targets
from faultlight.evaluation.rows import ImageRow, Status
from faultlight.threat import Threat


def run_stages(scene: Scene, threat: Threat, stages: tuple[Stage, ...], cross_check: bool = False) -> None:
    """Run the stages one after the other; what the ledger holds is not done again.

    What is certified cannot break, and is left out unless attacks and certificates are to check each other.
    """
    if scene.ledger.meta().get("attacked"):
        return
    for stage in stages:
        if not _applies(stage, scene, threat):
            continue
        chosen = _chosen(stage, scene, cross_check)
        ranking = ranked_targets(scene, stage.ranked_by).roll(-stage.skip, dims=1)
        probe_images(
            replace(scene, ranking=ranking),
            stage.name,
            stage.attack,
            threat,
            chosen,
            stage.model,
            audited=True,
            together=stage.together,
        )
    scene.ledger.note("attacked", True)


def _applies(stage: Stage, scene: Scene, threat: Threat) -> bool:
    """Return whether a stage is made for the norm, has classes left to aim at, and what it waits for has happened."""
    aims = stage.skip < scene.ranking.shape[1]
    return threat.norm in stage.norms and aims and (not stage.after or _broke(scene.ledger, stage.after))


def chosen_rows(stage: str, ledger: Ledger) -> list[int]:
    """Return the rows that a stage ran on; none if it did not run."""
    return list(ledger.meta().get(f"chosen:{stage}", []))


def spared_images(stage: str, ledger: Ledger) -> int:
    """Return how many certified images a stage was spared, that its share would have taken."""
    return int(ledger.meta().get(f"spared:{stage}", 0))


def _spared(stage: Stage, standing: int, kept: int) -> int:
    if stage.reach < math.inf:  # certified images were never moved, so how far they are is not known
        return 0
    return max(0, min(max(stage.least, math.ceil(stage.share * standing)), standing) - kept)


def _tried(ledger: Ledger, stages: tuple[str, ...]) -> frozenset[int]:
    return frozenset(attempt.id for stage in stages for attempt in ledger.attempts(stage))


def _broke(ledger: Ledger, stages: tuple[str, ...]) -> bool:
    return any(attempt.broke for stage in stages for attempt in ledger.attempts(stage))


def _chosen(stage: Stage, scene: Scene, cross_check: bool) -> list[int]:
    """Return the rows a stage runs on, of the images that stand before it, and write them down for a resumed run."""
    key = f"chosen:{stage.name}"
    kept = scene.ledger.meta().get(key)
    if kept is None:
        safe = frozenset() if cross_check else certificates.proven(scene.ledger)
        standing = [pair for pair in enumerate(scene.ledger.images()) if pair[1].status == Status.STANDING]
        tried = _tried(scene.ledger, stage.after) if stage.rest else frozenset()
        rows = [(row, image) for row, image in standing if image.id not in safe | tried]
        within = sum(_shortfall(image) <= stage.reach for _, image in rows)
        # A share of all that stands: what is certified would be the farthest of it, so the rest is nearest.
        count = max(stage.least, min(math.ceil(stage.share * len(standing)), within))
        kept = [row for row, _ in _ordered(rows, stage, scene.seed)[:count]]
        scene.ledger.note(key, kept)
        scene.ledger.note(f"spared:{stage.name}", _spared(stage, len(standing), len(kept)))
    return list(kept)


def _ordered(rows: list[tuple[int, ImageRow]], stage: Stage, seed: int) -> list[tuple[int, ImageRow]]:
    """Return the images nearest to breaking first; for a sample, in a random order that is the same at every stage."""
    if not stage.sample:
        return sorted(rows, key=lambda pair: (-_nearness(pair[1]), pair[1].id))
    ids = torch.tensor([image.id for _, image in rows], dtype=torch.int64)
    luck = rng.uniform(rng.key(seed, "sample"), ids, torch.zeros_like(ids), (1,))[:, 0].tolist()
    return [pair for _, pair in sorted(zip(luck, rows, strict=True), key=lambda drawn: drawn[0])]


def _shortfall(image: ImageRow) -> float:
    """Return how far the margin is from 0, over what the attacks have gained on it; ∞ where they gained nothing."""
    if image.margin is None or image.clean_margin is None or image.margin <= image.clean_margin:
        return math.inf
    return -image.margin / (image.margin - image.clean_margin)


def _nearness(image: ImageRow) -> float:
    if image.margin is not None:
        return image.margin
    return image.clean_margin if image.clean_margin is not None else -math.inf
