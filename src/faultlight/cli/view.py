"""`faultlight view`: look inside a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from faultlight.catalogue import lookup
from faultlight.progress import inert
from faultlight.settings import build, listing

if TYPE_CHECKING:
    from faultlight.views._result import ViewResult

_MODEL = "zoo:NAME, FILE.py:factory, package.module:factory, or a folder made by train."


def view(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=_MODEL)],
    name: Annotated[str, typer.Option("--view", metavar="NAME", help="What to look at; the list is above.")],
    layer: Annotated[str | None, typer.Option(help="One layer, by the name that `--view layers` prints.")] = None,
    data: Annotated[
        str | None, typer.Option(help="digits, mnist, cifar10, or a path.  [default: the run's own, or digits]")
    ] = None,
    n: Annotated[int, typer.Option(min=1, help="How many images: the first N of the test split.")] = 4,
    weights: Annotated[Path | None, typer.Option(help="A file of weights for the model.")] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Allow MODEL to run its own Python code.")] = False,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="K=V", help="A setting of the view.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where PNG, SVG, npz and JSON go.  [default: views/NAME]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Look inside a model: its layers, kernels, activations, and what its answer rests on."""
    entry = lookup("views", name)
    chosen = build(entry, [*(settings or []), *([f"layer={layer}"] if layer else [])], "view")
    result = _look(chosen, model, data, n, weights, trust)
    # A table is printed; a file of it is only written when a folder was asked for.
    paths = result.save(out or Path("views") / entry.name) if result.panels or out else []
    if as_json:
        typer.echo(json.dumps(record(result, paths), allow_nan=False, ensure_ascii=False))
        return
    typer.echo("\n".join([result.text(), *(f"wrote {path}" for path in paths)]))


# The help page lists the views that stand in the folder, read from their source.
view.__doc__ = f"{view.__doc__}\n\n\b\n{listing('views')}"


def record(result: ViewResult, paths: list[Path]) -> dict[str, Any]:
    """Return what `--json` prints: the facts, the shapes of the arrays, and where the files are."""
    return {
        "schema": 1,
        "view": result.name,
        "text": result.text(),
        "facts": result.facts,
        "arrays": {name: list(values.shape) for name, values in result.arrays.items()},
        "files": [str(path) for path in paths],
    }


def _own_data(run: Path) -> str:
    """Return the data set that a run was trained on; digits where the model is no run."""
    from faultlight.train.folder import read_asked

    recipe = (read_asked(run) or {}).get("recipe") or {}
    return str(recipe.get("data", "digits"))


def _look(chosen: Any, model: str, data: str | None, n: int, weights: Path | None, trust: bool) -> ViewResult:
    from faultlight.cli._pages import check_classifier
    from faultlight.data.load import load_data
    from faultlight.models.load import load_model

    check_classifier(Path(model))
    images = load_data(data or _own_data(Path(model)), n=n)
    subject = load_model(model, weights=weights, classes=len(images.classes), shape=images.shape, trust=trust)
    result: ViewResult = chosen(subject, images)
    for note in subject.notes:
        typer.echo(inert(note.evidence), err=True)
    return result
