"""The table of runs as text for a terminal, as CSV, as JSON, and as one HTML page."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from markupsafe import Markup

from faultlight.errors import InputError, nearest
from faultlight.progress import inert
from faultlight.report.numbers import percent_digits
from faultlight.report.results import Group, Result, Spread, group
from faultlight.report.table import inert_cell

if TYPE_CHECKING:
    from rich.console import Console

SCHEMA = 1
_NOT_SHOWN = ("kin", "lot")


@dataclass(frozen=True)
class Column:
    """One column: its name in files and for sorting, its heading, and how its values are shown."""

    name: str
    title: str
    kind: Literal["text", "percent", "number", "seconds", "answer"] = "text"

    def value(self, row: Result) -> Any:
        """Return the row's value, unrounded."""
        return getattr(row, self.name)

    def text(self, row: Result) -> str:
        """Return the row's value as it is shown; nothing where it is not known."""
        value = self.value(row)
        if value is None or value == "":
            return ""
        if self.kind == "percent":
            return f"{100 * value:.{percent_digits(row.count or 0)}f} %"
        if self.kind == "answer":
            return "yes" if value else "NO"
        if self.kind == "seconds":
            return f"{value:,.1f}"
        if isinstance(value, float):
            return f"{value:.4f}"
        return f"{value:,}" if self.kind == "number" and self.name != "seed" else str(value)


COLUMNS = (
    Column("folder", "run"),
    Column("state", "state"),
    Column("kind", "kind"),
    Column("recipe", "recipe"),
    Column("data", "data"),
    Column("model", "model"),
    Column("seed", "seed", "number"),
    Column("epochs", "epochs", "number"),
    Column("best_epoch", "best", "number"),
    Column("validation", "validation", "percent"),
    Column("test", "test", "percent"),
    Column("count", "images", "number"),
    Column("loss", "held-out loss", "number"),
    Column("robust", "robust", "percent"),
    Column("threat", "under"),
    Column("certified", "certified", "percent"),
    Column("met", "met", "answer"),
    Column("seconds", "seconds", "seconds"),
    Column("commit", "commit"),
    Column("dirty", "dirty", "answer"),
    Column("device", "device"),
    Column("written", "written"),
)
FIGURES = ("validation", "test", "loss", "robust", "certified", "seconds")


def ordered(results: Sequence[Result], by: str, reverse: bool = False) -> list[Result]:
    """Return the rows ordered by a column; those that have no value there come last either way.

    Raises:
        InputError: there is no such column.
    """
    names = [column.name for column in COLUMNS]
    if by not in names:
        raise InputError(f"there is no column {by!r} to sort by; {nearest(by, names)}.")
    known = [row for row in results if getattr(row, by) not in (None, "")]
    unknown = [row for row in results if getattr(row, by) in (None, "")]
    return sorted(known, key=lambda row: getattr(row, by), reverse=reverse) + unknown


def spread_text(figure: Spread | None, name: str, count: int | None) -> str:
    """Return mean ± sample deviation, such as "98.53 ± 0.12 %"."""
    if figure is None:
        return ""
    if name == "seconds":
        return f"{figure.mean:,.1f} ± {figure.deviation:,.1f}"
    if name == "loss":
        return f"{figure.mean:.4f} ± {figure.deviation:.4f}"
    digits = max(percent_digits(count or 0), 2)
    return f"{100 * figure.mean:.{digits}f} ± {100 * figure.deviation:.{digits}f} %"


def remarks(found: Group) -> str:
    """Return what should be known of a group beside its figures."""
    said = [f"{found.repeated} repetitions of a seed left out"] if found.repeated else []
    said += [f"made at {found.commits} git states"] if found.commits > 1 else []
    return "; ".join(said)


def as_text(results: Sequence[Result], console: Console | None = None) -> str:
    """Return the tables of runs and of groups for a terminal, names made inert."""
    from rich.console import Console

    shown = [column for column in COLUMNS if any(column.text(row) for row in results)]
    # Where nobody looks at a terminal, a row stays one line.
    console = console or Console(no_color=True, width=None if _is_terminal() else 10_000)
    blocks = [_drawn(console, [column.title for column in shown], [_cells(shown, row) for row in results])]
    found = group(results)
    if found:
        heads, rows = _groups(found)
        blocks += ["Runs that differ in seed alone, mean ± sample deviation:", _drawn(console, heads, rows)]
    return "\n".join(blocks)


def as_csv(results: Sequence[Result]) -> str:
    """Return the runs as CSV with unrounded numbers, and text made inert for spreadsheets."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([column.name for column in COLUMNS])
    for row in results:
        writer.writerow([inert_cell(column.value(row)) for column in COLUMNS])
    return text.getvalue()


def as_record(results: Sequence[Result]) -> dict[str, Any]:
    """Return runs and groups as plain JSON."""
    return {"schema": SCHEMA, "runs": [_record(row) for row in results], "groups": [*map(_group, group(results))]}


def as_html(results: Sequence[Result]) -> str:
    """Return one page that holds both tables and asks for nothing; a heading, once pressed, sorts by its column."""
    from faultlight.report import assets
    from faultlight.report.environment import templates

    shown = [column for column in COLUMNS if any(column.text(row) for row in results)]
    heads, rows = _groups(group(results))
    script = assets.own_script(("theme.js", "results.js"))
    return (
        templates()
        .get_template("results.html")
        .render(
            columns=shown,
            results=results,
            heads=heads,
            groups=rows,
            style=Markup(assets.style()),
            own_script=Markup(script),
            policy=assets.policy(script),
        )
    )


def _groups(found: Sequence[Group]) -> tuple[list[str], list[list[str]]]:
    present = [name for name in FIGURES if any(getattr(each, name) for each in found)]
    heads = ["kind", "recipe", "data", "model", "n", "seeds", *present, "remarks"]
    rows = [
        [
            *(each.like.kind, each.like.recipe, each.like.data, each.like.model, str(len(each.seeds))),
            ", ".join(map(str, each.seeds)),
            *(spread_text(getattr(each, name), name, each.like.count) for name in present),
            remarks(each),
        ]
        for each in found
    ]
    return heads, rows


def _drawn(console: Console, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for place, head in enumerate(heads):
        right = any(row[place][:1].isdigit() for row in rows)
        table.add_column(head, justify="right" if right and head not in ("written", "seeds") else "left")
    for row in rows:
        table.add_row(*(Text(inert(cell)) for cell in row))
    with console.capture() as held:
        console.print(table)
    return "\n".join(line.rstrip() for line in held.get().splitlines()) + "\n"


def _cells(columns: Sequence[Column], row: Result) -> list[str]:
    short: dict[str, Callable[[str], str]] = {"commit": lambda commit: commit[:9]}
    return [short.get(column.name, str)(column.text(row)) for column in columns]


def _record(row: Result) -> dict[str, Any]:
    return {name: value for name, value in asdict(row).items() if name not in _NOT_SHOWN}


def _group(found: Group) -> dict[str, Any]:
    content = asdict(found)
    like = content.pop("like")
    return {key: like[key] for key in ("kind", "recipe", "data", "model")} | content


def _is_terminal() -> bool:
    import sys

    return sys.stdout.isatty()
