"""Settings written as K=V: every type an attack or a view may want, and every way to write them wrongly."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

import faultlight
from faultlight.attacks.pgd import PGD
from faultlight.catalogue import catalogue, lookup
from faultlight.errors import InputError
from faultlight.settings import build, check_settings, listing, parse

NEEDY = '''
from dataclasses import dataclass

@dataclass(frozen=True)
class Needy:
    """Cannot do without its size."""

    size: int
    name: str | None = None
    loud: bool = False
    sides: tuple[int, int] | None = None
'''


@pytest.fixture(autouse=True)
def gadgets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package `faultlight.gadgets` of one file."""
    (tmp_path / "gadgets").mkdir()
    (tmp_path / "gadgets" / "__init__.py").write_text("")
    (tmp_path / "gadgets" / "needy.py").write_text(NEEDY)
    monkeypatch.setattr(faultlight, "__path__", [*faultlight.__path__, str(tmp_path)])
    catalogue.cache_clear()
    yield
    catalogue.cache_clear()
    for name in [name for name in sys.modules if name.startswith("faultlight.gadgets")]:
        del sys.modules[name]


def pgd(*settings: str) -> Any:
    return build(lookup("attacks", "pgd"), settings, "attack")


def test_what_is_not_set_keeps_its_default() -> None:
    assert pgd() == PGD()


def test_settings_of_every_type() -> None:
    chosen = pgd("steps=12", "step_size=0.25", "loss=dlr", "random_start=false", "schedule=cosine", "momentum=1e-1")
    assert chosen == PGD(12, 0.25, "cosine", 0.1, "dlr", random_start=False)


@pytest.mark.parametrize(
    ("text", "hint", "value"),
    [
        ("3", int, 3),
        ("-3", int, -3),
        ("0.5", float, 0.5),
        ("3", float, 3.0),
        ("1e-3", float, 0.001),
        ("true", bool, True),
        ("off", bool, False),
        ("0", bool, False),
        ("margin", Literal["margin", "dlr"], "margin"),
        ("conv1", str | None, "conv1"),
        ("none", str | None, None),
        ("None", int | None, None),
        ("none", str, "none"),
        ("4", int | None, 4),
        ("a=b", str, "a=b"),
    ],
)
def test_values(text: str, hint: Any, value: Any) -> None:
    found = parse("key", text, hint)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("many", int),
        ("4.5", int),
        ("none", int),
        ("", int),
        ("nan", float),
        ("inf", float),
        ("-inf", float),
        ("nan", float | None),
        ("perhaps", bool),
        ("mergin", Literal["margin", "dlr"]),
        ("8/255", float),
    ],
)
def test_values_of_another_type_are_refused_by_name(text: str, hint: Any) -> None:
    with pytest.raises(InputError, match=rf"the setting key={text} cannot be used: [a-z]"):
        parse("key", text, hint)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["steps"], r"'steps' has no value; write it like steps=12"),
        (["step=3"], r"the attack 'pgd' has no setting 'step'; did you mean 'steps'\? known: .*restarts"),
        (["steps=3", "loss=dlr", "steps=4"], r"'steps' is given twice"),
        (["steps=0"], r"steps ≥ 1"),
        (["=3"], r"no setting ''"),
        (["steps=3,loss=dlr"], r"steps=3,loss=dlr cannot be used"),
    ],
)
def test_settings_that_make_no_attack_are_refused(settings: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        pgd(*settings)


def test_a_setting_without_a_default_is_asked_for() -> None:
    with pytest.raises(InputError, match="the gadget 'needy' needs the setting 'size'; write it like size=12"):
        build(lookup("gadgets", "needy"), ["loud=yes"], "gadget")
    chosen = build(lookup("gadgets", "needy"), ["size=3", "name=none", "loud=yes"], "gadget")
    assert (chosen.size, chosen.name, chosen.loud) == (3, None, True)


@dataclass(frozen=True)
class Chosen:
    """Settings of every kind."""

    steps: int = 3
    rate: float = 0.5
    rule: Literal["guided", "gradient"] = "guided"
    layer: str | None = None
    loud: bool = False
    folder: str | Path = "here"
    sides: tuple[int, ...] = ()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"steps": "a"}, "steps cannot be 'a'; it must be a whole number."),
        ({"steps": 2.5}, "steps cannot be 2.5; it must be a whole number."),
        ({"steps": True}, "steps cannot be True; it must be a whole number."),
        ({"steps": 0}, "steps must be at least 1, not 0."),
        ({"rate": float("nan")}, "rate cannot be nan; it must be a finite number."),
        ({"rate": None}, "rate cannot be None; it must be a finite number."),
        ({"rule": "guide"}, "rule cannot be 'guide'; did you mean 'guided'? known: gradient, guided."),
        ({"layer": 3}, "layer cannot be 3; it must be text or none."),
        ({"loud": "yes"}, "loud cannot be 'yes'; it must be true or false."),
        ({"folder": 1}, "folder cannot be 1; it must be text or a path."),
    ],
)
def test_settings_of_another_kind_are_refused_in_a_sentence(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        check_settings(Chosen(**settings), steps=1)
    assert str(caught.value) == sentence


def test_settings_of_their_kind_pass() -> None:
    check_settings(Chosen(), steps=1)
    check_settings(Chosen(np.int64(4), 1, "gradient", "conv1", True, Path("there"), (1, 2)), steps=1)  # type: ignore[arg-type]
    check_settings(Chosen(rate=np.float32(0.25)))  # type: ignore[arg-type]


def test_an_example_fits_the_setting() -> None:
    with pytest.raises(InputError, match="write it like checkpoints=path/to/folder"):
        build(lookup("views", "evolution"), [], "view")
    with pytest.raises(InputError, match="write it like loss=cross-entropy"):
        pgd("loss")


def test_the_listing_names_each_entry_and_its_settings() -> None:
    assert listing("gadgets").splitlines() == [
        "needy: Cannot do without its size.",
        "    --set size (required), name, loud=False, sides",
    ]
    lines = listing("attacks").splitlines()
    assert "    --set loss='cross-entropy'" in lines
    assert [line.partition(":")[0] for line in lines if not line.startswith(" ")] == list(catalogue("attacks"))
