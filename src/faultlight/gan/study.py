"""The study of collapse: one mistake and two losses, on several seeds, and whether the alarm tells them apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from faultlight import files
from faultlight.data.images import Images
from faultlight.data.load import load_data
from faultlight.errors import InputError
from faultlight.gan import measuring, run
from faultlight.gan.reals import place_reals
from faultlight.gan.recipe import GanRecipe
from faultlight.models.subject import Subject
from faultlight.train.steps_recipe import parse

RECORD = "study.json"
SCHEMA = 1
# An old report saw a generator that drew nothing but ones and blamed the minimax loss. Its code let the gradient of the
# discriminator's step stay in the generator. The first repeats that; each differs from the one before in one thing.
CELLS: Mapping[str, Mapping[str, Any]] = {
    "leak": {"loss": "minimax", "leak": True},
    "minimax": {"loss": "minimax", "leak": False},
    "non-saturating": {"loss": "non-saturating", "leak": False},
}
COLLAPSES = ("leak",)
# Of the samples that every run is measured by.
_SAMPLES_SEED = 0


def run_study(
    base: GanRecipe,
    subject: Subject,
    *,
    out: Path | str,
    seeds: Sequence[int] = (0, 1, 2),
    n: int = 10_000,
    train: Images | None = None,
    held_out: Images | None = None,
    resume: bool = False,
    device: str = "cpu",
    quiet: bool = False,
) -> dict[str, Any]:
    """Train and measure each cell on each seed, and write what came of it to out/study.json.

    Args:
        base: everything that the cells have in common; loss, leak and seed are the cells' own.
        subject: a classifier of the images.
        out: the folder; each cell and seed gets a run's folder within it, such as leak-0.
        seeds: of the runs.
        n: samples of each generator.
        train: the images learnt from; None loads those of the recipe.
        held_out: real images that were not; None loads the test split.
        resume: go on with what the folder holds.
        device: where the generators are trained.
        quiet: show no progress.

    Returns:
        The record; "holds" says whether the alarm went off on every run of the cell with the leak, and on no other.

    Raises:
        InputError: a seed is named twice or below 0, the classifier does not take the images, or what `run.train` and
            `measure` raise.
    """
    out = Path(out)
    if not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"the study needs seeds that differ, not {', '.join(map(str, seeds)) or 'none'}.")
    recipes = {(cell, seed): cell_recipe(base, cell, seed) for cell in CELLS for seed in seeds}
    train, held_out = train or load_data(base.data, "train+validation"), held_out or load_data(base.data, "test")
    # Asked before hours of training: what the classifier cannot take ends the study here.
    measuring.see(subject, place_reals(held_out, base.stack, 2, "cpu").sample(2, _SAMPLES_SEED), base.stack)
    rows = []
    for (cell, seed), recipe in recipes.items():
        folder = out / f"{cell}-{seed}"
        run.train(recipe, out=folder, images=train, resume=resume, device=device, quiet=quiet)
        measured = _measured(folder, subject, n, train, held_out)
        rows.append({"cell": cell, "seed": seed, "folder": folder.name} | _taken(measured))
    record = {
        "schema": SCHEMA,
        "kind": "gan-study",
        "recipe": base.name,
        "steps": base.steps,
        "seeds": list(seeds),
        "n": n,
        "classifier": subject.name,
        "rows": rows,
        "holds": all(row["alarm"] == (row["cell"] in COLLAPSES) for row in rows),
    }
    files.write_json(out / RECORD, record)
    return record


def cell_recipe(base: GanRecipe, cell: str, seed: int) -> GanRecipe:
    """Return the recipe of one run of the study."""
    own = {**CELLS[cell], "seed": seed, "name": f"{base.name}-{cell}"}
    return parse(GanRecipe, base.model_dump(exclude_none=True) | own, f"the cell {cell!r}")


def _measured(folder: Path, subject: Subject, n: int, train: Images | None, held_out: Images | None) -> dict[str, Any]:
    """Return the measures of a run, those that a resumed study already has among them."""
    path = folder / measuring.RECORD
    if path.exists():
        record: dict[str, Any] = files.read_json(path)
        of = record["n"], record["seed"], record["classifier"]["fingerprint"]
        if of == (n, _SAMPLES_SEED, subject.fingerprint()):
            return record
    return measuring.measure(folder, subject, n=n, seed=_SAMPLES_SEED, train=train, held_out=held_out)


def _taken(measured: Mapping[str, Any]) -> dict[str, Any]:
    return {key: measured[key] for key in ("alarm", "findings", "drawn", "held_out")}
