"""The judge: hand-made candidates, each of which must be ruled on one way."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from faultlight.evaluation.judge import FRAGILE, ROUNDING, Judge, Ruling, restore
from faultlight.losses import goal_margin
from faultlight.models.subject import Subject
from faultlight.threat import Threat, parse_threat

SHAPE = (1, 1, 2)


class Difference(nn.Module):
    """Three classes: 10·(first − second pixel), its negative, and a constant −1; NaN where the second is above 0.9."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        score = 10 * (flat[:, 0] - flat[:, 1])
        logits = torch.stack([score, -score, torch.full_like(score, -1)], dim=1)
        return torch.where(flat[:, 1:] > 0.9, torch.nan, logits)


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge(Subject(Difference(), 3))


def rule(judge: Judge, candidate: list[float], threat: str = "linf:0.2", label: int = 0, target: int = -1) -> Ruling:
    """The ruling on one candidate for the image (0.5, 0.4)."""
    x = torch.tensor([0.5, 0.4]).view(1, *SHAPE)
    pixels = torch.tensor(candidate).view(1, *SHAPE)
    return judge.rule(pixels, x, torch.tensor([label]), torch.tensor([target]), parse_threat(threat))


def test_a_break_is_accepted_with_its_facts(judge: Judge) -> None:
    ruling = rule(judge, [0.4, 0.5])
    assert bool(ruling.accepted)
    assert int(ruling.prediction) == 1
    assert float(ruling.margin) == pytest.approx(2.0, abs=1e-5)  # 1 − (−1)
    assert float(ruling.distance) == pytest.approx(0.1)
    assert not bool(ruling.outside | ruling.invalid | ruling.fragile)


def test_a_point_that_is_still_right_is_not_accepted(judge: Judge) -> None:
    ruling = rule(judge, [0.5, 0.45])
    assert not bool(ruling.accepted | ruling.outside | ruling.invalid)
    assert float(ruling.margin) == pytest.approx(-1.0, abs=1e-5)


@pytest.mark.parametrize(
    "candidate",
    [
        [0.29, 0.5],  # too far
        [math.nan, 0.5],
        [math.inf, 0.5],
        [-math.inf, 0.5],
    ],
)
def test_what_left_the_ball_or_is_no_number_is_outside(judge: Judge, candidate: list[float]) -> None:
    ruling = rule(judge, candidate)
    assert bool(ruling.outside)
    assert not bool(ruling.accepted)


@pytest.mark.parametrize("candidate", [[-0.001, 0.5], [1.001, 0.5], [0.3, 1.0 + 2 * ROUNDING]])
def test_what_left_the_box_is_outside(judge: Judge, candidate: list[float]) -> None:
    ruling = rule(judge, candidate, "linf:1")
    assert bool(ruling.outside)
    assert not bool(ruling.accepted)


@pytest.mark.parametrize("below", [-3e-8, -ROUNDING])
def test_rounding_out_of_the_box_is_put_back(judge: Judge, below: float) -> None:
    ruling = rule(judge, [below, 0.5], "linf:0.9")
    assert bool(ruling.accepted)
    assert ruling.x.flatten().tolist() == [0.0, 0.5]
    assert float(ruling.distance) == 0.5


def test_rounding_above_one_is_put_back() -> None:
    candidate = torch.tensor([1 + 1.2e-7, 0.25, -3e-8, 1.5, -0.5, math.nan])
    found = restore(candidate)
    assert found[:5].tolist() == [1.0, 0.25, 0.0, 1.5, -0.5]
    assert bool(found[5].isnan())


def test_the_distance_is_that_of_float64(judge: Judge) -> None:
    """Subtracted in float32, 0.7 − 1e-9 would be 0.7."""
    x = torch.tensor([0.7, 0.1]).view(1, *SHAPE)
    candidate = torch.tensor([1e-9, 0.1]).view(1, *SHAPE)
    ruling = judge.rule(candidate, x, torch.tensor([0]), torch.tensor([-1]), parse_threat("linf:0.9"))
    assert float(ruling.distance) == float(x.double()[0, 0, 0, 0] - candidate.double()[0, 0, 0, 0])
    assert float(ruling.distance) < float(x[0, 0, 0, 0])


