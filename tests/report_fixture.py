"""Writes a whole, plausible run folder without running an audit: random, but every record agrees with every other."""

from __future__ import annotations

import json
import math
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from scipy.ndimage import convolve, gaussian_filter
from scipy.stats import beta
from sklearn.datasets import load_digits

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
HOSTILE = [
    "</script><script>window.hacked=1</script>",
    '"><img src=x onerror="window.hacked=1">',
    "\x1b[31mred\x1b[0m",
    "=cmd()",
    "+1+1",
    "-2+3",
    "@SUM(A1)",
    "\tTAB",
    "{{ 7 * 7 }} ${7*7} <!--",
    "'; DROP TABLE images; --",
]
PROBES = [
    ("uniform-noise", "draws=10", "", 0.12),
    ("fgsm", "loss=cross-entropy", "Goodfellow, Shlens and Szegedy 2015, section 4", 0.45),
    ("pgd", "steps=20, loss=margin", "Madry et al. 2018, section 2.1", 0.9),
    ("pgd", "steps=50, loss=dlr, restarts=4", "Croce and Hein 2020, section 4", 1.0),
]


@dataclass(frozen=True)
class Plan:
    """What kind of run to write."""

    n: int = 200
    epsilon: float = 8 / 255
    text: str = "8/255"
    classes: list[str] = field(default_factory=lambda: DIGITS)
    colour: bool = False
    side: int = 8
    gallery: int = 24
    channels: int = 4
    status: str = "sound"
    complete: bool = True
    certified: bool = False
    name: str = "zoo:digits-cnn"
    seed: int = 0


def write_run(folder: Path, plan: Plan | None = None) -> Path:
    """Write every record of a run and return the folder."""
    plan = plan or Plan()
    (folder / "records").mkdir(parents=True)
    (folder / "arrays").mkdir()
    rng = np.random.default_rng(plan.seed)
    x, y = _pictures(plan, rng)
    rows = _rows(plan, y, rng)
    twins = {row["id"]: _twin(x[row["id"]], row, rng) for row in rows if row["status"] == "broken"}
    probes = _probes(plan, rows)
    _write(folder / "verdict.json", _verdict(plan, rows, probes))
    _write(folder / "stamp.json", _stamp(plan))
    _write(folder / "records/curve.json", _curve(plan, rows))
    _write(folder / "records/probes.json", {"schema": 1, "probes": probes})
    _write(folder / "records/checks.json", {"schema": 1, "checks": _CHECKS})
    _write(folder / "records/model.json", _model(plan))
    _write_gallery(folder, plan, rows, x, twins, rng)
    _write_ledger(folder / "ledger.sqlite", rows)
    ids = np.array(sorted(twins), dtype=np.int64)
    save_file({"ids": ids, "x": np.stack([twins[int(i)] for i in ids])}, folder / "arrays/adversarial.safetensors")
    (folder / "run.toml").write_text(f'model = "{plan.name}"\nthreat = "linf:{plan.text}"\nn = {plan.n}\n')
    return folder


