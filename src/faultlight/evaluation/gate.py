"""A gate: a condition on a verdict that a build may depend on, held against the cautious end of the interval."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from faultlight.errors import InputError, nearest
from faultlight.evaluation.verdict import Share, Verdict

_FORM = re.compile(r"\s*([a-z]+)\s*(>=|<=)\s*([0-9.]+)\s*(%?)\s*")
_QUANTITIES = ("clean", "attacked", "certified")


@dataclass(frozen=True)
class Gate:
    """One condition such as attacked ≥ 0.45.

    Args:
        quantity: "clean", "attacked" or "certified".
        relation: ">=" is held against the lower end of the 95 % interval, "<=" against the upper.
        bound: a share in [0, 1].
    """

    quantity: str
    relation: Literal[">=", "<="]
    bound: float

    def failure(self, verdict: Verdict) -> str | None:
        """Return the sentence that says how the condition fails, or None if it holds."""
        share: Share | None = getattr(verdict, self.quantity)
        if share is None:
            return f"{self.quantity} accuracy was not computed, so {self} cannot hold"
        end = share.low if self.relation == ">=" else share.high
        holds = end >= self.bound if self.relation == ">=" else end <= self.bound
        which = "lower" if self.relation == ">=" else "upper"
        return (
            None
            if holds
            else f"{self} fails: {_exact(share.value)} with the {which} end of its interval at {_exact(end)}"
        )

    def __str__(self) -> str:
        return f"{self.quantity}{self.relation}{self.bound:g}"


def parse_gates(texts: Sequence[str]) -> list[Gate]:
    """Parse conditions such as "attacked>=0.45" or "clean>=90%".

    Raises:
        InputError: a text of another form, an unknown quantity, or a bound outside [0, 1].
    """
    return [_parse(text) for text in texts]


def _parse(text: str) -> Gate:
    match = _FORM.fullmatch(text)
    if match is None:
        raise InputError(f'the gate {text!r} is not of the form "attacked>=0.45".')
    quantity, relation, number, percent = match.groups()
    if quantity not in _QUANTITIES:
        raise InputError(f"the gate {text!r} is about an unknown quantity: {nearest(quantity, _QUANTITIES)}.")
    try:
        bound = float(number) / (100 if percent else 1)
    except ValueError:
        raise InputError(f"the bound {number!r} of the gate {text!r} is not a number.") from None
    if bound > 1:
        raise InputError(f"the bound of the gate {text!r} is above 1; write shares like 0.45, or 45%.")
    return Gate(quantity, relation, bound)  # type: ignore[arg-type]


def _exact(value: float) -> str:
    # A bound of 45 % that fails at 44.96 % must not read as 45.0 %.
    return f"{100 * value:.2f} %"
