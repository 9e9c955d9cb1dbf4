"""The threat model: what is read, what is refused, and the suggestion that goes with a refusal."""

from __future__ import annotations

import pytest

from faultlight.errors import InputError
from faultlight.threat import Threat, parse_threat


@pytest.mark.parametrize(
    ("text", "norm", "epsilon", "shown"),
    [
        ("linf:8/255", "linf", 8 / 255, "linf:8/255"),
        ("linf:0.3", "linf", 0.3, "linf:0.3"),
        ("linf:1", "linf", 1.0, "linf:1"),
        ("l2:0.5", "l2", 0.5, "l2:0.5"),
        ("l2:3", "l2", 3.0, "l2:3"),
        ("l1:12", "l1", 12.0, "l1:12"),
        ("l0:5", "l0", 5.0, "l0:5"),
        (" LINF: 8 / 255 ", "linf", 8 / 255, "linf:8/255"),
        ("linf:1e-2", "linf", 0.01, "linf:1e-2"),
    ],
)
def test_a_threat_is_read_and_shown_as_written(text: str, norm: str, epsilon: float, shown: str) -> None:
    threat = parse_threat(text)
    assert (threat.norm, threat.epsilon) == (norm, epsilon)
    assert str(threat) == shown
    assert parse_threat(str(threat)) == threat


def test_a_threat_passes_through_unchanged() -> None:
    threat = Threat("l2", 0.5)
    assert parse_threat(threat) is threat
    assert str(threat) == "l2:0.5"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("linf:0", "above 0"),
        ("linf:-8/255", "above 0"),
        ("l2:-1", "above 0"),
        ("linf:8", "did you mean linf:8/255?"),
        ("linf:1.5", "did you mean linf:1.5/255?"),
        ("linf:16/15", "above 1, the whole range of a pixel"),
        ("l0:0.5", "whole number"),
        ("linf:eight", "not a number"),
        ("linf:nan", "above 0"),
        ("linf:inf", "above 0"),
        ("l2:1e400", "above 0"),
        ("l2:1e999999999", "above 0"),
        ("linf:8/255/2", "not a number"),
        ("linf:8/0", "not a number"),
        ("linf:", "no radius; write it like linf:8/255"),
        ("l0", "no radius; write it like l0:1"),
        ("l3:0.5", "names no known norm"),
        ("lnf:8/255", "did you mean 'linf'?"),
        ("", "names no known norm"),
    ],
)
def test_a_bad_threat_is_refused_in_a_sentence(text: str, wanted: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_threat(text)
    assert wanted in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, float("nan"), float("inf")])
def test_a_radius_that_is_no_radius_is_refused_in_code_too(epsilon: float) -> None:
    with pytest.raises(InputError, match="above 0"):
        Threat("l2", epsilon)


def test_the_same_norm_at_another_radius() -> None:
    threat = parse_threat("linf:8/255").at(0.25)
    assert threat == Threat("linf", 0.25)
    assert str(threat) == "linf:0.25"
    with pytest.raises(InputError, match="above 0"):
        threat.at(0.0)


def test_a_threat_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Threat("l2", 0.5).epsilon = 1.0  # type: ignore[misc]
