"""docs/attacks.md is what the source says, and the file that docs/adding-an-attack.md shows is all that one needs."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from faultlight.attacks._contract import Problem
from faultlight.catalogue import catalogue

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "adding-an-attack.md"
NAME = "random-signs"


def blocks(language: str) -> list[str]:
    """The fenced blocks of the page on adding an attack."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with the page's one file added, and of the tests with the page's test."""
    folder = tmp_path_factory.mktemp("house")
    attack, test = blocks("python")
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "src" / "faultlight", folder / "src" / "faultlight", ignore=ignore)
    for part in ("tests", "scripts", "docs"):
        shutil.copytree(ROOT / part, folder / part, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "src" / "faultlight" / "attacks" / "random_signs.py").write_text(attack, encoding="utf-8")
    (folder / "tests" / "test_attacks_random_signs.py").write_text(test, encoding="utf-8")
    return folder


def run(house: Path, *words: str) -> str:
    """Run Python on the copy, not on the package that is installed."""
    environment = {**os.environ, "PYTHONPATH": str(house / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *words],
        cwd=house,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_page_of_attacks_is_current() -> None:
    made = runpy.run_path(str(ROOT / "scripts" / "docs.py"))["attacks_page"]()
    assert (ROOT / "docs" / "attacks.md").read_text(encoding="utf-8") == made, "docs/attacks.md is old: run `make docs`"


def test_the_page_of_attacks_says_all_of_each() -> None:
    page = (ROOT / "docs" / "attacks.md").read_text(encoding="utf-8")
    for entry in catalogue("attacks").values():
        section = page.partition(f"\n## {entry.name}\n")[2].partition("\n## ")[0]
        assert entry.summary in section
        assert f"Source: {entry.source}" in section
        for field in entry.fields:
            assert re.search(rf"^\| `{field.name}` \| `{re.escape(field.default)}` \| \S.*\|$", section, re.MULTILINE)


def test_the_toy_is_in_the_help_after_one_file(house: Path) -> None:
    assert run(house, "-c", "import faultlight; print(faultlight.__file__)").startswith(str(house))
    said = run(house, "-m", "faultlight", "attack", "--help")
    assert f"{NAME}: Steps of the full radius in random directions." in said
    assert "--set steps=20" in said
    assert NAME not in "".join(catalogue("attacks")), "the toy is only in the copy"


def test_the_toy_is_in_the_docs_after_one_file(house: Path) -> None:
    run(house, "scripts/docs.py")
    page = (house / "docs" / "attacks.md").read_text(encoding="utf-8")
    section = page.partition(f"\n## {NAME}\n")[2].partition("\n## ")[0]
    assert "Steps of the full radius in random directions." in section
    assert "| `steps` | `20` | how many directions are tried for each image. |" in section
    assert "Source: none; an example" in section


def test_the_toy_attacks_after_one_file(house: Path) -> None:
    program = (
        "import faultlight as fl; images = fl.load_data('digits', n=200); subject = fl.load_model('zoo:digits-cnn');"
        "attack = fl.attacks.RandomSigns(steps=2);"
        "print(fl.attack(subject, images, attack, 'linf:1/255', fast=False).forwards.max().item())"
    )
    assert int(run(house, "-c", program)) == 4  # the clean look, two steps, and the judge's word on the last point


@pytest.mark.slow
def test_the_toy_is_held_to_the_invariants_after_one_file(house: Path) -> None:
    """And passes its own known-answer test, as the page shows it."""
    options = ("-p", "no:cacheprovider", "-k", f"{NAME} or random_signs", "-vv")
    files = ("tests/test_attacks_invariants.py", "tests/test_attacks_random_signs.py")
    said = run(house, "-m", "pytest", *options, *files)
    passed = re.findall(r"^\S+::(\S+) PASSED", said, flags=re.MULTILINE)
    assert "test_every_pixel_moves_by_the_full_radius" in passed
    invariants = {name.partition("[")[0] for name in passed if name.endswith(f"{NAME}]") or f"-{NAME}" in name}
    assert len(invariants) >= 12
    assert "SKIPPED" not in said


def test_the_page_names_what_a_problem_offers() -> None:
    text = PAGE.read_text(encoding="utf-8")
    table = text.partition("## What an attack is")[2].partition("\n## ")[0]
    named = set(
        re.findall(r"`(\w+)(?:\([\w, ]*\))?`", "\n".join(line for line in table.splitlines() if line[:1] == "|"))
    )
    offered = {name for name in [*vars(Problem), *Problem.__annotations__] if not name.startswith("_")}
    assert offered - {"key", "oracle", "bounds"} <= named


def test_the_entry_point_of_the_page_is_of_the_group_that_is_read() -> None:
    (block,) = blocks("toml")
    assert '[project.entry-points."faultlight.attacks"]' in block
