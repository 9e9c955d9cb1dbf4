"""One page for a generator's run, or for the study of collapse: drawings over time, curves, classes, measures."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from faultlight.errors import InputError
from faultlight.files import read_json, write_text
from faultlight.progress import inert
from faultlight.report import assets
from faultlight.report.charts.common import Spec
from faultlight.report.charts.game import classes_chart, gradients_chart, scores_chart
from faultlight.report.environment import templates

STUDY, TRAINING, MEASURES = "study.json", "records/training.json", "records/measure.json"
# A film of noise does not compress; a page that tries to hold it would be slow to open.
_LARGEST_FILM = 1_200_000
_FLOOR = 1e-6
_PROBABILISTIC = ("minimax", "non-saturating")
_SCRIPTS = ("theme.js", "charts.js")


@dataclass(frozen=True)
class Run:
    """One run as the page shows it.

    Args:
        name: how it is called.
        training: records/training.json.
        measured: records/measure.json, or None where it was not measured.
        strip: the film strip's address, a row a frame.
        pictures: further pictures by what they show.
    """

    name: str
    training: Mapping[str, Any]
    measured: Mapping[str, Any] | None
    strip: str
    pictures: Mapping[str, str]


@dataclass(frozen=True)
class Group:
    """Runs that differ in seed alone."""

    key: str
    title: str
    runs: tuple[Run, ...]


def write_gan_page(folder: Path) -> Path:
    """Write the page of a run or of a study into its folder, report.html, and return its path.

    Raises:
        InputError: the folder holds neither, or a record is missing or damaged.
    """
    page = folder / "report.html"
    write_text(page, render_gan(folder))
    return page


def render_gan(folder: Path) -> str:
    """Return the page as text, whole: it asks for nothing."""
    study = read_json(folder / STUDY) if (folder / STUDY).is_file() else None
    if study is None and not (folder / TRAINING).is_file():
        raise InputError(f"{folder} holds neither {STUDY} nor {TRAINING}; give a folder of `faultlight gan`.")
    groups = _study_groups(folder, study) if study else (Group("run", "", (_run(folder, folder.name, alone=True),)),)
    charts = _charts(groups)
    runtime, own = assets.chart_runtime(), assets.own_script(_SCRIPTS)
    environment = templates()
    return environment.get_template("gan.html").render(
        study=study,
        groups=groups,
        charts=charts,
        chart_block=assets.json_block(charts),
        runtime=Markup(runtime),
        own_script=Markup(own),
        style=Markup(assets.style()),
        policy=assets.policy(runtime, own),
        collapsed=_collapsed(study),
    )


def _study_groups(folder: Path, study: Mapping[str, Any]) -> tuple[Group, ...]:
    cells: dict[str, list[Run]] = {}
    for row in study["rows"]:
        # A folder's name within the study, never a path out of it.
        found = _run(folder / Path(row["folder"]).name, f"seed {row['seed']}", alone=False)
        cells.setdefault(row["cell"], []).append(found)
    return tuple(Group(f"cell{i}", cell, tuple(runs)) for i, (cell, runs) in enumerate(cells.items()))


def _run(folder: Path, name: str, alone: bool) -> Run:
    training = read_json(folder / TRAINING)
    if not isinstance(training, dict) or training.get("kind") != "gan":
        raise InputError(f"{folder} holds no run of a generator; give a folder that `faultlight gan train` wrote.")
    measured = read_json(folder / MEASURES) if (folder / MEASURES).is_file() else None
    shown = {"the film": "film.png", "samples": "samples.png", "interpolation": "interpolation.png"}
    shown |= {"nearest training images": "nearest.png"}
    pictures = {what: uri for what, file in shown.items() if (uri := _picture(folder / file))} if alone else {}
    return Run(name, training, measured, _picture(folder / "film-strip.png"), pictures)


def _picture(path: Path) -> str:
    if not path.is_file() or path.stat().st_size > _LARGEST_FILM:
        return ""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _charts(groups: Sequence[Group]) -> dict[str, Spec]:
    charts: dict[str, Spec] = {}
    domain, most = _gradient_domain(groups), _most(groups)
    for group in groups:
        rows = {run.name: run.training["steps"] for run in group.runs}
        counts = {run.name: _counts(run) for run in group.runs if _counts(run)}
        charts[f"scores-{group.key}"] = scores_chart(rows, group.runs[0].training["loss"] in _PROBABILISTIC)
        charts[f"gradients-{group.key}"] = gradients_chart(rows, domain)
        if counts:
            names = _names(group.runs[0], len(next(iter(counts.values()))))
            charts[f"classes-{group.key}"] = classes_chart(counts, names, most)
    return charts


def _counts(run: Run) -> list[int]:
    found: list[int] = run.measured["drawn"]["modes"].get("counts", []) if run.measured else []
    return found


def _names(run: Run, count: int) -> list[str]:
    """Return what the classes are called; numbers for stacks, and for runs that were made before they said."""
    known = run.training.get("classes", [])
    return [inert(name) for name in known] if len(known) == count else [str(label) for label in range(count)]


def _most(groups: Sequence[Group]) -> float:
    """Return the largest share of a class in any run: what is compared has one scale."""
    shares = [max(counts) / max(sum(counts), 1) for group in groups for run in group.runs if (counts := _counts(run))]
    return math.ceil(10 * max(shares, default=1.0)) / 10


def _gradient_domain(groups: Sequence[Group]) -> tuple[float, float]:
    keys = ("generator_gradient", "discriminator_gradient")
    values = [
        max(row[key], _FLOOR) for group in groups for run in group.runs for row in run.training["steps"] for key in keys
    ]
    return 10 ** math.floor(math.log10(min(values))), 10 ** math.ceil(math.log10(max(values) * 1.01))


def _collapsed(study: Mapping[str, Any] | None) -> Mapping[str, tuple[int, int]]:
    """Return for each cell how many of its runs set off the alarm, of how many."""
    counts: dict[str, tuple[int, int]] = {}
    for row in study["rows"] if study else []:
        alarms, runs = counts.get(row["cell"], (0, 0))
        counts[row["cell"]] = (alarms + bool(row["alarm"]), runs + 1)
    return counts