def _pictures(plan: Plan, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    k = len(plan.classes)
    if not plan.colour:
        digits = load_digits()
        return (digits.images[: plan.n, None] / 16).astype(np.float32), digits.target[: plan.n] % k
    noise = rng.normal(size=(plan.n, 3, plan.side, plan.side))
    smooth = gaussian_filter(noise, (0, 0.6, 2.5, 2.5))
    smooth = (smooth - smooth.min((2, 3), keepdims=True)) / np.ptp(smooth, axis=(2, 3), keepdims=True)
    grain = 0.03 * rng.normal(size=smooth.shape)
    return np.clip(smooth + grain, 0, 1).astype(np.float32), rng.integers(0, k, plan.n)


def _rows(plan: Plan, y: np.ndarray, rng: np.random.Generator) -> list[dict[str, Any]]:
    """One row an image; `radius` is the change that fells it, and decides everything else."""
    rows = []
    for i, label in enumerate(y):
        radius = float(plan.epsilon * rng.lognormal(0.1, 0.8))
        wrong = rng.random() < 0.03
        row = {"id": i, "label": int(label), "radius": 0.0 if wrong else radius}
        other = int((label + 1 + rng.integers(0, len(plan.classes) - 1)) % len(plan.classes))
        near = int(label + (1 if label % 2 == 0 else -1)) % len(plan.classes)
        twin = near if rng.random() < 0.55 and near != label else other
        rows.append(row | _outcome(plan, row, other, twin))
    return rows


def _outcome(plan: Plan, row: dict[str, Any], other: int, twin: int) -> dict[str, Any]:
    ratio = row["radius"] / plan.epsilon
    fallen = {"prediction": row["label"], "broken": 0, "broken_by": "", "distance": None, "twin_prediction": None}
    if ratio == 0:
        return fallen | {"status": "misclassified", "prediction": other, "margin": None, "fragile": 0}
    margin = 4.0 * (1 - ratio)
    if ratio > 1:
        return fallen | {"status": "standing", "margin": margin, "fragile": 0}
    by = next(f"{name}" for name, _, _, reach in PROBES if ratio <= reach)
    broken = {"status": "broken", "broken": 1, "broken_by": by, "distance": row["radius"], "twin_prediction": twin}
    return fallen | broken | {"margin": margin, "fragile": int(margin < 0.05)}


def _twin(x: np.ndarray, row: dict[str, Any], rng: np.random.Generator) -> np.ndarray:
    step = np.float32(row["distance"]) * np.sign(gaussian_filter(rng.normal(size=x.shape), (0, 0.7, 0.7)))
    twin = np.clip(x + step.astype(np.float32), 0, 1)
    row["distance"] = float(np.abs(twin.astype(np.float64) - x).max())
    return twin


def interval(count: int, n: int) -> tuple[float, float]:
    """Clopper–Pearson's 95 % interval."""
    low = float(beta.ppf(0.025, count, n - count + 1)) if count else 0.0
    high = float(beta.ppf(0.975, count + 1, n - count)) if count < n else 1.0
    return low, high


def _rate(count: int, n: int) -> dict[str, Any]:
    low, high = interval(count, n)
    return {"value": count / n, "low": low, "high": high, "count": count}


_CHECKS = [
    {"check": "zero-gradients", "saw": "the margin's gradient is zero on 0 of 95 images", "outcome": "passed"},
    {"check": "faulty-attack", "saw": "every candidate lay in the ball and in [0, 1]", "outcome": "passed"},
]


def _verdict(plan: Plan, rows: list[dict[str, Any]], probes: list[dict[str, Any]]) -> dict[str, Any]:
    standing = sum(row["status"] == "standing" for row in rows)
    clean = sum(row["status"] != "misclassified" for row in rows)
    attacked = None if plan.status == "withheld" else _rate(standing, plan.n)
    low, high = interval(standing, plan.n)
    sentence = (
        f"Of {plan.n:,} images {clean / plan.n:.1%} are classified correctly, and at most {standing / plan.n:.1%} "
        f"(95 % interval {low:.1%} to {high:.1%}) remain so under every attack tried within linf:{plan.text}."
    )
    cost = {key: sum(probe[f"{key}s"] for probe in probes) for key in ("forward", "backward")}
    return {
        "schema": 1,
        "faultlight": "0.1.0",
        "status": plan.status,
        "sentence": "No verdict: the input gradient is exactly zero on 200 of 200 images."
        if plan.status == "withheld"
        else sentence,
        "complete": plan.complete,
        "n": plan.n,
        "threat": f"linf:{plan.text}",
        "norm": "linf",
        "epsilon": plan.epsilon,
        "effort": "standard",
        "data": {"name": "digits", "split": "test", "classes": plan.classes, "fingerprint": "d1" * 32},
        "model": {"name": plan.name, "fingerprint": "5e" * 32},
        "clean": _rate(clean, plan.n),
        "attacked": attacked,
        "certified": _rate(standing // 2, plan.n) if plan.certified else None,
        "invalid": 0,
        "fragile": sum(row["fragile"] for row in rows),
        "findings": _findings(plan),
        "cost": cost | {"seconds": 41.3},
    }


def _findings(plan: Plan) -> list[dict[str, str]]:
    found = {
        "sound": [],
        "doubtful": [("monotone", "warning", "Success falls from 61.0 % at ε = 4/255 to 58.5 % at 8/255.")],
        "withheld": [("zero gradients", "fatal", "The input gradient is exactly zero on 200 of 200 images.")],
    }[plan.status]
    note = ("fragile breaks", "info", "Some breaks hold by a margin below 0.0001; they are counted and marked.")
    return [{"check": check, "severity": severity, "evidence": text} for check, severity, text in [*found, note]]


def _stamp(plan: Plan) -> dict[str, Any]:
    command = [
        "faultlight",
        "audit",
        plan.name,
        "--data",
        "digits",
        "--threat",
        f"linf:{plan.text}",
        "--n",
        str(plan.n),
    ]
    return {
        "schema": 1,
        "faultlight": "0.1.0",
        "written": "2026-01-02T03:04:05+00:00",
        "seed": plan.seed,
        "command": command,
        "versions": {"python": "3.11.9", "faultlight": "0.1.0", "torch": "2.10.0", "numpy": "2.2.1"},
        "git": {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": True},
        "device": {"asked": "cpu", "name": "a processor"},
        "platform": "Linux-6.1-x86_64",
        "hashes": {"model": "5e" * 32, "data": "d1" * 32},
        "timings": {"clean": 0.4, "attacks": 38.2, "views": 2.7},
    }


def _curve(plan: Plan, rows: list[dict[str, Any]]) -> dict[str, Any]:
    points = []
    for k in (0, 1, 2, 4, 6, 8, 12, 16, 24, 40):
        epsilon = plan.epsilon * k / 8
        standing = sum(row["radius"] > epsilon for row in rows)
        low, high = interval(standing, plan.n)
        point = {
            "epsilon": epsilon,
            "text": plan.text if k == 8 else f"{epsilon:g}",
            "standing": standing,
            "n": plan.n,
            "value": standing / plan.n,
        }
        points.append(point | {"low": low, "high": high})
    head = {"schema": 1, "norm": "linf", "n": plan.n, "probe": "pgd", "audit_epsilon": plan.epsilon}
    return head | {"points": points, "distances": _distances(plan, rows)}


def _distances(plan: Plan, rows: list[dict[str, Any]]) -> dict[str, Any]:
    values = sorted(max(0.0, row["radius"]) for row in rows)
    quantiles = {str(percent): values[math.ceil(plan.n * percent / 100) - 1] for percent in (5, 25, 50, 75, 95)}
    return {
        "probe": "fmn",
        "n": plan.n,
        "median": quantiles["50"],
        "quantiles": quantiles,
        "values": values,
        "accuracy": [sum(value > bound for value in values) / plan.n for bound in values],
        "found_by": {"nearest": plan.n - 3, "pgd": 3},
    }


def _probes(plan: Plan, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    left = [row["radius"] / plan.epsilon for row in rows if row["status"] != "misclassified"]
    probes = []
    for steps, (name, settings, paper, reach) in enumerate(PROBES):
        after = [ratio for ratio in left if ratio > reach]
        passes = len(left) * (1 + 10 * steps)
        probe = {"probe": name, "settings": settings, "paper": paper, "tried": len(left)}
        probes.append(
            probe | {"broke": len(left) - len(after), "forwards": passes, "backwards": passes if steps else 0}
        )
        left = after
    return probes


def _model(plan: Plan) -> dict[str, Any]:
    k, c, s = len(plan.classes), 3 if plan.colour else 1, plan.side
    layers = [
        ("conv1", "Conv2d", [16, s, s], 9 * c * 16 + 16, 9 * c * 16 * s * s),
        ("relu1", "ReLU", [16, s, s], 0, 0),
        ("conv2", "Conv2d", [32, s // 2, s // 2], 9 * 16 * 32 + 32, 9 * 16 * 32 * s * s // 4),
        ("head", "Linear", [k], 8 * s * s * k + k, 8 * s * s * k),
    ]
    keys = ("name", "type", "output", "parameters", "multiply_adds")
    records = [dict(zip(keys, layer, strict=True)) | {"neurons": int(np.prod(layer[2]))} for layer in layers]
    total = {key: sum(record[key] for record in records) for key in ("neurons", "parameters", "multiply_adds")}
    return {"schema": 1, "layers": records, "total": total}


def _confidence(k: int, winner: int, second: int, rng: np.random.Generator) -> list[float]:
    logits = rng.normal(size=k)
    logits[second] = logits.max() + 0.6
    logits[winner] = logits.max() + rng.uniform(0.3, 2.5)
    parts = np.exp(logits) / np.exp(logits).sum()
    return [float(part) for part in parts]


def _write_gallery(folder: Path, plan: Plan, rows: Any, x: np.ndarray, twins: Any, rng: np.random.Generator) -> None:
    broken = [row for row in rows if row["status"] == "broken"][: plan.gallery]
    before = np.stack([x[row["id"]] for row in broken])
    after = np.stack([twins[row["id"]] for row in broken])
    arrays = {"x": before, "twin": after} | _maps(before, after, plan.channels, rng)
    items = [_item(plan, row, arrays, i, rng) for i, row in enumerate(broken)]
    saliency = float(max(arrays["saliency_clean"].max(), arrays["saliency_twin"].max()))
    scales = {"delta": float(np.abs(after - before).max()), "occlusion": [0, 1], "saliency": saliency}
    record = {"schema": 1, "items": items, "scales": scales, "patch": 2, "stride": 1, "fill": 0.5}
    _write(folder / "records/gallery.json", record)
    save_file(
        {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()},
        folder / "arrays/gallery.safetensors",
    )


def _maps(before: np.ndarray, after: np.ndarray, channels: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    kernels = rng.normal(size=(channels, 3, 3))
    for name, x, level in (("clean", before.mean(1), 0.95), ("twin", after.mean(1), 0.45)):
        thick = gaussian_filter(x, (0, 1, 1))
        drop = thick / thick.max((1, 2), keepdims=True)
        found[f"occlusion_{name}"] = np.clip(level * (1 - 0.8 * drop[:, 1:, 1:]), 0, 1)
        edges = np.hypot(*np.gradient(x, axis=(1, 2)))
        found[f"saliency_{name}"] = edges * rng.uniform(0.5, 1.5, edges.shape)
        found[f"moved_{name}"] = np.stack([np.maximum(convolve(x, kernel[None]), 0) for kernel in kernels], axis=1)
    found["moved_clean"][0, 0], found["moved_twin"][0, 0] = 0, 0
    return found


def _item(plan: Plan, row: Any, arrays: dict[str, np.ndarray], i: int, rng: np.random.Generator) -> dict[str, Any]:
    keys = ("id", "label", "prediction", "twin_prediction", "broken_by", "distance", "margin")
    k, label, twin = len(plan.classes), row["label"], row["twin_prediction"]
    change = np.abs(arrays["moved_twin"][i] - arrays["moved_clean"][i]).mean((1, 2))
    moved = [{"layer": f"conv{1 + j % 2}", "channel": j, "change": float(each)} for j, each in enumerate(change)]
    return {key: row[key] for key in keys} | {
        "fragile": bool(row["fragile"]),
        "confidence": _confidence(k, label, twin, rng),
        "twin_confidence": _confidence(k, twin, label, rng),
        "moved": moved,
    }


def _write_ledger(path: Path, rows: list[dict[str, Any]]) -> None:
    columns = ["id", "label", "prediction", "status", "broken", "broken_by", "distance", "margin", "fragile"]
    columns.append("twin_prediction")
    base = sqlite3.connect(path)
    with base:
        base.execute("CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT)")
        kinds = ", ".join(["id INTEGER PRIMARY KEY", *columns[1:], "clean_margin", "forwards", "backwards"])
        base.execute(f"CREATE TABLE images ({kinds})")
        values = [(*(row[column] for column in columns), 2.5, 40, 40) for row in rows]
        base.executemany(f"INSERT INTO images VALUES ({','.join('?' * 13)})", values)
    base.close()


def _write(path: Path, record: dict[str, Any]) -> None:
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False), encoding="utf-8")
