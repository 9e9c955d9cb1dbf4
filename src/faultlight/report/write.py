"""`write_report`: the records of a run become RUN/report.html; `write_csv`: its images become a table."""

from __future__ import annotations

from pathlib import Path

from faultlight.errors import InputError
from faultlight.files import write_text
from faultlight.report.page import render
from faultlight.report.reading import read_records
from faultlight.report.table import export_csv
from faultlight.report.training import render_training
from faultlight.report.training_records import TRAINING, read_run


def write_report(run: Path, beside: Path | None = None) -> Path:
    """Write RUN/report.html from the records in RUN, whole or not at all, and return its path.

    The page is one file of at most 3 MB that asks for nothing: no server, no network. It holds only what the records
    hold; what a run has not recorded, the page says is missing.

    Args:
        run: the folder that an audit wrote, or that training wrote.
        beside: another training run, whose curves and figures stand beside those of the first.

    Returns:
        The page's path.

    Raises:
        InputError: no run there, a record is damaged or of a newer schema, or the page cannot be written.
    """
    page = run / "report.html"
    trained = not (run / "verdict.json").is_file() and _is_training(run)
    if beside and not trained:
        raise InputError(f"{run} is no training run, and only of these two can stand side by side; leave --beside out.")
    write_text(page, _training_page(run, beside) if trained else render(read_records(run)))
    return page


def _is_training(run: Path) -> bool:
    return any((run / name).is_file() for name in (TRAINING, "records/history.json", "checkpoint.pt"))


def _training_page(run: Path, beside: Path | None) -> str:
    return render_training(read_run(run), read_run(beside) if beside else None)


def write_csv(run: Path, file: Path) -> Path:
    """Write the ledger's table of images as CSV, one row an image, and return the file's path.

    Class names stand beside the labels. Text that a spreadsheet would take for a formula gets a leading apostrophe;
    numbers are left as they are.

    Args:
        run: the folder that an audit wrote.
        file: where to write; an older file is replaced.

    Returns:
        `file`.

    Raises:
        InputError: no run there, no ledger in it, or the file cannot be written.
    """
    classes = read_records(run).verdict.data.classes
    ledger = run / "ledger.sqlite"
    if not ledger.is_file():
        raise InputError(f"{run} holds no ledger.sqlite, so there is no table to export; run again with --resume.")
    write_text(file, export_csv(ledger, classes))
    return file
