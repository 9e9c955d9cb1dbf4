"""`faultlight study`: what many images or models have in common."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from faultlight.catalogue import lookup
from faultlight.errors import InputError
from faultlight.progress import inert
from faultlight.settings import build, listing
from faultlight.threat import parse_threat, usual_threat

if TYPE_CHECKING:
    from faultlight.data.images import Images
    from faultlight.models.subject import Subject
    from faultlight.views._result import ViewResult

_MODELS = "One or more of zoo:NAME, FILE.py:factory, package.module:factory, or a folder made by train."


def study(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Which study; the list is above.")],
    models: Annotated[list[str], typer.Argument(metavar="MODEL…", help=_MODELS)],
    data: Annotated[str, typer.Option(help="digits, mnist, cifar10, or a path.")] = "digits",
    n: Annotated[int, typer.Option(min=1, help="How many images: the first N of the test split.")] = 100,
    threat: Annotated[
        str | None, typer.Option(help="The ball: linf:8/255, l2:0.5.  [default: the data set's usual one]")
    ] = None,
    weights: Annotated[
        list[Path] | None, typer.Option(help="A file of weights; given once for each model, in their order.")
    ] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="K=V", help="A setting of the study.")] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Allow MODEL to run its own Python code.")] = False,
    seed: Annotated[int, typer.Option(help="The seed of every random number.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="Where PNG, SVG, npz and JSON go.  [default: studies/NAME]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Look at many images or models together: what transfers, what is universal, how accuracy falls with ε."""
    entry = lookup("studies", name)
    chosen = build(entry, settings or [], "study")
    ball = parse_threat(threat or usual_threat(data))
    if weights and len(weights) != len(models):
        raise InputError(f"{len(models)} models were named and {len(weights)} files of weights; give one for each.")

    from faultlight.data.load import load_data
    from faultlight.studies._case import Case

    images = load_data(data, n=n)
    fitting = load_data(data, split="train", n=chosen.fit) if hasattr(chosen, "fit") else None
    for note in images.notes:
        typer.echo(f"note: {inert(note)}", err=True)
    subjects = _load(models, weights or [], images, trust, device, seed)
    result = chosen(Case(subjects, images, ball, seed, fitting, quiet=False))
    paths = result.save(out or Path("studies") / entry.name)
    if as_json:
        typer.echo(json.dumps(record(result, paths), allow_nan=False, ensure_ascii=False))
        return
    typer.echo("\n".join([result.text(), *(f"wrote {path}" for path in paths)]))


# The help page lists the studies that stand in the folder, read from their source.
study.__doc__ = f"{study.__doc__}\n\n\b\n{listing('studies')}"


def record(result: ViewResult, paths: list[Path]) -> dict[str, Any]:
    """Return what `--json` prints: the facts, the shapes of the arrays, and where the files are."""
    return {
        "schema": 1,
        "study": result.name,
        "text": result.text(),
        "facts": result.facts,
        "arrays": {name: list(values.shape) for name, values in result.arrays.items()},
        "files": [str(path) for path in paths],
    }


def _load(
    models: list[str], weights: list[Path], images: Images, trust: bool, device: str, seed: int
) -> dict[str, Subject]:
    from faultlight.models.load import load_model

    subjects: dict[str, Subject] = {}
    for place, model in enumerate(models):
        subject = load_model(
            model,
            weights=weights[place] if weights else None,
            classes=len(images.classes),
            shape=images.shape,
            trust=trust,
            device=device,
            seed=seed,
        )
        for note in subject.notes:
            typer.echo(inert(note.evidence), err=True)
        name = weights[place].stem if weights else subject.name
        subjects[name if name not in subjects else f"{name} ({place + 1})"] = subject
    return subjects
