"""The judge: float32, the untouched model, the pixels as stored. It trusts nobody."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from faultlight import geometry, losses, rng
from faultlight.evaluation.oracle import evaluate, full_precision, piece_rows
from faultlight.models.randomness import Luck, fingerprints
from faultlight.models.subject import Subject
from faultlight.runtime import is_out_of_memory
from faultlight.threat import Threat

# Rounding may carry a float32 candidate this far out of [0, 1]; it is put back. Anything farther is the attack's fault.
ROUNDING = 1e-6
# A break whose winning margin is below this share of the logits' spread is fragile: other arithmetic may undo it.
FRAGILE = 1e-3
# A random model is asked so often; a break must be seen so many times: were it seen in half of all draws only, the
# chance of that would be 2.5 %.
DRAWS, NEEDED = 32, 22
# Most claims come one by one, and each fills a piece of the untouched model: the judge's is a quarter of a search's.
_SMALLER = 4


@dataclass(frozen=True)
class Ruling:
    """What the judge found for each candidate, a row each.

    Args:
        x: the candidate as stored, in [0, 1].
        margin: how far the goal is exceeded, in logits (above 0: another class than the label wins, or the target). Of
            a random model, the margin that enough draws reach.
        distance: ‖x' − x‖ in the threat's norm, in float64.
        prediction: the class predicted; of a random model, the one predicted most often.
        accepted: inside the ball and the box, finite, and predicted as the attacker wishes.
        share: in what share of the draws it was so predicted, in [0, 1].
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
    share: Float64[Tensor, " n"]


@dataclass(frozen=True)
class Judge:
    """Re-computes range, norm, finiteness and prediction of every candidate.

    A random model is asked `draws` times about each candidate, alone, with luck that is a function of the candidate's
    bits and of `key`: the same whoever is asked about beside it, and never the luck that a search has seen. A break
    holds when the goal is reached in at least 22 of 32 draws, so that with 97.5 % confidence it is reached in more than
    half of all; an image is classified correctly when its label is predicted in at least half of the draws. Searching
    till a candidate is lucky is the attacker's advantage that remains: `share` over draws of another key is free of it.

    Source: Carlini et al. 2019, "On evaluating adversarial robustness", §4 (randomised defences need attacks that
    average over the randomness, and an evaluation that does not depend on one draw).

    Args:
        subject: the untouched model.
        draws: passes that one ruling costs; 1 where the model is a function of its input.
        key: of the luck.
        eight_bit: move each candidate onto the grid of 8-bit images, inside the ball, before ruling on it; distances
            are then those between the 8-bit images.
    """

    subject: Subject
    draws: int = 1
    key: int = 0
    eight_bit: bool = False

    @property
    def needed(self) -> int:
        """In how many of the draws the goal must be reached."""
        return -(-self.draws * NEEDED // DRAWS)

    @property
    def rules_on_what_it_is_given(self) -> bool:
        """Whether its ruling on a point is what the model says of that very point, once."""
        return self.draws == 1 and not self.eight_bit

    def _exact(self, x: Tensor) -> Tensor:
        return geometry.on_grid(x) if self.eight_bit else x.double()

    def fresh(self, key: int) -> Judge:
        """Return the same judge with other luck."""
        return replace(self, key=key)

    def predict(self, x: Float32[Tensor, "n c h w"], y: Int64[Tensor, " n"]) -> tuple[Tensor, Tensor]:
        """Return the mean logits (n, classes) and the prediction (n,): the label, where half of the draws agree."""
        logits = self.answers(x)
        if self.draws == 1:
            return logits[0], logits[0].argmax(1)
        votes = _votes(logits)
        others = votes.scatter(1, y[:, None], -1).argmax(1)
        right = 2 * votes.gather(1, y[:, None])[:, 0] >= self.draws
        return logits.mean(0), torch.where(right, y, others)

    def answers(self, x: Float32[Tensor, "n c h w"]) -> Float32[Tensor, "draws n classes"]:
        """Return the logits of every draw."""
        if self.draws == 1:
            return self.logits(x)[None]
        device = x.device
        found = torch.empty(self.draws, len(x), self.subject.classes, device=device)
        luck = Luck(self.subject.module, device)
        with luck.kept(), full_precision(), torch.no_grad():
            for row, fingerprint in enumerate(fingerprints(x)):
                for draw in range(self.draws):
                    # Alone: what a random model draws for a row of a batch depends on the row's place.
                    luck.seed(rng.key(self.key, fingerprint, draw))
                    found[draw, row] = self.subject(x[row : row + 1])[0]
        return found

    def logits(self, x: Float32[Tensor, "n c h w"]) -> Float32[Tensor, "n classes"]:
        """Return the untouched model's logits, in pieces of fixed shape; of half as many images while memory lacks."""
        if self.draws > 1:
            return self.answers(x).mean(0)
        rows = max(1, piece_rows(tuple(x.shape[1:]), self.subject.device) // _SMALLER)
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
        if self.eight_bit:
            moved = geometry.to_grid(stored, x, threat)
            stored = torch.where(geometry.rows(_inside(stored)), moved, stored)
        logits = self.answers(stored)
        distance = geometry.norm(self._exact(stored) - self._exact(x), threat.norm)
        outside = ~_inside(stored) | ~(distance <= threat.epsilon * (1 + ROUNDING))
        invalid = ~torch.isfinite(logits).all(2).all(0)
        predictions = logits.argmax(2)
        reached = torch.where(target < 0, predictions != y, predictions == target)
        # A model that prefers no class has not answered: it abstains, and an abstention is no wrong answer.
        reached &= logits.amax(2) > logits.amin(2)
        margins = torch.stack([losses.goal_margin(draw, y, target) for draw in logits])
        margin = margins.sort(dim=0, descending=True).values[self.needed - 1]
        accepted = (reached.sum(0) >= self.needed) & ~outside & ~invalid
        spread = (logits.amax(2) - logits.amin(2)).mean(0)
        fragile = accepted & (margin < FRAGILE * spread)
        share = reached.double().mean(0)
        prediction = predictions[0] if self.draws == 1 else _wished(_votes(logits), y, accepted)
        return Ruling(stored, margin, distance, prediction, accepted, outside, invalid, fragile, share)


def _votes(logits: Tensor) -> Tensor:
    """Return how often each class is predicted, (n, classes)."""
    return torch.nn.functional.one_hot(logits.argmax(2), logits.shape[2]).sum(0)


def _wished(votes: Tensor, y: Tensor, accepted: Tensor) -> Tensor:
    """Return the class predicted most often; of a break, the one among those that are not the label."""
    return torch.where(accepted, votes.scatter(1, y[:, None], -1).argmax(1), votes.argmax(1))


def restore(candidate: Tensor) -> Tensor:
    """Put back what rounding carried out of [0, 1]; leave the rest, for the judge to refuse."""
    clamped = candidate.clamp(0, 1)
    return torch.where((candidate - clamped).abs() <= ROUNDING, clamped, candidate)


def _inside(x: Tensor) -> Tensor:
    flat = x.flatten(1)
    return torch.isfinite(flat).all(1) & (flat >= 0).all(1) & (flat <= 1).all(1)