@pytest.mark.parametrize(("share", "inside"), [(1 + 0.5 * ROUNDING, True), (1 + 2 * ROUNDING, False)])
def test_the_ball_has_room_for_rounding_and_no_more(judge: Judge, share: float, inside: bool) -> None:
    x = torch.tensor([0.5, 0.4]).view(1, *SHAPE)
    candidate = torch.tensor([0.25, 0.4]).view(1, *SHAPE)
    threat = Threat("linf", 0.25 / share)
    ruling = judge.rule(candidate, x, torch.tensor([0]), torch.tensor([-1]), threat)
    assert bool(ruling.accepted) == inside
    assert bool(ruling.outside) != inside


@pytest.mark.parametrize(
    ("threat", "inside"), [("l2:0.142", True), ("l2:0.141", False), ("l0:2", True), ("l0:1", False)]
)
def test_every_norm_is_measured(judge: Judge, threat: str, inside: bool) -> None:
    """δ = (−0.1, 0.1): its L2 norm is 0.1414, and two pixels changed."""
    assert bool(rule(judge, [0.4, 0.5], threat).accepted) == inside


def test_nan_logits_make_invalid_never_broken(judge: Judge) -> None:
    ruling = rule(judge, [0.5, 0.95], "linf:0.6")
    assert bool(ruling.invalid)
    assert not bool(ruling.accepted | ruling.outside)


def test_infinite_logits_make_invalid() -> None:
    class Infinite(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([x.flatten(1)[:, 0], torch.full((len(x),), torch.inf)], dim=1)

    ruling = rule(Judge(Subject(Infinite(), 2)), [0.5, 0.4])
    assert bool(ruling.invalid)
    assert not bool(ruling.accepted)


def test_a_target_must_be_predicted_itself(judge: Judge) -> None:
    assert bool(rule(judge, [0.4, 0.5], target=1).accepted)
    assert not bool(rule(judge, [0.4, 0.5], target=2).accepted)
    assert float(rule(judge, [0.4, 0.5], target=2).margin) == pytest.approx(-2.0, abs=1e-5)  # −1 − 1


def test_goal_margins_by_hand() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0]] * 3)
    y, target = torch.tensor([0, 0, 1]), torch.tensor([-1, 2, -1])
    assert goal_margin(logits, y, target).tolist() == [-1.0, -1.0, 2.0]
    assert goal_margin(logits, y, torch.tensor([-1, -1, -1])).tolist() == [-1.0, -1.0, 2.0]


@pytest.mark.parametrize(("lead", "fragile"), [(0.5 * FRAGILE, True), (2 * FRAGILE, False)])
def test_a_narrow_win_is_fragile(lead: float, fragile: bool) -> None:
    """The margin as a share of the logits' spread, which is 1 here."""

    class Narrow(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([1 - lead, 1.0, 0.0]).expand(len(x), 3)

    ruling = rule(Judge(Subject(Narrow(), 3)), [0.5, 0.4])
    assert bool(ruling.accepted)
    assert bool(ruling.fragile) == fragile


def test_what_stands_is_never_fragile(judge: Judge) -> None:
    ruling = rule(judge, [0.5, 0.4999])
    assert not bool(ruling.accepted | ruling.fragile)


class Small(nn.Module):
    """A model that lacks memory for more than five images."""

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return Difference()(x)


def test_lack_of_memory_takes_smaller_pieces(judge: Judge) -> None:
    x = torch.rand(40, *SHAPE, generator=torch.Generator().manual_seed(0)) * 0.9
    assert torch.allclose(Judge(Subject(Small(), 3)).logits(x), judge.logits(x))


def test_lack_of_memory_for_one_image_is_told() -> None:
    class Nothing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(torch.OutOfMemoryError):
        Judge(Subject(Nothing(), 3)).logits(torch.rand(4, *SHAPE))
