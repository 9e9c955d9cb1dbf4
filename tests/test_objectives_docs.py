"""docs/objectives.md is made from the objectives' own source, and names each of them."""

from __future__ import annotations

import runpy
from pathlib import Path

from faultlight.catalogue import catalogue

ROOT = Path(__file__).parents[1]


def test_the_page_is_what_the_source_says() -> None:
    made = runpy.run_path(str(ROOT / "scripts" / "docs.py"))["objectives_page"]()
    page = (ROOT / "docs" / "objectives.md").read_text(encoding="utf-8")
    assert made == page, "docs/objectives.md is old: run `make docs`"


def test_every_objective_states_its_source_and_its_settings() -> None:
    for entry in catalogue("train.objectives").values():
        assert entry.source, entry.name
        assert all(f"{field.name}: " in entry.doc for field in entry.fields), entry.name
