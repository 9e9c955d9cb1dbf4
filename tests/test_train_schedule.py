"""The learning rate at steps worked out by hand, and against PyTorch's own one-cycle schedule."""

from __future__ import annotations

import math

import pytest
import torch

from faultlight.train.recipe import Schedule
from faultlight.train.schedule import learning_rate


def rates(name: str, warmup: float, steps: int, peak: float = 1.0) -> list[float]:
    schedule = Schedule.model_validate({"name": name, "warmup": warmup})
    return [learning_rate(schedule, peak, step, steps) for step in range(steps)]


def test_constant_after_a_linear_rise() -> None:
    assert rates("constant", 0.0, 3, peak=0.2) == [0.2, 0.2, 0.2]
    assert rates("constant", 0.5, 8, peak=4.0) == pytest.approx([1, 2, 3, 4, 4, 4, 4, 4])


def test_linear_falls_by_equal_amounts_and_spends_no_step_at_zero() -> None:
    assert rates("linear", 0.0, 4) == pytest.approx([1, 0.75, 0.5, 0.25])
    assert rates("linear", 0.5, 4) == pytest.approx([0.5, 1, 2 / 3, 1 / 3])


def test_cosine_is_at_its_half_in_the_middle() -> None:
    assert rates("cosine", 0.0, 4) == pytest.approx([1, (2 + math.sqrt(2)) / 4, 0.5, (2 - math.sqrt(2)) / 4])


@pytest.mark.parametrize(("warmup", "steps"), [(0.3, 10), (0.25, 101), (0.2, 7)])
def test_one_cycle_equals_pytorchs(warmup: float, steps: int) -> None:
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=0.7, total_steps=steps, pct_start=warmup)
    expected = []
    for _ in range(steps):
        expected.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    assert rates("onecycle", warmup, steps, peak=0.7) == pytest.approx(expected, rel=1e-9)


def test_step_falls_tenfold_at_half_and_at_three_quarters() -> None:
    assert rates("step", 0.0, 8) == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "onecycle", "step"])
def test_a_run_of_one_step_has_a_rate(name: str) -> None:
    assert rates(name, 0.0, 1, peak=0.3) == pytest.approx([0.3])
    assert rates(name, 0.9, 1, peak=0.3) == pytest.approx([0.3])
