"""What verbs print on standard output, with nothing in it that a terminal would obey."""

from __future__ import annotations

from typing import Any

import typer


def print_text(text: str) -> None:
    """Print lines; control characters in names are spelled out."""
    from faultlight.progress import inert

    typer.echo("\n".join(inert(line) for line in text.split("\n")))


def print_json(record: dict[str, Any]) -> None:
    """Print one JSON object; NaN and infinity, which JSON does not have, are refused."""
    from json import dumps

    typer.echo(dumps(record, ensure_ascii=False, allow_nan=False))
