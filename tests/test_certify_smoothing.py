"""Randomised smoothing: the radius by hand, on a linear classifier in closed form, and when it abstains."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import norm
from torch import Tensor, nn

import toys
from faultlight.certify.smoothing import ABSTAINED, Smoothing, lower_bound
from faultlight.data.images import Images
from faultlight.errors import InputError
from faultlight.models.subject import Subject

DRAWS = Smoothing(sigma=0.25, first=20, draws=500)


class Constant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor([[0.0, 1.0]]).expand(len(x), 2) + 0 * x.flatten(1)[:, :1]


class Coin(nn.Module):
    """The sign of one pixel's noise: a class each in half of the draws."""

    def forward(self, x: Tensor) -> Tensor:
        side = x[:, 0, 0, :1] - 0.5
        return torch.cat([side, -side], dim=1)


def images(x: Tensor) -> Images:
    ids = torch.arange(len(x)) * 7 + 3
    return Images(x, torch.zeros(len(x), dtype=torch.int64), ids, ("a", "b"), "toys")


def grey(n: int = 3) -> Images:
    return images(torch.full((n, *toys.SHAPE), 0.5))


def test_radius_of_a_constant_classifier_by_hand() -> None:
    """All n draws say the same: p = α^(1/n), and the radius is σ·Φ⁻¹(p)."""
    found = DRAWS.certify(Subject(Constant(), 2), grey())
    p = 0.001 ** (1 / 500)
    assert found.prediction.tolist() == [1, 1, 1]
    assert found.probability.tolist() == pytest.approx([p] * 3)
    assert found.radius.tolist() == pytest.approx([0.25 * float(norm.ppf(p))] * 3)


def test_lower_bound_of_the_papers_largest_radius() -> None:
    """With n = 100,000 and α = 0.001 no radius is above 3.8σ (Cohen et al., §3.2.2)."""
    assert float(norm.ppf(lower_bound(100_000, 100_000, 0.001))) == pytest.approx(3.81, abs=0.01)
    assert lower_bound(0, 10, 0.001) == 0.0
    n, count, p = 40, 30, lower_bound(30, 40, 0.05)
    tail = math.fsum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(count, n + 1))
    assert tail == pytest.approx(0.05)


def test_radius_never_passes_the_border_of_a_linear_classifier_and_nears_it() -> None:
    """There P(f(x + η) = y) = Φ(distance / σ), so σ·Φ⁻¹ of the true probability is the distance itself."""
    module = toys.linear(2)
    data = toys.images(module, 2, n=6)
    found = Smoothing(sigma=0.3, first=50, draws=4000).certify(Subject(module, 2), data)
    weight = (module[1].weight[0] - module[1].weight[1]).detach()
    logits = module(data.x).detach()
    distance = (logits[:, 0] - logits[:, 1]).abs() / weight.norm()
    held = found.prediction != ABSTAINED
    assert held.sum() >= 3
    assert (found.prediction == data.y)[held].all()
    assert (found.radius <= distance)[held].all()
    near = distance < 0.6  # beyond 2σ the draws cannot tell
    assert (found.radius >= 0.75 * distance - 0.05)[held & near].all()


def test_a_coin_abstains() -> None:
    found = DRAWS.certify(Subject(Coin(), 2), grey())
    assert found.prediction.tolist() == [ABSTAINED] * 3
    assert found.radius.tolist() == [0.0] * 3
    assert DRAWS.predict(Subject(Coin(), 2), grey()).tolist() == [ABSTAINED] * 3
    assert DRAWS.predict(Subject(Constant(), 2), grey()).tolist() == [1] * 3


def test_draws_that_give_nan_count_for_no_class() -> None:
    class Half(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            bright = x[:, 0, 0, :1] > 0.5
            return torch.where(bright, torch.nan, torch.tensor([[0.0, 1.0]]).expand(len(x), 2))

    found = DRAWS.certify(Subject(Half(), 2), grey(1))
    assert int(found.prediction) == ABSTAINED
    assert 0.3 < float(found.probability) < 0.5


def test_noise_depends_on_the_image_and_the_draw_alone() -> None:
    module = toys.linear(2)
    data = toys.images(module, 2, n=6)
    whole = DRAWS.certify(Subject(module, 2), data)
    order = torch.tensor([4, 1, 3])
    part = Smoothing(sigma=0.25, first=20, draws=500, batch=33).certify(Subject(module, 2), data.take(order))
    assert torch.equal(part.probability, whole.probability[order])
    assert not torch.equal(
        whole.probability,
        Smoothing(sigma=0.25, first=20, draws=500, seed=1).certify(Subject(module, 2), data).probability,
    )


def test_what_is_certified_is_right_and_far_enough() -> None:
    found = DRAWS.certify(Subject(Constant(), 2), grey(2))
    y = torch.tensor([1, 0])
    radius = float(found.radius[0])
    assert found.certified(y, 0.9 * radius).tolist() == [True, False]
    assert found.certified(y, 1.1 * radius).tolist() == [False, False]


@pytest.mark.parametrize("wrong", [{"sigma": 0.0}, {"alpha": 1.0}, {"draws": 0}, {"first": 0}])
def test_settings_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="Smoothing needs"):
        Smoothing(**wrong)  # type: ignore[arg-type]
