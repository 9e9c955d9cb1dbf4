"""docs/choosing-an-attack.md: its table is what the source says, and what it names is there."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from faultlight.catalogue import catalogue, lookup

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "choosing-an-attack.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "scripts" / "docs.py"))


@pytest.mark.slow
def test_the_table_is_current(made: dict[str, Any]) -> None:
    assert made["choosing_page"](PAGE) == PAGE, "docs/choosing-an-attack.md is old: run `make docs`"


def test_every_attack_has_its_row() -> None:
    for name in catalogue("attacks"):
        assert len(re.findall(rf"^\| \[`{name}`\]\(attacks\.md#{name}\) \|", PAGE, re.MULTILINE)) == 1


@pytest.mark.parametrize(
    ("name", "passes"),
    [
        ("fgsm", (1, 1)),
        ("pgd", (40, 40)),
        ("apgd", (101, 101)),
        ("uniform-noise", (10, 0)),
        ("square", (5000, 0)),
        ("one-pixel", (40_000, 0)),
        ("every-pixel", None),
    ],
)
def test_costs_are_those_of_the_papers(made: dict[str, Any], name: str, passes: tuple[int, int] | None) -> None:
    assert made["cost"](lookup("attacks", name)) == passes


def test_what_the_questions_name_is_there() -> None:
    """Attacks, studies and settings between backticks in the table of questions."""
    questions = PAGE.partition("| the question |")[2].partition("\n\n")[0]
    words = set(re.findall(r"`([a-z]+(?:-[a-z]+)*)`", questions))
    assert words <= {*catalogue("attacks"), *catalogue("studies")}
    settings = set(re.findall(r"(\w+)=\w+", " ".join(re.findall(r"`([^`]*=[^`]*)`", questions))))
    assert settings <= {field.name for field in lookup("attacks", "apgd").fields}
