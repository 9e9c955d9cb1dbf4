"""What the engine works on: a probe, its images, and the jobs in flight."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from faultlight.attacks._contract import Attack, restarts, targets
from faultlight.evaluation.oracle import ONCE, Model, Sampling
from faultlight.evaluation.rows import Attempt
from faultlight.threat import Threat


@dataclass(frozen=True)
class Probe:
    """An attack as the engine runs it.

    Args:
        name: unique in a run; the key of its ledger rows.
        attack: the attack.
        threat: the ball it may move in.
        model: what it searches on: the subject itself, or a search copy.
        key: the key of its random numbers.
        exact: whether `model` is the judge's own model, so that its logits count as judged.
        nearest: go on after a break, for the nearest twin; else an image is done with its first.
        together: run all jobs of an image side by side, in step, till one breaks it; else one after the other. It costs
            passes that an earlier break would have saved, and saves time where few images are left.
        sampling: what the model's answers are averaged over in the search.
    """

    name: str
    attack: Attack
    threat: Threat
    model: Model
    key: int
    exact: bool
    nearest: bool = False
    together: bool = False
    rows: int = 0
    sampling: Sampling = ONCE


@dataclass(frozen=True)
class Work:
    """The images a probe is let loose on, a row an image.

    Args:
        x: clean pixels in [0, 1].
        y: labels.
        ids: image ids.
        ranking: the wrong classes of each image, the most likely first; targeted jobs aim at them in turn.
        goal: the class that a break has to reach, −1 where any wrong class will do.
        done: jobs of each image that are already in the ledger.
    """

    x: Float32[Tensor, "n c h w"]
    y: Int64[Tensor, " n"]
    ids: Int64[Tensor, " n"]
    ranking: Int64[Tensor, "n others"]
    goal: Int64[Tensor, " n"]
    done: Int64[Tensor, " n"]


@dataclass(frozen=True)
class Settled:
    """A finished attempt, the row of `Work` and the job it belongs to, and the accepted pixels (c, h, w)."""

    row: int
    job: int
    attempt: Attempt
    twin: Tensor | None


@dataclass(frozen=True)
class Slots:
    """The jobs in flight, a row each: where each stands, what it has cost, the best it has seen, what was judged.

    Args:
        row: its row of `Work`.
        job: which of the image's jobs it is.
        target: the class aimed at, or −1.
        step: the step it is at.
        value: the largest goal margin seen in the search, inside the ball.
        best: the point where it was seen; once accepted, the twin.
        reach: in a search for the nearest twin, how far the nearest claimed one is; then `best` is that one.
        lower, upper: the box around the image, found once.
        judged: the largest margin that the judge has confirmed.
        accepted, distance, prediction, fragile: the judge's ruling on the twin.
        refused: claims of success that the judge did not uphold.
        outside: a candidate left the ball or the box.
        invalid: the model gave NaN or infinity for a candidate.
    """

    row: Int64[Tensor, " n"]
    job: Int64[Tensor, " n"]
    target: Int64[Tensor, " n"]
    step: Int64[Tensor, " n"]
    forwards: Int64[Tensor, " n"]
    backwards: Int64[Tensor, " n"]
    value: Float32[Tensor, " n"]
    best: Float32[Tensor, "n c h w"]
    reach: Float64[Tensor, " n"]
    lower: Float32[Tensor, "n c h w"]
    upper: Float32[Tensor, "n c h w"]
    judged: Float32[Tensor, " n"]
    accepted: Bool[Tensor, " n"]
    distance: Float64[Tensor, " n"]
    prediction: Int64[Tensor, " n"]
    fragile: Bool[Tensor, " n"]
    refused: Int64[Tensor, " n"]
    outside: Bool[Tensor, " n"]
    invalid: Bool[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.row)


def jobs(attack: Attack, work: Work) -> int:
    """Return how many jobs an image has: restarts × targets (one run when `targets` is 0, or the goal is one class)."""
    aims = 1 if bool((work.goal >= 0).any()) else max(1, min(targets(attack), work.ranking.shape[1]))
    return restarts(attack) * aims
