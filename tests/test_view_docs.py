"""The examples of docs/views.md give what they say."""

from __future__ import annotations

import doctest
from pathlib import Path

from faultlight.catalogue import catalogue

PAGE = Path(__file__).parents[1] / "docs" / "views.md"


def test_the_examples_of_the_page_hold() -> None:
    results = doctest.testfile(str(PAGE), module_relative=False)
    assert results.attempted > 5
    assert results.failed == 0


def test_the_page_lists_every_view_with_its_settings() -> None:
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    for entry in catalogue("views").values():
        settings = ", ".join(f"`{field.name}`" for field in entry.fields)
        assert any(
            row.startswith(f"| `{entry.name}` |") and row.endswith(f"| {settings} |".replace("|  |", "| |"))
            for row in rows
        )
