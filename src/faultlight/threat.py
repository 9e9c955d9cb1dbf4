"""The threat model: which norm bounds the attacker, and by how much. Free of torch, to be quick to import."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

from faultlight.errors import InputError, nearest

Norm = Literal["linf", "l2", "l1", "l0"]
NORMS: tuple[Norm, ...] = get_args(Norm)


@dataclass(frozen=True)
class Threat:
    """A ball around each image: δ is allowed when ‖δ‖ ≤ ε and x + δ stays in [0, 1].

    Args:
        norm: "linf", "l2", "l1" (over all pixel values), or "l0" (number of pixels changed, channels together).
        epsilon: the radius ε in pixel units, so 8/255 for the usual CIFAR-10 L∞ threat; a whole number for "l0".
        text: how the user wrote ε ("8/255"), kept so that reports print what was asked.
    """

    norm: Norm
    epsilon: float
    text: str = ""

    def __post_init__(self) -> None:
        if not self.text:
            object.__setattr__(self, "text", f"{self.epsilon:g}")
        _check(self.norm, self.epsilon, self.text)

    def __str__(self) -> str:
        return f"{self.norm}:{self.text}"

    def words(self) -> str:
        """Return the threat as a reader would say it: "L∞ distance 8/255"."""
        kind = {"linf": "L∞", "l2": "L2", "l1": "L1"}.get(self.norm)
        return f"{kind} distance {self.text}" if kind else f"{self.text} changed pixels"

    def at(self, epsilon: float) -> Threat:
        """Return the same norm with another radius."""
        return replace(self, epsilon=epsilon, text="")


# What the literature attacks these sets with.
_USUAL = {"digits": "linf:0.1", "mnist": "linf:0.3", "cifar10": "linf:8/255"}


def usual_threat(data: str) -> str:
    """Return the threat a data set is usually audited at; L∞ 8/255 for those without a custom."""
    return _USUAL.get(data, "linf:8/255")


def parse_threat(text: str | Threat) -> Threat:
    """Parse "linf:8/255", "l2:0.5" or "l0:1".

    Raises:
        InputError: unknown norm, an ε that is not a number, ε ≤ 0, or an L∞ ε above 1 (with the likely meaning).
    """
    if isinstance(text, Threat):
        return text
    norm, colon, radius = text.strip().lower().partition(":")
    if norm not in NORMS:
        raise InputError(f"threat {text!r} names no known norm: {nearest(norm, NORMS)}; write it like linf:8/255.")
    if not colon or not radius:
        raise InputError(f"threat {text!r} has no radius; write it like {norm}:{'1' if norm == 'l0' else '8/255'}.")
    try:
        epsilon = _number(radius)
    except (ValueError, ZeroDivisionError):
        message = f"the radius {radius!r} of threat {text!r} is not a number; write it like 8/255 or 0.3."
        raise InputError(message) from None
    return Threat(norm, epsilon, radius.replace(" ", ""))


def _number(text: str) -> float:
    numerator, slash, denominator = text.partition("/")
    return float(numerator) / float(denominator) if slash else float(text)


def _check(norm: str, epsilon: float, text: str) -> None:
    if not math.isfinite(epsilon) or epsilon <= 0:
        raise InputError(f"the radius of threat {norm}:{text} must be above 0; write it like linf:8/255.")
    if norm == "linf" and epsilon > 1:
        likely = f"{epsilon:g}/255"
        raise InputError(f"an L∞ radius of {text} is above 1, the whole range of a pixel; did you mean linf:{likely}?")
    if norm == "l0" and epsilon != int(epsilon):
        raise InputError(f"an L0 radius counts pixels and must be a whole number, not {text}; write it like l0:1.")
