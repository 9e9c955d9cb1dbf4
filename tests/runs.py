"""Tiny subjects, and ways to compare what two audits left behind."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from faultlight.data.images import Images
from faultlight.data.load import load_data
from faultlight.models.subject import Subject

CLASSES = 10


def digits(n: int = 60) -> Images:
    """The first n test images of the embedded digits."""
    return load_data("digits", n=n)


def templates(sharpness: float = 4.0) -> nn.Module:
    """A net that needs no training: each class's mean training digit is its template, behind a hidden ReLU."""
    train = load_data("digits", split="train")
    means = torch.stack([train.x[train.y == label].mean(0).flatten() for label in range(CLASSES)])
    hidden, last = nn.Linear(64, CLASSES), nn.Linear(CLASSES, CLASSES)
    with torch.no_grad():
        hidden.weight.copy_(means - means.mean(0))
        hidden.bias.copy_(-(means.square().sum(1) - means.mean(0).square().sum()) / 2 + 3)
        last.weight.copy_(sharpness * torch.eye(CLASSES))
        last.bias.zero_()
    return nn.Sequential(nn.Flatten(), hidden, nn.ReLU(), last).eval()


def subject(module: nn.Module | None = None, classes: int = CLASSES) -> Subject:
    """A subject of the digits: the templates, or a module of the test's own."""
    return Subject(module or templates(), classes, "templates")


class Sometimes(nn.Module):
    """Gives NaN for images whose first pixel column is brighter than a bound; the templates' logits otherwise."""

    def __init__(self, bound: float):
        super().__init__()
        self.inner, self.bound = templates(), bound

    def forward(self, x: Tensor) -> Tensor:
        bright = x[:, 0, :, 2].sum(1, keepdim=True) > self.bound
        logits: Tensor = self.inner(x)
        return torch.where(bright, torch.nan, logits)


def tables(run: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of a ledger that says what happened, sorted."""
    connection = sqlite3.connect(run / "ledger.sqlite")
    names = ("images", "attempts", "findings", "twins", "proofs", "meta")
    found = {name: sorted(connection.execute(f"SELECT * FROM {name}"), key=repr) for name in names}
    connection.close()
    # The time it took is not what happened.
    found["meta"] = [row for row in found["meta"] if row[0] != "seconds"]
    return found


def outcome(run: Path) -> dict[str, Any]:
    """All that an audit leaves, but for the time it took."""
    verdict = json.loads((run / "verdict.json").read_text())
    del verdict["cost"]["seconds"]
    arrays = (run / "arrays" / "adversarial.safetensors").read_bytes()
    records = {path.name: json.loads(path.read_text()) for path in sorted((run / "records").glob("*.json"))}
    return {"verdict": verdict, "arrays": arrays, "records": records, "tables": tables(run)}
