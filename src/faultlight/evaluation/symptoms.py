"""Symptoms: what a first look at a model's gradients shows, before anything is attacked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from faultlight import geometry, losses, rng
from faultlight.evaluation.oracle import RecordingOracle, piece_rows
from faultlight.evaluation.plan import Search
from faultlight.evaluation.probing import Scene, sampling_of
from faultlight.evaluation.rows import ImageRow
from faultlight.threat import Threat

_SAMPLE, _FEW = 256, 64
# Points looked at on the way of a single step.
_HALTS = 8
# A margin that its gradient promises to change by less than this share of itself, anywhere in the ball, is flat.
_FLAT = 0.01
# Gradients at points a hundredth of ε apart that agree no better than this lead nowhere.
_SCATTERED = 0.6
_APART = 0.01
# Gradients at the two ends of a quarter of ε that leave more than half of the margin's change there unexplained:
# measured at 0.01 to 0.2 for usual networks, 0.3 where softmax ends them, 0.7 and more for k-winners-take-all.
_UNEXPLAINED = 0.5
_WALK = 0.25
_SHAKEN = 0.1


@dataclass(frozen=True)
class Symptoms:
    """What a first look at a model's gradients shows, on images that are classified correctly.

    Args:
        sample: how many were looked at.
        useless: those whose gradient of the margin is zero or not a number everywhere.
        lent: those of them to which the straight-through twin lends a gradient.
        flat: those whose gradient promises no change of the margin anywhere in the ball, though it is not zero.
        tied: those whose largest wrong logits are exactly equal.
        silent: images (right or wrong) whose logits are all equal: the model abstains; and those, among the first 64,
            for which it does so on the way of a single step to the ball's end.
        unstable: those that random noise of a tenth of ε breaks.
        agreement: the median cosine between gradients at points a hundredth of ε apart; 1 where none was measured.
        unexplained: the median share of the margin's change along the gradient, over a quarter of ε, that the gradients
            at both ends do not account for; 0 where none was measured. Large where the margin jumps.
    """

    sample: int = 0
    useless: int = 0
    lent: int = 0
    flat: int = 0
    tied: int = 0
    silent: int = 0
    unstable: int = 0
    agreement: float = 1.0
    unexplained: float = 0.0

    @property
    def masked(self) -> bool:
        """Whether the model's own gradients cannot be relied on."""
        return bool(self.useless or self.flat or self.tied)

    @property
    def scattered(self) -> bool:
        """Whether gradients of neighbouring points point in different directions."""
        return self.agreement < _SCATTERED

    @property
    def jumpy(self) -> bool:
        """Whether the margin moves mostly by jumps, which no gradient shows."""
        return self.unexplained > _UNEXPLAINED


def look(scene: Scene, threat: Threat, rows: Sequence[ImageRow]) -> Symptoms:
    """Measure the symptoms on the first 256 images that are classified correctly.

    Args:
        scene: the audit; its models are asked.
        threat: the ball.
        rows: the images' rows in the ledger, in the scene's order.
    """
    correct = [i for i, row in enumerate(rows) if row.clean_margin is not None and row.prediction == row.label]
    chosen = torch.tensor(correct[:_SAMPLE], dtype=torch.int64, device=scene.images.x.device)
    if not len(chosen):
        return Symptoms()
    x, y, ids = scene.images.x[chosen], scene.images.y[chosen], scene.images.ids[chosen]
    logits, gradient = _differentiate(scene, "exact", x, y)
    useless, random = _is_zero(gradient), scene.judge.draws > 1
    return Symptoms(
        sample=len(chosen),
        useless=int(useless.sum()),
        lent=_lent(scene, x[useless], y[useless]),
        flat=int((~useless & _is_flat(logits, y, gradient, threat)).sum()),
        tied=int(_is_tied(logits, y).sum()),
        silent=_silent(scene, x[:_FEW], gradient[:_FEW], threat),
        unstable=_unstable(scene, x, y, ids, threat),
        agreement=1.0 if random else _agreement(scene, x, y, ids, gradient, threat),
        unexplained=0.0 if random else _unexplained(scene, x, y, logits, gradient, threat),
    )


