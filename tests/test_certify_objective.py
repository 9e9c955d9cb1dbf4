"""Training losses: equal to the worst case of intervals worked out by hand, and of use to the weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import certify_nets as nets
from faultlight.certify.objective import crown_interval_loss, interval_loss
from faultlight.threat import Threat

EPSILON = 0.05
both = pytest.mark.parametrize("loss", [interval_loss, crown_interval_loss])


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(84, 10), nn.ReLU(), nn.Linear(10, 4))


def batch() -> tuple[Tensor, Tensor]:
    return nets.pixels(5), torch.tensor([0, 1, 2, 3, 1])


def worst_logits(module: nn.Sequential, x: Tensor, y: Tensor) -> Tensor:
    """−(z_y − z_j) at the worst corner of the hidden layer's intervals, in the plainest of ways."""
    first, last = module[1], module[3]
    lower, upper = ((x + sign * EPSILON).clamp(0, 1).flatten(1) for sign in (-1, 1))
    centre, radius = (lower + upper) / 2, (upper - lower) / 2
    hidden, spread = first(centre), radius @ first.weight.abs().T
    low, high = functional.relu(hidden - spread), functional.relu(hidden + spread)
    rows = []
    for i, label in enumerate(y):
        w, b = last.weight - last.weight[label], last.bias - last.bias[label]
        rows.append(w.clamp(min=0) @ high[i] + w.clamp(max=0) @ low[i] + b)
    return torch.stack(rows)


def test_interval_loss_is_the_worst_cases_cross_entropy() -> None:
    module, (x, y) = net(), batch()
    worst = functional.cross_entropy(worst_logits(module, x, y), y)
    clean = functional.cross_entropy(module(x), y)
    for kappa in (0.0, 0.3, 1.0):
        found = interval_loss(module, x, y, EPSILON, kappa)
        torch.testing.assert_close(found, kappa * clean + (1 - kappa) * worst, rtol=1e-4, atol=1e-4)


def test_gradients_are_those_of_the_worst_case() -> None:
    module, (x, y) = net(), batch()
    found = torch.autograd.grad(interval_loss(module, x, y, EPSILON, 0.0), list(module.parameters()))
    expected = torch.autograd.grad(functional.cross_entropy(worst_logits(module, x, y), y), list(module.parameters()))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_beta_mixes_the_two_bounds() -> None:
    module, (x, y) = net(), batch()
    interval = interval_loss(module, x, y, EPSILON, 0.0)
    torch.testing.assert_close(crown_interval_loss(module, x, y, EPSILON, 0.0, beta=0.0), interval)
    assert crown_interval_loss(module, x, y, EPSILON, 0.0, beta=1.0) < interval


@both
@pytest.mark.parametrize("kind", nets.KINDS)
def test_loss_is_above_what_any_point_reaches(loss: Callable[..., Tensor], kind: str) -> None:
    module, x = nets.net(kind), nets.pixels(4)
    y = torch.tensor([0, 1, 2, 3])
    bound = loss(module, x, y, EPSILON, 0.0)
    for point in nets.points(x, Threat("linf", EPSILON), 8):
        assert functional.cross_entropy(module(point), y) <= bound


@both
def test_no_ball_is_the_clean_loss(loss: Callable[..., Tensor]) -> None:
    module, (x, y) = net(), batch()
    torch.testing.assert_close(loss(module, x, y, 0.0, 0.0), functional.cross_entropy(module(x), y))


@both
@pytest.mark.parametrize("kind", nets.KINDS)
def test_gradients_are_the_slope_of_the_loss(loss: Callable[..., Tensor], kind: str) -> None:
    """Against a difference quotient along a random direction of all weights."""
    module, x = nets.net(kind).double().requires_grad_(True), nets.pixels(4).double()
    y, weights = torch.tensor([0, 1, 2, 3]), list(module.parameters())
    gradients = torch.autograd.grad(loss(module, x, y, EPSILON, 0.5), weights)
    generator = torch.Generator().manual_seed(0)
    direction = [torch.randn(w.shape, generator=generator, dtype=torch.float64) for w in weights]
    ends = []
    for sign in (-1, 2):
        with torch.no_grad():
            for w, along in zip(weights, direction, strict=True):
                w += sign * 1e-6 * along
            ends.append(float(loss(module, x, y, EPSILON, 0.5)))
    slope = sum(float((g * along).sum()) for g, along in zip(gradients, direction, strict=True))
    assert abs(slope) > 1e-3
    assert (ends[1] - ends[0]) / 2e-6 == pytest.approx(slope, rel=1e-3)


def test_a_module_in_training_keeps_its_mode_and_its_statistics() -> None:
    module = nets.net("pooled").train()
    inner = module.get_submodule("inner")
    inner[1].eval()  # type: ignore[index,operator]
    before = {name: value.clone() for name, value in module.state_dict().items()}
    x, y = batch()
    interval_loss(module, x, y, EPSILON, 0.5)
    assert (module.training, inner[1].training) == (True, False)  # type: ignore[index,union-attr]
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
