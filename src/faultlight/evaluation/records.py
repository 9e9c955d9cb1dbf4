"""What a finished audit writes beside its ledger: numbers as JSON, arrays as safetensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save

from faultlight.attacks._contract import Attack
from faultlight.catalogue import catalogue
from faultlight.data.images import Images
from faultlight.evaluation.checks import Checked
from faultlight.evaluation.feature_map import feature_map
from faultlight.evaluation.gallery import GalleryFact, build_gallery, choose
from faultlight.evaluation.ledger import Ledger
from faultlight.evaluation.plan import Stage
from faultlight.evaluation.probing import rows_of
from faultlight.evaluation.rows import Attempt, ImageRow
from faultlight.files import write_bytes, write_json
from faultlight.models.subject import Subject
from faultlight.views.layers import layer_table


def write_adversarial(out: Path, ledger: Ledger, images: Images) -> None:
    """Write arrays/adversarial.safetensors, a row for each broken image.

    `ids` (int64) and `x` (float32, n × c × h × w) are the twins; `clean` and `y` the images and labels they were made
    of, so that a check needs nothing else.
    """
    twins = ledger.twins()
    shape = images.shape
    x = [np.frombuffer(pixels, dtype="<f4").reshape(shape) for _, pixels in twins]
    stacked = np.stack(x) if x else np.zeros((0, *shape), dtype=np.float32)
    ids = np.array([image for image, _ in twins], dtype=np.int64)
    rows = rows_of(images, ids.tolist())
    before = {"clean": images.x[rows].cpu().contiguous().numpy(), "y": images.y[rows].cpu().numpy()}
    write_bytes(out / "arrays" / "adversarial.safetensors", save({"ids": ids, "x": stacked, **before}))


def write_gallery(out: Path, ledger: Ledger, images: Images, subject: Subject) -> None:
    """Write records/gallery.json and arrays/gallery.safetensors for a spread of the failures."""
    broken = [row for row in ledger.images() if row.broken]
    shown = choose(
        [row.distance or 0.0 for row in broken], [row.broken_by for row in broken], [row.label for row in broken]
    )
    chosen = [broken[i] for i in shown]
    if not chosen:
        write_json(out / "records" / "gallery.json", {"schema": 1, "items": []})
        return
    position = {int(image): row for row, image in enumerate(images.ids.tolist())}
    pixels = dict(ledger.twins())
    taken = images.take(torch.tensor([position[row.id] for row in chosen], device=images.x.device))
    twins = torch.stack([_tensor(pixels[row.id], images) for row in chosen]).to(images.x.device)
    record, arrays = build_gallery(subject, taken, twins, [_fact(row) for row in chosen])
    record["map"], paths = feature_map(subject, images, taken, twins)
    for item, path in zip(record["items"], paths, strict=False):
        item["path"] = path
    write_bytes(
        out / "arrays" / "gallery.safetensors", save({name: np.ascontiguousarray(a) for name, a in arrays.items()})
    )
    write_json(out / "records" / "gallery.json", record)


def write_model(out: Path, subject: Subject, images: Images) -> None:
    """Write records/model.json: the layer table."""
    write_json(out / "records" / "model.json", layer_table(subject, images.shape).record())


def write_probes(out: Path, stages: tuple[Stage, ...], attempts: list[Attempt]) -> None:
    """Write records/probes.json: what each probe tried, broke and cost, in the order they ran."""
    records = [_probe(stage, [a for a in attempts if a.probe == stage.name]) for stage in stages]
    write_json(out / "records" / "probes.json", {"schema": 1, "probes": records})


def write_checks(out: Path, checked: Sequence[Checked]) -> None:
    """Write records/checks.json: every check that was made, what it saw, and whether that is a finding."""
    rows = [{"check": one.check, "saw": one.saw, "outcome": one.severity or "passed"} for one in checked]
    write_json(out / "records" / "checks.json", {"schema": 1, "checks": rows})


def settings_of(attack: Attack) -> str:
    """Return an attack's hyper-parameters as "steps=20, loss=margin", defaults included."""
    return ", ".join(f"{key}={value}" for key, value in asdict(attack).items())  # type: ignore[call-overload]


def paper_of(attack: Attack) -> str:
    """Return the "Source:" of an attack's docstring, in one line."""
    for entry in catalogue("attacks").values():
        if entry.class_name == type(attack).__name__:
            return entry.source
    return ""


def _probe(stage: Stage, attempts: list[Attempt]) -> dict[str, Any]:
    return {
        "probe": stage.name,
        "settings": settings_of(stage.attack),
        "paper": paper_of(stage.attack),
        "tried": len({a.id for a in attempts}),
        "broke": sum(a.broke for a in attempts),
        "forwards": sum(a.forwards for a in attempts),
        "backwards": sum(a.backwards for a in attempts),
    }


def _fact(row: ImageRow) -> GalleryFact:
    known = {field.name for field in fields(GalleryFact)}
    values = {key: value for key, value in asdict(row).items() if key in known}
    return GalleryFact(
        **{**values, "distance": 0.0 if row.distance is None else row.distance, "margin": row.margin or 0.0}
    )


def twins_of(stored: list[tuple[int, bytes]], images: Images) -> torch.Tensor:
    """Return the pixels of the ledger's twins, (n, c, h, w), on the images' device."""
    return torch.stack([_tensor(pixels, images) for _, pixels in stored]).to(images.x.device)


def _tensor(pixels: bytes, images: Images) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(pixels, dtype="<f4").reshape(images.shape).copy())
