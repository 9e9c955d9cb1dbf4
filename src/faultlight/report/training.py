"""The page of a training run: its figures, learning curves, mistakes, calibration and layers, in one HTML file."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from faultlight.progress import inert
from faultlight.report import assets, provenance
from faultlight.report.charts.common import Spec
from faultlight.report.charts.confusion import confusion_chart
from faultlight.report.charts.learning import learning_chart
from faultlight.report.charts.reliability import reliability_chart
from faultlight.report.environment import templates
from faultlight.report.numbers import Numbers, percent_digits
from faultlight.report.page import SIZE_LIMIT
from faultlight.report.pictures import Picture, photo
from faultlight.report.training_figures import figures, first_above
from faultlight.report.training_records import Run

_SCRIPTS = ("theme.js", "sections.js", "charts.js", "gallery.js")
# A matrix of more classes would fill the page with zeros; it is in the run's records.
_EMBEDDED_CLASSES = 100
_ACCURACIES = ("validation_accuracy", "validation_robust_accuracy")
_LOSSES = ("train_loss", "validation_loss", "validation_robust_loss")


@dataclass(frozen=True)
class Worst:
    """One of the images with the highest loss, drawn, and its place among them."""

    index: int
    picture: Picture
    label: int
    prediction: int


def render_training(run: Run, beside: Run | None = None) -> str:
    """Return the page of a training run, another run's curves and figures beside its own where one is given."""
    raw = _raw(run, beside)
    classes = run.tested.classes if run.tested else [str(label) for label in range(len(run.training.confusion))]
    environment = templates()
    environment.globals |= {
        "number": Numbers(raw, percent_digits(run.training.test_count)),
        "class_name": lambda label: classes[label] if 0 <= label < len(classes) else f"class {label}",
    }
    charts = _charts(run, beside, raw["figures"], [inert(name) for name in classes])
    context = _context(run, beside, raw, classes) | _scripts(charts)
    shell = environment.get_template("training.html")
    room = SIZE_LIMIT - len(shell.render(**context, worst=[]).encode())
    return shell.render(**context, worst=list(_drawn(run, raw["figures"], room)))


def _raw(run: Run, beside: Run | None) -> dict[str, Any]:
    """Return everything the page shows a number of; it carries the same."""
    found = {"figures": figures(run), **{name: dict(record) for name, record in run.raw.items()}}
    if len(run.training.confusion) > _EMBEDDED_CLASSES:
        del found["training"]["confusion"]
    if beside:
        both = {"training": dict(beside.raw["training"]), "figures": figures(beside)}
        del both["training"]["confusion"]
        found["beside"] = both | {"first": first_above([run.training, beside.training])}
    return found


def _context(run: Run, beside: Run | None, raw: dict[str, Any], classes: list[str]) -> dict[str, Any]:
    recipe = run.asked.get("recipe", {})
    return {
        "run": run,
        "training": run.training,
        "figures": raw["figures"],
        "recipe": recipe,
        "names": _names(run, beside) if beside else [],
        "beside": beside,
        "first": raw["beside"]["first"] if beside else [],
        "differences": differences(run.asked, beside.asked) if beside else [],
        "asked": list(_flat(recipe)),
        "classes": classes,
        "objective": _objective(recipe),
        "command": provenance.command_line(run.stamp),
        "audit": shlex.join(["faultlight", "audit", str(run.folder)]),
        "facts": provenance.training_facts(run.stamp),
        "stages": provenance.stages(run.stamp),
        "embedded": assets.json_block(raw),
    }


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return what two runs were asked differently: the dotted key, and the value of each; fingerprints left out."""
    first, second = (dict(_flat({key: value for key, value in each.items() if key != "data"})) for each in (one, other))
    keys = [*first, *(key for key in second if key not in first)]
    same = ("recipe.name", "recipe.title", "numerics.threads")
    return [
        (key, str(first.get(key, "not set")), str(second.get(key, "not set")))
        for key in keys
        if key not in same and first.get(key) != second.get(key)
    ]


def _names(run: Run, beside: Run) -> list[str]:
    names = [inert(str(each.folder.name or each.folder)) for each in (run, beside)]
    return names if names[0] != names[1] else [inert(str(each.folder)) for each in (run, beside)]


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _objective(recipe: Mapping[str, Any]) -> str:
    """Return what was minimised: a table in recipes, a word in those of older versions."""
    found = recipe.get("objective", "standard")
    return str(found.get("name", "standard") if isinstance(found, Mapping) else found)


def _charts(run: Run, beside: Run | None, found: dict[str, Any], classes: list[str]) -> dict[str, Spec]:
    runs = dict(zip(_names(run, beside), (run, beside), strict=True)) if beside else {run.training.recipe: run}
    rows = {name: each.training.epochs for name, each in runs.items()}
    best = {name: each.training.best_epoch for name, each in runs.items()}
    charts = {
        "accuracy": learning_chart(rows, _ACCURACIES, "accuracy on validation images", best, ".1%"),
        "loss": learning_chart(rows, _LOSSES, "loss", best),
        "rate": learning_chart(rows, ("lr",), "learning rate", best),
        "confusion": confusion_chart(run.training.confusion, classes),
        "reliability": reliability_chart(found["calibration"]) if "calibration" in found else None,
    }
    return {name: spec for name, spec in charts.items() if spec}


def _scripts(charts: dict[str, Spec]) -> dict[str, Any]:
    runtime, own = assets.chart_runtime(), assets.own_script(_SCRIPTS)
    return {
        "charts": charts,
        "chart_block": assets.json_block(charts),
        "runtime": Markup(runtime),
        "own_script": Markup(own),
        "style": Markup(assets.style()),
        "policy": assets.policy(runtime, own),
    }


def _drawn(run: Run, found: dict[str, Any], room: int) -> Iterator[Worst]:
    """Yield the images with the highest loss until the page has no room for the next."""
    if run.answers is None:
        return
    for index, item in enumerate(found.get("worst", [])):
        picture = photo(run.answers.worst_x[index])
        room -= len(picture.uri) + 1500
        if room < 0:
            return
        yield Worst(index, picture, item["label"], item["prediction"])
