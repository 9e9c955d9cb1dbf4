"""One recipe over a grid of one or two settings: a run a cell, a table, and a picture of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faultlight.errors import InputError
from faultlight.train import folder as place
from faultlight.train.memory import load_splits
from faultlight.train.recipe import ObjectiveTable, Recipe, load_recipe, parse_settings
from faultlight.train.result import TrainResult
from faultlight.train.run import train
from faultlight.views._result import Panel, Scale, ViewResult
from faultlight.views._table import table

ALONE = "alone"
_VALUE = re.compile(r"[A-Za-z0-9.+-]+")


@dataclass(frozen=True)
class Axis:
    """One setting of a grid: its dotted key, and the values it takes, as they were written."""

    key: str
    texts: tuple[str, ...]

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition(".")[2]

    def setting(self, text: str) -> dict[str, Any]:
        """Return what is laid over the recipe for a value."""
        return parse_settings([f"{self.key}={text}"])


def parse_grid(words: Sequence[str]) -> tuple[Axis, ...]:
    """Return the axes that "objective.temperature=1,4,12" and at most one more name.

    Raises:
        InputError: a word that is none, a value named twice, or more than two keys.
    """
    axes = tuple(_axis(word) for word in words)
    if len(axes) > 2 or len({axis.name for axis in axes}) < len(axes):
        raise InputError("a grid has one or two different keys; give --grid once or twice.")
    return axes


def train_grid(
    spec: str,
    overrides: Mapping[str, Any],
    axes: Sequence[Axis],
    *,
    out: Path,
    resume: bool = False,
    device: str = "cpu",
    quiet: bool = False,
) -> ViewResult:
    """Train a recipe once for each cell, and where it learns from a teacher once more without, by cross-entropy.

    Cells are OUT/NAME-VALUE,NAME-VALUE and the run without a teacher is OUT/alone; the rest of the recipe, the seed
    too, is the same. OUT/grid.png, .svg, .json and .npz hold what came of it.

    Args:
        spec: the recipe's name or file.
        overrides: settings by dotted key that are the same in all cells.
        axes: one or two; the first one's values are the rows.
        out: the folder above those of the runs.
        resume: go on with whatever part of this stands in the folder; finished cells are left as they are.
        device: "cpu", "cuda" or "cuda:1".
        quiet: show no progress.

    Returns:
        `validation` and `test` accuracy of each cell, and `alone`, of the run without a teacher, if there is one.

    Raises:
        InputError: a setting that the recipe does not know, or a folder that holds another run; nothing is trained
            before all of them were looked at.
        KeyboardInterrupt: Ctrl-C was pressed; `resume` goes on.
    """
    base = load_recipe(spec, overrides)
    asked = _recipes(spec, overrides, axes)
    if "teacher" in (base.objective.model_extra or {}):
        asked[ALONE] = base.model_copy(update={"objective": ObjectiveTable()})
    for name in asked:
        place.check_free(out / name, resume)
    data = load_splits(base.data, base.split_seed)
    found = {
        name: train(recipe, out=out / name, data=data, resume=resume, device=device, quiet=quiet)
        for name, recipe in asked.items()
    }
    result = summary(axes, found, base.name)
    result.save(out)
    return result


def summary(axes: Sequence[Axis], found: Mapping[str, TrainResult], recipe: str) -> ViewResult:
    """Return the tables and the picture of finished cells, by their folders' names in the order of the grid."""
    rows, columns = axes[0], axes[1] if len(axes) > 1 else None
    alone = found.get(ALONE)
    cells = [run for name, run in found.items() if name != ALONE]
    shape = (len(rows.texts), len(columns.texts) if columns else 1)
    arrays = {
        "validation": np.array([run.validation_accuracy for run in cells]).reshape(shape),
        "test": np.array([run.test_accuracy for run in cells]).reshape(shape),
    }
    if alone:
        arrays[ALONE] = np.array([alone.validation_accuracy, alone.test_accuracy])
    names = tuple(f"{columns.name} {text}" for text in columns.texts) if columns else ("",)
    beside = tuple(f"{rows.name} {text}" for text in rows.texts)
    words = [
        line for kind in ("validation", "test") for line in [*_table(f"{kind}, %", names, beside, arrays[kind]), ""]
    ]
    facts = {
        "recipe": recipe,
        "axes": {axis.key: list(axis.texts) for axis in axes},
        "cells": {
            name: {"validation": run.validation_accuracy, "test": run.test_accuracy} for name, run in found.items()
        },
    }
    return ViewResult(
        "grid",
        arrays,
        "\n".join([*words, *_best(found)]),
        _panels(arrays, beside, names),
        columns=3,
        side=2.0,
        facts=facts,
        kind="study",
        caption=f"{recipe}: accuracy in %, all on one scale, which does not begin at 0.",
    )


def _recipes(spec: str, overrides: Mapping[str, Any], axes: Sequence[Axis]) -> dict[str, Recipe]:
    cells = product(*([(axis, text) for text in axis.texts] for axis in axes))
    return {
        ",".join(f"{axis.name}-{text}" for axis, text in cell): load_recipe(
            spec, {**overrides, **{key: value for axis, text in cell for key, value in axis.setting(text).items()}}
        )
        for cell in cells
    }


def _axis(word: str) -> Axis:
    key, _, listed = (part.strip() for part in word.partition("="))
    texts = tuple(part.strip() for part in listed.split(","))
    if not key or not all(map(_VALUE.fullmatch, texts)):
        raise InputError(f"--grid needs a key and values, such as objective.temperature=1,4,12, not {word!r}.")
    if len(set(texts)) < len(texts):
        raise InputError(f"--grid {word} names a value twice; give each one once.")
    return Axis(key, texts)


def _table(corner: str, names: Sequence[str], beside: Sequence[str], values: NDArray[Any]) -> list[str]:
    rows = [[name, *(f"{100 * value:.2f}" for value in row)] for name, row in zip(beside, values, strict=True)]
    return table([corner, *names], rows)


def _best(found: Mapping[str, TrainResult]) -> list[str]:
    cells = {name: run for name, run in found.items() if name != ALONE}
    name = max(cells, key=lambda each: cells[each].validation_accuracy)
    best = cells[name]
    said = [
        f"best by validation: {name}, test {100 * best.test_accuracy:.2f} % of {best.test_count:,} images",
        "one seed a cell, so differences within its spread (--seeds) say nothing",
    ]
    if ALONE in found:
        said.append(f"without a teacher:  {ALONE}, test {100 * found[ALONE].test_accuracy:.2f} %")
        beaten = sum(run.test_accuracy > found[ALONE].test_accuracy for run in cells.values())
        said.append(f"{beaten} of {len(cells)} cells are above it on the test images")
    return said


def _panels(arrays: Mapping[str, NDArray[Any]], beside: tuple[str, ...], names: tuple[str, ...]) -> tuple[Panel, ...]:
    every = 100 * np.concatenate([values.ravel() for values in arrays.values()])
    low, high = float(every.min()), float(every.max())
    scale = Scale("unsigned", low, high if high > low else low + 1)
    below = names if any(names) else ()
    panels = [Panel(kind, 100 * arrays[kind], scale, beside, below) for kind in ("validation", "test")]
    if ALONE in arrays:
        panels.append(Panel("without a teacher", 100 * arrays[ALONE][:, None], scale, ("validation", "test")))
    return tuple(panels)