def _differentiate(scene: Scene, search: Search, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits and the margin's gradient; the oracle hands out 0 where a gradient is not a number."""
    logits, _, gradient = _oracle(scene, search).differentiate(x, lambda z, part: losses.margin(z, y[part]))
    return logits, gradient


def _oracle(scene: Scene, search: Search) -> RecordingOracle:
    model = scene.models[search]
    rows = piece_rows(scene.images.shape, scene.images.x.device)
    return RecordingOracle(model, rows, sampling_of(scene.judge, model, scene.seed))


def _is_zero(gradient: Tensor) -> Tensor:
    return (gradient == 0).flatten(1).all(1)


def _lent(scene: Scene, x: Tensor, y: Tensor) -> int:
    if not len(x) or "straight-through" not in scene.models:
        return 0
    return int((~_is_zero(_differentiate(scene, "straight-through", x, y)[1])).sum())


def _is_flat(logits: Tensor, y: Tensor, gradient: Tensor, threat: Threat) -> Tensor:
    """Return where the gradient promises less than 1 % of the margin for a walk to the ball's end."""
    direction = geometry.ascent(gradient, threat.norm)
    slope = (direction.double() * gradient.double()).flatten(1).sum(1)
    return slope * threat.epsilon < _FLAT * losses.margin(logits, y).abs().double()


def _is_tied(logits: Tensor, y: Tensor) -> Tensor:
    wrong = logits.scatter(1, y[:, None], -torch.inf)
    if wrong.shape[1] < 3:
        return torch.zeros_like(y, dtype=torch.bool)
    largest = wrong.topk(2, dim=1).values
    return largest[:, 0] == largest[:, 1]


def _silent(scene: Scene, x: Tensor, gradient: Tensor, threat: Threat) -> int:
    """Return the images that get equal logits, as they are or on the way to one step's end."""
    oracle, direction = _oracle(scene, "exact"), geometry.ascent(gradient, threat.norm)
    silent = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for part in range(1, _HALTS + 1):
        silent |= _is_silent(oracle.logits((x + part / _HALTS * threat.epsilon * direction).clamp(0, 1)))
    return int(silent.sum()) + int(_is_silent(oracle.logits(scene.images.x[:_SAMPLE])).sum())


def _is_silent(logits: Tensor) -> Tensor:
    return logits.amax(1) == logits.amin(1)


def _beside(x: Tensor, ids: Tensor, threat: Threat, share: float, seed: int) -> Tensor:
    """Return points at random in the ball of a share of ε."""
    steps = torch.zeros_like(ids)
    luck = rng.uniform(rng.key(seed, "beside"), ids, steps, tuple(x.shape[1:]))
    radius = max(1.0, share * threat.epsilon) if threat.norm == "l0" else share * threat.epsilon
    return geometry.random_in_ball(luck, x, threat.at(radius))


def _unstable(scene: Scene, x: Tensor, y: Tensor, ids: Tensor, threat: Threat) -> int:
    shaken = _beside(x, ids, threat, _SHAKEN, scene.seed)
    return int((scene.judge.predict(shaken, y)[1] != y).sum())


def _agreement(scene: Scene, x: Tensor, y: Tensor, ids: Tensor, gradient: Tensor, threat: Threat) -> float:
    if threat.norm == "l0":
        return 1.0
    beside = _differentiate(scene, "exact", _beside(x, ids, threat, _APART, scene.seed), y)[1]
    cosine = torch.nn.functional.cosine_similarity(gradient.double().flatten(1), beside.double().flatten(1))
    useful = ~_is_zero(gradient) & ~_is_zero(beside)
    return float(cosine[useful].median()) if bool(useful.any()) else 1.0


def _unexplained(scene: Scene, x: Tensor, y: Tensor, logits: Tensor, gradient: Tensor, threat: Threat) -> float:
    """Compare the margin's change over a short walk with the trapezoid rule on its gradients; exact where both fit."""
    if threat.norm == "l0":
        return 0.0
    end = (x + _WALK * threat.epsilon * geometry.ascent(gradient, threat.norm)).clamp(0, 1)
    reached, ahead = _differentiate(scene, "exact", end, y)
    change = losses.margin(reached, y).double() - losses.margin(logits, y).double()
    expected = ((gradient.double() + ahead.double()) / 2 * (end - x).double()).flatten(1).sum(1)
    largest = torch.maximum(change.abs(), expected.abs())
    useful = ~_is_zero(gradient) & (largest > 0) & largest.isfinite()
    return float(((change - expected).abs() / largest)[useful].median()) if bool(useful.any()) else 0.0
