"""What decides the outcome of an audit."""

from __future__ import annotations

from dataclasses import dataclass

from faultlight.threat import Threat


@dataclass(frozen=True)
class Settings:
    """What decides the outcome of an audit, besides model and data.

    Args:
        threat: the ball the attacker may move in.
        effort: "quick", "standard" or "exact".
        seed: of every random number.
        slots: jobs in flight at once; 0 chooses; it changes no outcome.
        cross_check: attack certified images all the same.
        eight_bit: twins have to be 8-bit images: candidates are rounded onto the multiples of 1/255 before judged.
    """

    threat: Threat
    effort: str = "standard"
    seed: int = 0
    slots: int = 0
    cross_check: bool = False
    eight_bit: bool = False

    def words(self) -> str:
        """Return the threat in words."""
        return self.threat.words() + (", by 8-bit images" if self.eight_bit else "")
