"""`faultlight runs`: what many runs came to, in one table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from faultlight.errors import InputError

if TYPE_CHECKING:
    from faultlight.report.results import Result


def runs(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Folders in and below which runs lie; runs/ by default.")
    ] = None,
    sort: Annotated[str, typer.Option(metavar="COLUMN", help="Order by this column of the CSV file.")] = "",
    reverse: Annotated[bool, typer.Option("--reverse", help="The largest first.")] = False,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Also write the table to this CSV file.")] = None,
    html_file: Annotated[Path | None, typer.Option("--html", help="Also write it as one HTML page.")] = None,
    tensorboard: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the training curves as event files for TensorBoard.")
    ] = None,
    wandb: Annotated[
        str, typer.Option(metavar="PROJECT", help="Log the training curves to a project of Weights & Biases.")
    ] = "",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the table.")] = False,
) -> None:
    """List training runs and audits with their figures, and what runs that differ in seed alone have in common."""
    from faultlight.report import results_table as table
    from faultlight.report.results_reading import read_results

    found = read_results(folders or [Path("runs")])
    rows = table.ordered(found, sort or "folder", reverse) if sort or reverse else found
    written = [
        _write(path, make(rows)) for path, make in ((csv_file, table.as_csv), (html_file, table.as_html)) if path
    ]
    written += _curves(rows, tensorboard, wandb)
    if json:
        from json import dumps

        typer.echo(dumps(table.as_record(rows), ensure_ascii=False, allow_nan=False))
        return
    typer.echo("\n".join([table.as_text(rows), *written]).rstrip("\n"))


def _curves(rows: list[Result], tensorboard: Path | None, wandb: str) -> list[str]:
    """Hand on the curves of the training runs that have finished an epoch, and say where they went."""
    if not (tensorboard or wandb):
        return []
    from faultlight.progress import inert
    from faultlight.train import writers

    runs = [Path(row.folder) for row in rows if writers.has_curves(Path(row.folder))]
    if not runs:
        raise InputError("none of these runs has curves; train an epoch at least.")
    said = (
        [f"wrote {inert(str(place))}" for place in writers.write_tensorboard(runs, tensorboard)] if tensorboard else []
    )
    return said + (
        [f"logged {inert(name)} to {inert(wandb)}" for name in writers.write_wandb(runs, wandb)] if wandb else []
    )


def _write(path: Path, content: str) -> str:
    from faultlight.files import write_text
    from faultlight.progress import inert

    write_text(path, content)
    return f"wrote {inert(str(path))}"
