"""Several denoisers against several noises: the table, the record and the pictures that `compare` leaves."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faultlight import files
from faultlight.autoencoder.look import before_after, stacked
from faultlight.autoencoder.measure import Comparison, compare, restore
from faultlight.autoencoder.nets import Net
from faultlight.autoencoder.saved import facts_of
from faultlight.autoencoder.tampering import parse_tampering, tamper
from faultlight.data.images import Images
from faultlight.errors import InputError
from faultlight.evaluation.verdict import Share
from faultlight.models.subject import Subject
from faultlight.threat import parse_threat, usual_threat
from faultlight.views._result import ViewResult

SCHEMA = 1
RECORD = "compare.json"
# Images of a noise in the grid.
_SHOWN = 4


@dataclass(frozen=True)
class Compared:
    """What several networks make of the same tampered images.

    Args:
        noises: kinds with strengths.
        found: the comparison of each network, by its name.
        grids: what the first images look like before and after, by the network's name.
        facts: of data, classifier and seed.
    """

    noises: tuple[tuple[str, float], ...]
    found: Mapping[str, Comparison]
    grids: Mapping[str, ViewResult]
    facts: dict[str, Any]

    def record(self) -> dict[str, Any]:
        """Return everything measured as plain JSON."""
        found = {name: each.record() for name, each in self.found.items()}
        return {"schema": SCHEMA, "kind": "autoencoder compare", **self.facts, "networks": found}

    def save(self, folder: Path) -> list[Path]:
        """Write the record, and of each network a grid as PNG, SVG, arrays and JSON; return the paths."""
        files.write_json(folder / RECORD, self.record())
        return [folder / RECORD, *(path for each in self.grids.values() for path in each.save(folder))]


def compare_networks(
    nets: Mapping[str, Net],
    images: Images,
    noises: Sequence[tuple[str, float]],
    classifier: Subject | None,
    *,
    seed: int = 0,
    quiet: bool = True,
) -> Compared:
    """Measure networks on the same images with the same noise, and draw what they restore.

    Args:
        nets: by name, in evaluation mode.
        images: clean test images.
        noises: kinds with strengths.
        classifier: whose accuracy is measured and at which adversarial noise is aimed; None for errors alone.
        seed: of the noise.
        quiet: show no progress.
    """
    found = {name: compare(net, images, noises, classifier, seed=seed, quiet=quiet) for name, net in nets.items()}
    called = file_names([*nets])
    grids = {
        name: _grid(called[name], net, images.first(_SHOWN), noises, classifier, seed) for name, net in nets.items()
    }
    facts = {
        "data": images.name,
        "n": len(images),
        "seed": seed,
        "classifier": classifier.name if classifier else None,
        "classifier_fingerprint": classifier.fingerprint() if classifier else None,
    }
    return Compared(tuple(noises), found, grids, facts)


def file_names(names: Sequence[str]) -> dict[str, str]:
    """Return what the pictures of each network are called, without what no file's name can hold, and no two alike."""
    plain = [re.sub(r"[^\w.+-]+", "-", name).strip("-.") for name in names]
    if len(set(plain)) < len(plain):
        plain = [f"{each}-{place + 1}" for place, each in enumerate(plain)]
    return dict(zip(names, plain, strict=True))


def usual_noises(run: Path, aimed: bool) -> list[tuple[str, float]]:
    """Return what a denoiser is measured on unless something else is asked.

    Each noise that it learnt to undo, at half its greatest strength and at that; and, where there is a classifier and
    it learnt no adversarial noise, that at half the data set's usual radius and at that.
    """
    facts = facts_of(run)
    learnt = [(each["kind"], each["high"]) for each in facts["tamper"]] or [("gaussian", 0.2)]
    if aimed and "adversarial" not in dict(learnt):
        learnt.append(("adversarial", parse_threat(usual_threat(facts["data"])).epsilon))
    kept = [(kind, high) for kind, high in learnt if aimed or kind != "adversarial"]
    return list(dict.fromkeys((kind, part * high) for kind, high in kept for part in (0.5, 1.0)))


def asked_noises(texts: Sequence[str]) -> list[tuple[str, float]]:
    """Return the noises that texts such as "gaussian:0.5" name, each of one strength.

    Raises:
        InputError: no such noise, a range of strengths, or the same noise of the same strength twice.
    """
    found: list[tuple[str, float]] = []
    for text in texts:
        noise = parse_tampering(text)
        strength = (noise.kind, noise.high)
        if noise.low < noise.high:
            raise InputError(
                f"a noise is measured at one strength, and {text!r} is a range; give each strength by a --noise of "
                f"its own."
            )
        if strength in found:
            raise InputError(f"the noise {noise} is given twice, which would measure the same again; give it once.")
        found.append(strength)
    return found


def as_text(compared: Compared) -> str:
    """Return the tables for a terminal, a network after the other."""
    return "\n\n".join(_table(name, found) for name, found in compared.found.items())


def _grid(
    name: str, net: Net, images: Images, noises: Sequence[tuple[str, float]], classifier: Subject | None, seed: int
) -> ViewResult:
    parts = []
    for kind, strength in [("", 0.0), *noises]:
        given = tamper(images, kind, strength, seed, classifier).x if kind else images.x
        title = f"{kind} {strength:.3g}" if kind else "clean"
        words = f"{title}: clean, given, restored, restored − clean"
        parts.append(before_after(images, given, restore(net, given), title.replace(" ", "-"), words, title))
    return stacked(parts, f"before-after-{name}")


def _table(name: str, found: Comparison) -> str:
    judged = found.rows[0].accuracy is not None
    head = ["noise", "error given", "restored", "PSNR given", "restored"]
    head += ["accuracy given", "restored", "below clean"] if judged else []
    rows = [head]
    for row in found.rows:
        cells = [row.name, f"{row.mse:.5f}", f"{row.mse_restored:.5f}", _decibels(row.psnr)]
        cells.append(_decibels(row.psnr_restored))
        if judged:
            gap = found.gap(row)
            cells += [_share(row.accuracy), _share(row.accuracy_restored), f"{100 * (gap or 0.0):+.2f} points"]
        rows.append(cells)
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([f"{name}, {found.n:,} images", *lines, *_cost(found)])


def _cost(found: Comparison) -> list[str]:
    cost = found.cost()
    return [] if cost is None else [f"On clean images the network costs {100 * cost:.2f} points of accuracy."]


def _share(value: Share | None) -> str:
    return "" if value is None else f"{100 * value.value:.2f} % ({100 * value.low:.1f} – {100 * value.high:.1f})"


def _decibels(value: float | None) -> str:
    return "∞" if value is None else f"{value:.2f} dB"
