"""Curves of runs for TensorBoard and Weights & Biases, written from the records and never from within the loop.

A run that goes on can be written again at any time: `records/history.json` grows by a row an epoch.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from faultlight.errors import InputError
from faultlight.files import read_json
from faultlight.train.folder import HISTORY, RECORD, read_asked
from faultlight.train.recipe import flatten

_FIGURES = ("test_accuracy", "validation_accuracy", "best_epoch", "seconds", "held_out_loss")


def write_tensorboard(runs: Sequence[Path], out: Path) -> list[Path]:
    """Write an event file a run, in a folder of OUT named after the run, and return those folders.

    An older event file of the same run is replaced, so that no curve is drawn twice.

    Raises:
        InputError: the package tensorboard is missing, a run's folder holds no curves, or it names itself like another.
    """
    board = _need("torch.utils.tensorboard", "tensorboard")
    places = [out / name for name in _names(runs)]
    for run, place in zip(runs, places, strict=True):
        rows, figures = _curves(run), _figures(run)
        for old in place.glob("events.out.tfevents.*"):
            old.unlink()
        with board.SummaryWriter(str(place)) as writer:
            for step, values in rows:
                for name, value in values.items():
                    writer.add_scalar(name, value, step)
            for name, value in figures.items():
                writer.add_scalar(f"final/{name}", value, rows[-1][0] if rows else 0)
            writer.add_text("asked", _as_table(read_asked(run) or {}), 0)
    return places


def write_wandb(runs: Sequence[Path], project: str) -> list[str]:
    """Log every run to a project of Weights & Biases, under its folder's name, and return the names.

    Where it goes, and whether it goes anywhere, is for that package's own settings: WANDB_MODE=offline keeps it here.

    Raises:
        InputError: the package wandb is missing, or a run's folder holds no curves.
    """
    wandb = _need("wandb", "wandb")
    names = _names(runs)
    for run, name in zip(runs, names, strict=True):
        rows, figures = _curves(run), _figures(run)
        logged = wandb.init(project=project, name=name, config=flatten(read_asked(run) or {}), reinit=True)
        for step, values in rows:
            logged.log(values, step=step)
        logged.summary.update(figures)
        logged.finish()
    return names


def has_curves(run: Path) -> bool:
    """Return whether a run has finished an epoch."""
    return any((run / name).is_file() for name in (RECORD, HISTORY))


def _need(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise InputError(
            f"the package {package} is not installed; install it with pip install 'faultlight[{package}]'."
        ) from None


def _names(runs: Sequence[Path]) -> list[str]:
    """Return a name a run: the last parts of its path, as many as tell all runs apart."""
    paths = [run.resolve().parts[1:] for run in runs]
    for count in range(1, max(map(len, paths), default=1) + 1):
        names = ["-".join(parts[-count:]) for parts in paths]
        if len(set(names)) == len(names):
            return names
    raise InputError("two of the runs are one folder; give each once.")


def _curves(run: Path) -> list[tuple[int, dict[str, float]]]:
    if not has_curves(run):
        raise InputError(
            f"{run} holds neither {RECORD} nor {HISTORY}, so there are no curves; train an epoch at least."
        )
    path = run / RECORD if (run / RECORD).is_file() else run / HISTORY
    record = read_json(path)
    rows = (record.get("epochs") or record.get("steps")) if isinstance(record, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path} holds no rows of epochs or steps; train again.")
    return [(int(row.get("epoch", row.get("step", place + 1))), dict(_numbers(row))) for place, row in enumerate(rows)]


def _figures(run: Path) -> dict[str, float]:
    record = read_json(run / RECORD) if (run / RECORD).is_file() else {}
    return {name: value for name, value in _numbers(record) if name in _FIGURES}


def _numbers(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in row.items():
        if type(value) in (int, float) and name not in ("epoch", "step"):
            yield name, float(value)


def _as_table(asked: Mapping[str, Any]) -> str:
    # Four blanks before a line make it text that Markdown leaves as it is.
    return "\n".join(f"    {key} = {value!r}" for key, value in flatten(asked).items())
