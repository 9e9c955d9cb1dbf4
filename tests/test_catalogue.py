"""Discovery by folder and by entry point, from source text alone: a file that may not be imported is still listed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import faultlight
from faultlight.catalogue import Field, catalogue, lazy_class, lookup
from faultlight.errors import InputError

EXPLODES = 'raise RuntimeError("listing must not import")\n'
BLUR = '''
from dataclasses import dataclass

class Helper:
    """Not the public thing of this file."""

@dataclass(frozen=True)
class BoxBlur:
    """Averages each pixel with its neighbours.

    A second paragraph that no list shows.
    """

    width: int = 3
    weights: "tuple[float, ...]" = (0.5, 0.5)
    strength: float

    def area(self) -> int:
        return self.width**2
'''


@pytest.fixture(autouse=True)
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package `faultlight.toys` of four files, and somebody else's package beside it, both in a temporary folder."""
    folder = tmp_path / "toys"
    folder.mkdir()
    (folder / "__init__.py").write_text(EXPLODES)
    (folder / "_shared.py").write_text(EXPLODES + "class Shared: ...\n")
    (folder / "plain.py").write_text(EXPLODES + "class Plain:\n    pass\n")
    (folder / "no_class_of_that_name.py").write_text(EXPLODES + "class Other: ...\n")
    (folder / "box_blur.py").write_text(EXPLODES + BLUR)
    monkeypatch.setattr(faultlight, "__path__", [*faultlight.__path__, str(tmp_path)])
    catalogue.cache_clear()
    yield folder
    catalogue.cache_clear()


def test_a_folder_is_listed_by_name_without_importing_it() -> None:
    assert list(catalogue("toys")) == ["box-blur", "plain"]


def test_an_entry_is_what_its_source_says() -> None:
    entry = catalogue("toys")["box-blur"]
    assert (entry.module, entry.class_name) == ("faultlight.toys.box_blur", "BoxBlur")
    assert entry.summary == "Averages each pixel with its neighbours."
    assert entry.fields == (
        Field("width", "int", "3"),
        Field("weights", "'tuple[float, ...]'", "(0.5, 0.5)"),
        Field("strength", "float", ""),
    )


def test_an_entry_without_a_docstring_has_an_empty_summary() -> None:
    assert catalogue("toys")["plain"].summary == ""


def test_loading_imports_the_file_and_gives_the_class(toys: Path) -> None:
    (toys / "__init__.py").write_text("")
    (toys / "box_blur.py").write_text(BLUR.replace("strength: float", "strength: float = 1.0"))
    assert catalogue("toys")["box-blur"].load()().area() == 9
    assert lazy_class("toys", "BoxBlur")(width=5).area() == 25


@pytest.mark.parametrize("name", ["box-blur", "BoxBlur"])
def test_an_entry_is_found_by_either_name(name: str) -> None:
    assert lookup("toys", name).class_name == "BoxBlur"


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"no toy named 'boxblur'; did you mean 'box-blur'\? known: box-blur, plain"):
        lookup("toys", "boxblur")


def test_an_unknown_class_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Blurred'"):
        lazy_class("toys", "Blurred")


def test_an_installed_package_joins_through_its_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    (site / "theirs-1.0.dist-info").mkdir(parents=True)
    (site / "theirs-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (site / "theirs-1.0.dist-info" / "entry_points.txt").write_text(
        "[faultlight.toys]\nsoft-focus = theirs_module:Lens\ngone = theirs_absent:Lens\n"
    )
    (site / "theirs_module.py").write_text(
        EXPLODES + 'class Lens:\n    """Blurs like a lens."""\n    radius: int = 2\n'
    )
    monkeypatch.syspath_prepend(str(site))
    assert list(catalogue("toys")) == ["box-blur", "plain", "soft-focus"]
    entry = lookup("toys", "soft-focus")
    assert (entry.module, entry.class_name, entry.summary) == ("theirs_module", "Lens", "Blurs like a lens.")
    assert entry.fields == (Field("radius", "int", "2"),)


def test_a_package_cannot_take_the_name_of_another_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    (site / "theirs-1.0.dist-info").mkdir(parents=True)
    (site / "theirs-1.0.dist-info" / "entry_points.txt").write_text("[faultlight.toys]\nplain = theirs_module:Lens\n")
    (site / "theirs_module.py").write_text("class Lens: ...\n")
    monkeypatch.syspath_prepend(str(site))
    with pytest.raises(
        InputError, match=r"two toys are named 'plain', in faultlight\.toys\.plain and in theirs_module"
    ):
        catalogue("toys")


def test_a_package_that_is_not_there_is_empty() -> None:
    assert catalogue("nowhere") == {}
