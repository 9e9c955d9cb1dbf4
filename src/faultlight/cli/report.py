"""`faultlight report`: the records of a run become one page."""

from __future__ import annotations

import json
import webbrowser
from pathlib import Path

import typer

_RUN = typer.Argument(help="The folder that an audit, or training, wrote.", show_default=False)
_OPEN = typer.Option(False, "--open", help="Open the page in the browser.")
_CSV = typer.Option(None, "--csv", help="Also export the table of images to this file, one row an image.")
_BESIDE = typer.Option(None, "--beside", help="A second training run, to be drawn beside the first.")
_JSON = typer.Option(False, "--json", help="Print one JSON object instead of the path.")


def report(
    run: Path = _RUN,
    beside: Path | None = _BESIDE,
    open_page: bool = _OPEN,
    csv_file: Path | None = _CSV,
    as_json: bool = _JSON,
) -> None:
    """Write the report of an audit, or of a finished run of any kind, and print where it is."""
    from faultlight.cli._pages import write_page_of
    from faultlight.progress import inert
    from faultlight.report.write import write_csv, write_report

    own = None if beside or csv_file else write_page_of(run)
    page = (own or write_report(run, beside)).resolve()
    table = write_csv(run, csv_file).resolve() if csv_file else None
    if as_json:
        typer.echo(
            json.dumps({"report": str(page), "bytes": page.stat().st_size, "csv": str(table) if table else None})
        )
    else:
        typer.echo("\n".join(inert(str(path)) for path in (page, table) if path))
    if open_page:
        webbrowser.open(page.as_uri())
