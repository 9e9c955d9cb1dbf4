"""The losses: values computed by hand, what their sign means, what they are invariant to, and their gradients."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from faultlight import losses
from faultlight.errors import InputError
from faultlight.losses import LOSSES, UNTARGETED, LossName

# One row of logits, label 0: the sum of exponentials is 4 + 2 + 1 + 1 = 8.
HAND = torch.tensor([[math.log(4), math.log(2), 0.0, 0.0]])
ZERO, ONE = torch.tensor([0]), torch.tensor([1])
LOG2 = math.log(2)


def labels(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def test_values_by_hand() -> None:
    untargeted = labels(UNTARGETED)
    found = {name: float(losses.loss(name, HAND, ZERO, untargeted)) for name in LOSSES}
    # −log(4/8); z₁ − z₀ = log 2 − log 4; that over z_π1 − z_π3 = log 4.
    assert found == pytest.approx({"cross-entropy": LOG2, "margin": -LOG2, "dlr": -0.5}, abs=1e-6)


def test_targeted_values_by_hand() -> None:
    found = {name: float(losses.loss(name, HAND, ZERO, ONE)) for name in LOSSES}
    # log(2/8); z₁ − z₀; that over z_π1 − (z_π3 + z_π4)/2 = log 4.
    assert found == pytest.approx({"cross-entropy": -2 * LOG2, "margin": -LOG2, "dlr": -0.5}, abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_rows_choose_between_targeted_and_not(name: LossName) -> None:
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    y, target = labels(0, 1, 2, 3), labels(UNTARGETED, 4, UNTARGETED, 0)
    mixed = losses.loss(name, logits, y, target)
    for row in range(4):
        one = slice(row, row + 1)
        assert torch.equal(mixed[one], losses.loss(name, logits[one], y[one], target[one]))


def test_dlr_of_another_order_by_hand() -> None:
    """Label 2 of (1, 5, 3, 2): −(3 − 5) / (5 − 2) = 2/3."""
    assert float(losses.dlr(torch.tensor([[1.0, 5.0, 3.0, 2.0]]), labels(2))) == pytest.approx(2 / 3)


def test_targeted_dlr_of_another_order_by_hand() -> None:
    """Target 3 of (5, 3, 2, 0), label 1: −(3 − 0) / (5 − (2 + 0)/2) = −3/4."""
    found = losses.targeted_dlr(torch.tensor([[5.0, 3.0, 2.0, 0.0]]), ONE, labels(3))
    assert float(found) == pytest.approx(-0.75)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("target", [UNTARGETED, 1])
def test_few_classes_have_finite_values_that_grow_with_the_other_logit(
    name: LossName, classes: int, target: int
) -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0][:classes]]).requires_grad_()
    value = losses.loss(name, logits, ZERO, labels(target))
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert bool(torch.isfinite(value).all())
    assert float(gradient[0, 1]) > 0
    assert float(gradient[0, 0]) < 0


def test_dlr_of_two_classes_is_the_margin() -> None:
    logits = torch.tensor([[3.0, 1.0], [0.0, 4.0]])
    assert losses.dlr(logits, labels(0, 0)).tolist() == [-2.0, 4.0]


def test_targeted_dlr_of_three_classes_is_the_targeted_margin() -> None:
    logits = torch.tensor([[3.0, 1.0, -1.0]])
    assert losses.targeted_dlr(logits, ZERO, labels(2)).tolist() == [-4.0]


def rows(classes: int, low: float = -20, high: float = 20) -> st.SearchStrategy[Tensor]:
    value = st.floats(low, high, width=32)
    return st.lists(value, min_size=classes, max_size=classes).map(lambda row: torch.tensor([row]))


@given(logits=st.integers(2, 6).flatmap(rows), data=st.data())
@settings(max_examples=200, deadline=None)
def test_margin_is_positive_exactly_when_another_class_wins(logits: Tensor, data: st.DataObject) -> None:
    label = data.draw(st.integers(0, logits.shape[1] - 1))
    margin = float(losses.margin(logits, labels(label)))
    others = [value for place, value in enumerate(logits[0].tolist()) if place != label]
    assert margin == pytest.approx(max(others) - logits[0].tolist()[label], rel=1e-6)
    broken = bool(losses.is_broken(logits, labels(label)))
    if margin != 0:  # of equals, the first is the prediction
        assert broken == (margin > 0)
    assert broken == (logits[0].tolist().index(max(logits[0].tolist())) != label)


@given(logits=st.integers(3, 6).flatmap(rows), data=st.data())
@settings(max_examples=200, deadline=None)
def test_dlr_has_the_sign_of_the_margin(logits: Tensor, data: st.DataObject) -> None:
    y = labels(data.draw(st.integers(0, logits.shape[1] - 1)))
    margin = float(losses.margin(logits, y))
    if abs(margin) > 1e-20:  # below, the ratio underflows to 0
        assert float(losses.dlr(logits, y).sign()) == math.copysign(1, margin)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_break_nothing(bad: float) -> None:
    assert not bool(losses.is_broken(torch.tensor([[0.0, 5.0, bad]]), ZERO))


@pytest.mark.parametrize("scale", [1.0, 0.01, 1000.0])
@pytest.mark.parametrize("shift", [0.0, -7.0, 300.0])
def test_dlr_is_invariant_to_shift_and_scale(scale: float, shift: float) -> None:
    logits = torch.randn(50, 6, generator=torch.Generator().manual_seed(1))
    y, target = torch.arange(50) % 6, (torch.arange(50) + 1) % 6
    changed = scale * (logits + shift)
    tolerance = 1e-4 if shift else 1e-5  # a shift of 300 leaves fewer bits to the differences
    for found, expected in (
        (losses.dlr(changed, y), losses.dlr(logits, y)),
        (losses.targeted_dlr(changed, y, target), losses.targeted_dlr(logits, y, target)),
    ):
        assert torch.allclose(found, expected, rtol=tolerance * 20, atol=tolerance)


def test_dlr_of_equal_logits_is_finite() -> None:
    logits = torch.zeros(1, 5, requires_grad=True)
    value = losses.dlr(logits, ZERO)
    assert float(value.detach()) == 0
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert bool(torch.isfinite(gradient).all())


def test_untargeted_dlr_lies_between_its_bounds() -> None:
    """At most 1; and above −1 because z_π2 ≥ z_π3."""
    logits = torch.randn(1000, 5, generator=torch.Generator().manual_seed(2))
    values = losses.dlr(logits, torch.arange(1000) % 5)
    assert float(values[logits.argmax(1) == torch.arange(1000) % 5].min()) >= -1
    assert float(values[logits.argmax(1) == torch.arange(1000) % 5].max()) <= 0


CASES: list[tuple[str, Callable[[Tensor, Tensor], Tensor]]] = [
    *[(f"{name}", lambda z, y, name=name: losses.loss(name, z, y, torch.full_like(y, UNTARGETED))) for name in LOSSES],
    *[(f"{name}, targeted", lambda z, y, name=name: losses.loss(name, z, y, (y + 1) % z.shape[1])) for name in LOSSES],
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
@pytest.mark.parametrize("classes", [2, 3, 4, 10])
def test_gradient_is_that_of_finite_differences(case: tuple[str, Callable[..., Tensor]], classes: int) -> None:
    """Central differences in float32: a step of 2⁻⁶ on logits about 1 apart has an error near 10⁻³."""
    _, function = case
    generator = torch.Generator().manual_seed(3)
    # Logits a whole unit apart, so that no step changes their order.
    order = torch.stack([torch.randperm(classes, generator=generator) for _ in range(8)])
    logits = order.float() + 0.3 * torch.rand(8, classes, generator=generator)
    y = torch.arange(8) % classes
    leaf = logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(leaf, y).sum(), leaf)
    step = 2.0**-6
    for place in range(classes):
        shift = torch.zeros_like(logits)
        shift[:, place] = step
        slope = (function(logits + shift, y) - function(logits - shift, y)) / (2 * step)
        assert torch.allclose(slope, gradient[:, place], atol=2e-3)


def test_an_unknown_loss_names_the_nearest() -> None:
    unchecked = inspect.unwrap(losses.loss)  # a user's program has no hook that checks annotations
    with pytest.raises(InputError, match="did you mean 'margin'"):
        unchecked("mergin", HAND, ZERO, ONE)
