"""Errors: the exit codes other people's scripts rest on, and the nearest known word."""

from __future__ import annotations

import pytest

from faultlight.errors import ExitCode, FaultlightError, GateFailed, InputError, Withheld, nearest


def test_exit_codes_are_the_published_ones() -> None:
    assert {code.name: int(code) for code in ExitCode} == {
        "DONE": 0,
        "GATE_FAILED": 1,
        "BAD_INPUT": 2,
        "INTERNAL": 3,
        "WITHHELD": 4,
        "INTERRUPTED": 130,
    }


@pytest.mark.parametrize(("kind", "code"), [(FaultlightError, 3), (GateFailed, 1), (InputError, 2), (Withheld, 4)])
def test_each_error_carries_its_exit_code(kind: type[FaultlightError], code: int) -> None:
    error = kind("a sentence")
    assert error.exit_code == code
    assert str(error) == "a sentence"


def test_an_input_error_is_also_a_value_error() -> None:
    with pytest.raises(ValueError, match="a sentence"):
        raise InputError("a sentence")


@pytest.mark.parametrize(
    ("word", "clause"),
    [
        ("pdg", "did you mean 'pgd'? known: fgsm, pgd, uniform-noise"),
        ("uniform", "did you mean 'uniform-noise'? known: fgsm, pgd, uniform-noise"),
        ("xyz", "known: fgsm, pgd, uniform-noise"),
    ],
)
def test_nearest_names_the_closest_word_first(word: str, clause: str) -> None:
    assert nearest(word, {"uniform-noise", "pgd", "fgsm"}) == clause


def test_nearest_with_nothing_known() -> None:
    assert nearest("pgd", []) == "known: "
