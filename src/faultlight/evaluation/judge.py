"""The judge: float32, the untouched model, the pixels as stored. It trusts nobody."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from faultlight import geometry, losses
from faultlight.evaluation.oracle import evaluate, piece_rows
from faultlight.models.subject import Subject
from faultlight.runtime import is_out_of_memory
from faultlight.threat import Threat

# Rounding may carry a float32 candidate this far out of [0, 1]; it is put back. Anything farther is the attack's fault.
ROUNDING = 1e-6
# A break whose winning margin is below this share of the logits' spread is fragile: other arithmetic may undo it.
FRAGILE = 1e-3


@dataclass(frozen=True)
class Ruling:
    """What the judge found for each candidate, a row each.

    Args:
        x: the candidate as stored, in [0, 1].
        margin: how far the goal is exceeded, in logits (above 0: another class than the label wins, or the target).
        distance: ‖x' − x‖ in the threat's norm, in float64.
        prediction: the class predicted.
        accepted: inside the ball and the box, finite, and predicted as the attacker wishes.
        outside: the candidate left the ball or the box, or was not finite: the attack is faulty.
        invalid: the model gave NaN or infinity.
        fragile: accepted by a margin so small that other arithmetic may undo it.
    """

    x: Float32[Tensor, "n c h w"]
    margin: Float32[Tensor, " n"]
    distance: Float64[Tensor, " n"]
    prediction: Int64[Tensor, " n"]
    accepted: Bool[Tensor, " n"]
    outside: Bool[Tensor, " n"]
    invalid: Bool[Tensor, " n"]
    fragile: Bool[Tensor, " n"]


@dataclass(frozen=True)
class Judge:
    """Re-computes range, norm, finiteness and prediction of every candidate.

    Args:
        subject: the untouched model.
        draws: passes that one ruling costs.
    """

    subject: Subject
    draws: int = 1

    def logits(self, x: Float32[Tensor, "n c h w"]) -> Float32[Tensor, "n classes"]:
        """Return the untouched model's logits, in pieces of fixed shape; of half as many images while memory lacks."""
        rows = piece_rows(tuple(x.shape[1:]), self.subject.device)
        while True:
            try:
                return evaluate(self.subject, x, rows)
            except (RuntimeError, MemoryError) as error:
                if rows == 1 or not is_out_of_memory(error):
                    raise
            rows //= 2

    def rule(self, candidate: Tensor, x: Tensor, y: Tensor, target: Tensor, threat: Threat) -> Ruling:
        """Rule on candidates for clean images x.

        Args:
            candidate: proposed pixels, (n, c, h, w).
            x: clean pixels, (n, c, h, w).
            y: labels, (n,).
            target: the class that has to be predicted, or −1 where any class but the label will do.
            threat: the ball that the candidates must lie in.
        """
        stored = restore(candidate)
        logits = self.logits(stored)
        distance = geometry.norm(stored.double() - x.double(), threat.norm)
        outside = ~_inside(stored) | ~(distance <= threat.epsilon * (1 + ROUNDING))
        invalid = ~torch.isfinite(logits).all(1)
        margin = losses.goal_margin(logits, y, target)
        prediction = logits.argmax(1)
        reached = torch.where(target < 0, prediction != y, prediction == target)
        accepted = reached & ~outside & ~invalid
        spread = logits.amax(1) - logits.amin(1)
        fragile = accepted & (margin < FRAGILE * spread)
        return Ruling(stored, margin, distance, prediction, accepted, outside, invalid, fragile)


def restore(candidate: Tensor) -> Tensor:
    """Put back what rounding carried out of [0, 1]; leave the rest, for the judge to refuse."""
    clamped = candidate.clamp(0, 1)
    return torch.where((candidate - clamped).abs() <= ROUNDING, clamped, candidate)


def _inside(x: Tensor) -> Tensor:
    flat = x.flatten(1)
    return torch.isfinite(flat).all(1) & (flat >= 0).all(1) & (flat <= 1).all(1)
