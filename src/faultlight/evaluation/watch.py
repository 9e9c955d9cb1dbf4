"""What becomes of the points that an attack asks about: counted, the best kept, and claims of success judged."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from faultlight import geometry
from faultlight.attacks._contract import is_minimal, take
from faultlight.evaluation.judge import ROUNDING, Judge, restore
from faultlight.evaluation.oracle import Question, RecordingOracle
from faultlight.evaluation.slots import Probe, Slots, Work
from faultlight.losses import goal_margin

# On a copy's word a twin is put before the judge when it is nearer by this share: each ruling costs a forward pass.
_GAIN = 1e-3


@dataclass(frozen=True)
class Watch:
    """Follows the jobs in flight of one probe, changing their slots in place.

    Args:
        probe: what runs.
        work: on which images.
        judge: who decides.
        oracle: what the attack asks.
    """

    probe: Probe
    work: Work
    judge: Judge
    oracle: RecordingOracle

    @property
    def _radius(self) -> float:
        return self.probe.threat.epsilon * (1 + ROUNDING)

    def absorb(self, slots: Slots) -> None:
        """Count what the attack asked, keep each row's best point, and have claims of success judged."""
        for question in self.oracle.forget():
            asked = len(question.x) // max(len(slots), 1)
            slots.forwards.add_(asked * question.draws)
            slots.backwards.add_(asked * question.draws * question.backward)
            x = question.x.view(len(slots), asked, *question.x.shape[1:])
            value = self._values(slots, question, asked)
            if self.probe.nearest:
                self._keep_nearest(slots, value, x)
            else:
                self._keep_strongest(slots, value, x)

    def _values(self, slots: Slots, question: Question, asked: int) -> Tensor:
        """Return the goal margin of each row's points, (n, points); −∞ where a minimal attack has left the ball."""
        y, goal = (values[slots.row].repeat_interleave(asked) for values in (self.work.y, self.work.goal))
        value = goal_margin(question.logits, y, goal).nan_to_num(nan=-torch.inf)
        if is_minimal(self.probe.attack):
            distance = self._distance(slots, question.x, asked)
            value = torch.where(distance <= self._radius, value, -torch.inf)
        return value.view(len(slots), asked)

    def _distance(self, slots: Slots, x: Tensor, asked: int = 1) -> Tensor:
        clean = self.work.x[slots.row].repeat_interleave(asked, dim=0)
        return geometry.norm(restore(x).double() - clean.double(), self.probe.threat.norm)

    def _keep_strongest(self, slots: Slots, values: Tensor, points: Tensor) -> None:
        """Keep each row's point of the largest margin; where it is a success, have the judge rule at once."""
        value, x = _chosen(values, points)
        better = (value > slots.value) & ~slots.accepted
        slots.best.copy_(torch.where(geometry.rows(better), x, slots.best))
        slots.value.copy_(torch.where(better, value, slots.value))
        claimed = (value > 0) & ~slots.accepted
        self._rule(slots, claimed, x)
        slots.refused.add_(claimed & ~slots.accepted)

    def _keep_nearest(self, slots: Slots, values: Tensor, points: Tensor) -> None:
        """Keep each row's nearest success. What the judge's own model says is judged once, at the end."""
        slots.value.copy_(torch.maximum(slots.value, values.amax(1)))
        rows = ((values > 0).any(1)).nonzero()[:, 0]
        if not len(rows):
            return
        asked = points.shape[1]
        distance = self._distance(take(slots, rows), points[rows].flatten(0, 1), asked).view(len(rows), asked)
        reach, x = _chosen(torch.where(values[rows] > 0, -distance, -torch.inf), points[rows])
        nearer = -reach < slots.reach[rows] * (1 if self.probe.exact else 1 - _GAIN)
        rows, reach, x = rows[nearer], -reach[nearer], x[nearer]
        if self.probe.exact:
            slots.best[rows], slots.reach[rows] = x, reach
            return
        won = self._rule(slots, rows, x)
        slots.refused[rows] += ~won
        slots.reach[rows[won]] = slots.distance[rows[won]]

    def rule_spent(self, slots: Slots, spent: Tensor, x: Tensor) -> None:
        """Have the judge rule on what rows that are spent have to show; x is where the attack has come to."""
        if self.probe.nearest:
            self._rule_nearest(slots, spent, x)
        else:
            self._rule_last(slots, spent, x)

    def _rule_last(self, slots: Slots, spent: Tensor, x: Tensor) -> None:
        """Have the judge rule on the last points of rows that are spent; after a search on a copy, on their best."""
        last = spent & ~slots.accepted
        if is_minimal(self.probe.attack):
            last &= self._distance(slots, x) <= self._radius
        if self.probe.exact:
            self._rule(slots, last, x)
            return
        self._look(slots, last, x)
        self._rule(slots, spent & ~slots.accepted & torch.isfinite(slots.value), slots.best)

    def _look(self, slots: Slots, which: Tensor, x: Tensor) -> None:
        """Keep the points x of the masked rows where the search model finds them better than the best so far."""
        rows = which.nonzero()[:, 0]
        if not len(rows):
            return
        at = slots.row[rows]
        logits = self.oracle.logits(x[rows])
        value = goal_margin(logits, self.work.y[at], self.work.goal[at]).nan_to_num(nan=-torch.inf)
        slots.forwards[rows] += sum(question.draws for question in self.oracle.forget())
        better = value > slots.value[rows]
        slots.best[rows[better]] = x[rows[better]]
        slots.value[rows[better]] = value[better]

    def _rule_nearest(self, slots: Slots, spent: Tensor, x: Tensor) -> None:
        """Have the judge rule on the nearest point of rows that are spent, and on their last where that is nearer."""
        claimed = spent & ~slots.accepted & torch.isfinite(slots.reach)
        self._rule(slots, claimed, slots.best)
        slots.refused.add_(claimed & ~slots.accepted)
        distance = self._distance(slots, x)
        self._rule(slots, spent & (distance < slots.reach) & (distance <= self._radius), x)

    def _rule(self, slots: Slots, which: Tensor, candidates: Tensor) -> Tensor:
        """Have the judge rule, write down what it found, and return where it accepted.

        Args:
            slots: the jobs in flight.
            which: a mask of rows, with candidates for all rows, or the numbers of rows, with a candidate for each.
            candidates: pixels.
        """
        if which.dtype == torch.bool:
            which = which.nonzero()[:, 0]
            candidates = candidates[which]
        rows = which
        if not len(rows):
            return torch.zeros(0, dtype=torch.bool, device=rows.device)
        at = slots.row[rows]
        ruling = self.judge.rule(candidates, self.work.x[at], self.work.y[at], self.work.goal[at], self.probe.threat)
        slots.forwards[rows] += self.judge.draws
        slots.outside[rows] |= ruling.outside
        slots.invalid[rows] |= ruling.invalid & ~ruling.outside
        margin = torch.where(ruling.outside | ruling.invalid, -torch.inf, ruling.margin)
        slots.judged[rows] = torch.maximum(slots.judged[rows], margin)
        won, accepted = rows[ruling.accepted], ruling.accepted
        slots.accepted[won] = True
        slots.best[won] = ruling.x[accepted]
        slots.distance[won] = ruling.distance[accepted]
        slots.prediction[won] = ruling.prediction[accepted]
        slots.fragile[won] = ruling.fragile[accepted]
        return accepted


def _chosen(values: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest value of each row, (n, k) → (n,), and the point (of n, k, c, h, w) that has it."""
    if values.shape[1] == 1:
        return values[:, 0], points[:, 0]
    highest, place = values.max(1)
    return highest, points[torch.arange(len(values), device=values.device), place]
