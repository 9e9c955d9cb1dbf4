"""`faultlight train`: a recipe in, a folder with a trained network out."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from faultlight.errors import InputError

if TYPE_CHECKING:
    from faultlight.train.recipe import Recipe
    from faultlight.train.result import TrainResult


def train(
    recipe: Annotated[str, typer.Argument(help="A name that `faultlight recipes` lists, or the path of a .toml file.")],
    data: Annotated[
        str | None, typer.Option(help="digits, mnist, cifar10 or a path, in place of the recipe's.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of initial weights, shuffles and augmentation.")] = None,
    seeds: Annotated[
        str, typer.Option(metavar="N|N,N,…", help="Train with the first N seeds, or with these, each in OUT/seed-N.")
    ] = "",
    search: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=RANGE", help="Search this key: log:1e-4..1e-1, 0.1..0.9 or 64|128; needs Optuna."),
    ] = None,
    trials: Annotated[int, typer.Option(help="How many runs a search is made of, each in OUT/trial-N.", min=1)] = 20,
    grid: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=V,V,…", help="Train with each of these values, or pairs of two keys, in OUT/CELL."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:1.")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="The run's folder; runs/RECIPE by default.")] = None,
    keep_epochs: Annotated[
        str, typer.Option(metavar="N,N,…", help="Keep the weights after these epochs too, 0 for the initial ones.")
    ] = "",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any key of the recipe, such as optimiser.lr=0.01."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object, and no progress.")] = False,
) -> None:
    """Train a network by a recipe, and say whether it reached its target."""
    from faultlight.train.launch import launched
    from faultlight.train.recipe import load_recipe, parse_settings
    from faultlight.train.steps_recipe import kind_of

    with launched(device) as ranks:
        kind = kind_of(recipe)
        if kind != "classifier":
            beside = {"torchrun": ranks, "--epochs": epochs is not None, "--seeds": seeds, "--search": search}
            _refuse(beside | {"--grid": grid, "--keep-epochs": keep_epochs}, f"a recipe of kind {kind!r}")
            verb = import_module(f"faultlight.cli.{kind}")
            verb.train(
                recipe, data=data, seed=seed, device=device, out=out, resume=resume, settings=settings, json=json
            )
            return

        flags: dict[str, Any] = {"data": data, "epochs": epochs, "seed": seed}
        overrides = parse_settings(settings or []) | {key: value for key, value in flags.items() if value is not None}
        chosen = load_recipe(recipe, overrides)
        kept = _epochs(keep_epochs)
        folder = out or Path("runs") / chosen.name
        if grid:
            _refuse({"torchrun": ranks, "--search": search, "--seeds": seeds, "--keep-epochs": kept}, "--grid")
            _grid(recipe, overrides, grid, folder, resume, device, json)
            return
        if search:
            _refuse({"torchrun": ranks, "--seeds": seeds, "--keep-epochs": kept}, "--search")
            _search(recipe, overrides, search, trials, folder, resume, device, json)
            return
        if seeds:
            _refuse({"torchrun": ranks, "--seed": seed is not None, "--keep-epochs": kept}, "--seeds")
            _several(chosen, seeds, folder, resume, device, json)
            return

        # The recipe is checked first: a typo is answered before PyTorch has been loaded.
        from faultlight.train.ranks import ALONE
        from faultlight.train.run import train

        among = ranks or ALONE
        result = train(chosen, out=folder, resume=resume, device=device, quiet=json, keep_epochs=kept, ranks=among)
        if among.first:
            typer.echo(_as_json(result) if json else _as_text(result))


def _refuse(given: dict[str, Any], beside: str) -> None:
    for name, is_given in given.items():
        if is_given:
            raise InputError(f"{name} cannot be given beside {beside}; leave one of them out.")


def _several(recipe: Recipe, seeds: str, folder: Path, resume: bool, device: str, json: bool) -> None:
    from faultlight.report import results_table as table
    from faultlight.report.results_reading import read_results
    from faultlight.train.several import parse_seeds, seed_folder, train_seeds

    numbers = parse_seeds(seeds)
    train_seeds(recipe, numbers, out=folder, resume=resume, device=device, quiet=json)
    rows = read_results([seed_folder(folder, number) for number in numbers])
    if json:
        from json import dumps

        typer.echo(dumps(table.as_record(rows), ensure_ascii=False, allow_nan=False))
        return
    answers = [row.met for row in rows if row.met is not None]
    target = f"target met by {sum(answers)} of {len(answers)} runs" if answers else "no target set"
    typer.echo(f"{table.as_text(rows)}\n{target}")


def _search(
    recipe: str,
    overrides: dict[str, Any],
    words: list[str],
    trials: int,
    folder: Path,
    resume: bool,
    device: str,
    json: bool,
) -> None:
    from dataclasses import asdict
    from json import dumps

    from faultlight.progress import inert
    from faultlight.train.search import parse_space, search

    found = search(
        recipe, overrides, parse_space(words), trials=trials, out=folder, resume=resume, device=device, quiet=json
    )
    if json:
        typer.echo(dumps(asdict(found) | {"folder": str(found.folder)}, ensure_ascii=False))
        return
    again = " ".join(f"--set {key}={value}" for key, value in found.settings.items())
    lines = [
        f"best of {found.trials}       {inert(str(found.folder))}"
        + (f" ({found.failed} failed)" if found.failed else ""),
        f"validation      {100 * found.validation_accuracy:.2f} %, by which it was chosen, so this flatters",
        f"test accuracy   {100 * found.test_accuracy:.2f} %",
        f"again           faultlight train {inert(recipe)} {inert(again)}",
    ]
    typer.echo("\n".join(lines))


def _grid(
    recipe: str, overrides: dict[str, Any], words: list[str], folder: Path, resume: bool, device: str, json: bool
) -> None:
    from faultlight.train.grid import parse_grid, train_grid

    found = train_grid(recipe, overrides, parse_grid(words), out=folder, resume=resume, device=device, quiet=json)
    if json:
        from json import dumps

        typer.echo(dumps({"schema": 1, "folder": str(folder), **found.facts}, ensure_ascii=False))
        return
    from faultlight.progress import inert

    typer.echo(f"{found.text()}\nwritten to      {inert(str(folder))}, the picture is grid.png")


def _epochs(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() for part in parts):
        raise InputError(f"--keep-epochs needs whole numbers with commas between, such as 0,1,2,5, not {text!r}.")
    return [int(part) for part in parts]


def _as_json(result: TrainResult) -> str:
    from dataclasses import asdict
    from json import dumps

    return dumps(asdict(result) | {"folder": str(result.folder)}, ensure_ascii=False)


def _as_text(result: TrainResult) -> str:
    from faultlight.progress import inert

    right = round(result.test_accuracy * result.test_count)
    lines = [
        f"test accuracy   {100 * result.test_accuracy:.2f} % ({right:,} of {result.test_count:,} images, float32)",
        f"checkpoint      {_checkpoint(result)}",
        *(f"guard           {inert(found)}" for found in result.guards),
        f"target          {_verdict(result)}",
        f"training        {result.seconds:.0f} s",
        f"written to      {inert(str(result.folder))}",
        f"curves          faultlight report {inert(str(result.folder))}",
        f"next            faultlight audit {inert(str(result.folder))}",
    ]
    if result.robust_accuracy is not None:
        lines.insert(
            1, f"robust          {100 * result.robust_accuracy:.2f} % (see records/training.json for the attack)"
        )
    return "\n".join(lines)


def _checkpoint(result: TrainResult) -> str:
    chosen = result.validation_accuracy if result.chosen_at is None else result.chosen_at
    words = f"epoch {result.best_epoch}, chosen by its {result.chosen_by} of {100 * chosen:.2f} %"
    clean = f" ({100 * result.validation_accuracy:.2f} % on the same images as they are)"
    return words if result.chosen_by == "validation accuracy" else words + clean


def _verdict(result: TrainResult) -> str:
    if result.met is None:
        return "none set"
    due = [
        f"{100 * figure:.2f} %{of}"
        for figure, of in ((result.target, ""), (result.robust_target, " robust"))
        if figure is not None
    ]
    return f"at least {' and '.join(due)}: {'met' if result.met else 'NOT met'}"
