"""Norms, projections and directions: hand-computed cases, closed forms, and hypothesis looking for a way out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from torch import Tensor

from faultlight import geometry, rng
from faultlight.threat import NORMS, Norm, Threat

# Pixels for which sums with the usual ε round badly: both ends, the halves, neighbours of ε, subnormals.
AWKWARD = [0.0, 1.0, 0.5, 0.25, 8 / 255, 0.1, 0.3, 1 - 8 / 255, 0.9, 0.7, 0.10001, 0.3000001, 0.0313726, 1e-9, 1e-40]
THREATS = [
    *(Threat("linf", epsilon) for epsilon in (8 / 255, 0.1, 0.3, 1 / 255, 0.031, 16 / 255, 1e-3)),
    *(Threat("l2", epsilon) for epsilon in (0.5, 0.1, 1.0, 0.01)),
    *(Threat("l1", epsilon) for epsilon in (0.5, 0.1, 2.0)),
    *(Threat("l0", epsilon) for epsilon in (1.0, 3.0)),
]
SHAPE = (2, 2, 2, 3)


def single(value: float) -> float:
    return float(np.float32(value))


def images(low: float, high: float) -> st.SearchStrategy[Tensor]:
    """Float32 images of SHAPE, awkward values among them."""
    awkward = st.sampled_from([single(value) for value in AWKWARD])
    value = awkward | st.floats(low, high, width=32)
    size = math.prod(SHAPE)
    return st.lists(value, min_size=size, max_size=size).map(lambda flat: torch.tensor(flat).view(SHAPE))


def distance(candidate: Tensor, x: Tensor, kind: Norm) -> Tensor:
    """The norm of the difference, computed in float64 by numpy alone."""
    delta = candidate.numpy().astype(np.float64) - x.numpy().astype(np.float64)
    flat = np.abs(delta.reshape(len(delta), -1))
    found = {
        "linf": flat.max(1),
        "l2": np.sqrt((flat**2).sum(1)),
        "l1": flat.sum(1),
        "l0": (delta != 0).any(1).reshape(len(delta), -1).sum(1).astype(np.float64),
    }
    return torch.from_numpy(found[kind])


def test_norms_of_a_hand_made_image() -> None:
    delta = torch.tensor([[[[0.3, 0.0], [0.0, -0.4]], [[0.0, 0.0], [0.0, 1.2]]]])
    found = {kind: float(geometry.norm(delta, kind)) for kind in NORMS}
    assert found == pytest.approx({"linf": 1.2, "l2": 1.3, "l1": 1.9, "l0": 2.0}, abs=1e-7)


def test_norm_does_not_underflow() -> None:
    delta = torch.full((1, 1, 2, 2), 1e-30)
    assert float(geometry.norm(delta, "l2")) == pytest.approx(2e-30)


def test_diameter_is_the_distance_of_black_and_white() -> None:
    shape = (3, 4, 5)
    black, white = torch.zeros(1, *shape), torch.ones(1, *shape)
    for kind in NORMS:
        assert geometry.diameter(shape, kind) == pytest.approx(float(geometry.norm(white - black, kind)))


@given(x=images(0, 1), threat=st.sampled_from([threat for threat in THREATS if threat.norm == "linf"]))
@settings(deadline=None)
def test_linf_box_is_the_ball_to_the_last_bit(x: Tensor, threat: Threat) -> None:
    lower, upper = geometry.box(x, threat)
    exact = x.double()
    assert bool((exact - lower.double() <= threat.epsilon).all())
    assert bool((upper.double() - exact <= threat.epsilon).all())
    assert float(lower.min()) >= 0
    assert float(upper.max()) <= 1
    # And it gives nothing away but the last bit.
    assert float((lower.double() - (exact - threat.epsilon).clamp(min=0)).max()) <= 2**-23
    assert float(((exact + threat.epsilon).clamp(max=1) - upper.double()).max()) <= 2**-23


def test_box_of_other_norms_is_the_unit_cube() -> None:
    lower, upper = geometry.box(torch.rand(2, 1, 3, 3), Threat("l2", 0.1))
    assert bool((lower == 0).all())
    assert bool((upper == 1).all())


@given(x=images(0, 1), candidate=images(-2, 3), threat=st.sampled_from(THREATS))
@settings(max_examples=200, deadline=None)
def test_projection_is_never_outside(x: Tensor, candidate: Tensor, threat: Threat) -> None:
    before = x.clone(), candidate.clone()
    found = geometry.project(candidate, x, threat)
    assert bool((distance(found, x, threat.norm) <= threat.epsilon).all())
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    assert torch.equal(geometry.project(found, x, threat), found), "projecting twice is projecting once"
    assert torch.equal(x, before[0])
    assert torch.equal(candidate, before[1])


@given(x=images(0, 1), candidate=images(0, 1), threat=st.sampled_from(THREATS), share=st.floats(0, 1))
@settings(max_examples=200, deadline=None)
def test_points_inside_are_returned_bit_for_bit(x: Tensor, candidate: Tensor, threat: Threat, share: float) -> None:
    candidate = (x + (candidate - x) * share).clamp(0, 1)
    inside = distance(candidate, x, threat.norm) <= threat.epsilon
    assert torch.equal(geometry.project(candidate, x, threat)[inside], candidate[inside])


@pytest.mark.parametrize("threat", THREATS, ids=str)
@pytest.mark.parametrize("grey", [1.0, 0.9, 0.7, 0.51, 0.3])
def test_equal_pixels_cannot_gather_rounding(threat: Threat, grey: float) -> None:
    """All pixels round the same way here, so 3,072 half units in the last place would add up."""
    x = torch.full((1, 3, 32, 32), grey)
    for target in (0.0, 1.0):
        found = geometry.project(torch.full_like(x, target), x, threat)
        assert float(distance(found, x, threat.norm)) <= threat.epsilon


def test_linf_projection_by_hand() -> None:
    x = torch.tensor([0.5, 0.5, 0.125, 0.875, 0.5]).view(1, 1, 1, 5)
    candidate = torch.tensor([0.9, 0.1, -1.0, 2.0, 0.6]).view(1, 1, 1, 5)
    found = geometry.project(candidate, x, Threat("linf", 0.25))
    assert found.flatten().tolist() == [0.75, 0.25, 0.0, 1.0, single(0.6)]


@given(x=images(0, 1), candidate=images(-2, 3), threat=st.sampled_from(THREATS[:7]))
@settings(deadline=None)
def test_linf_projection_is_the_nearest_point(x: Tensor, candidate: Tensor, threat: Threat) -> None:
    """Of an interval the nearest point is the clamped one; here in float64, from first principles."""
    low = np.maximum(x.double().numpy() - threat.epsilon, 0)
    high = np.minimum(x.double().numpy() + threat.epsilon, 1)
    nearest = np.median(np.stack([low, candidate.double().numpy(), high]), axis=0)
    assert np.abs(geometry.project(candidate, x, threat).double().numpy() - nearest).max() <= 2**-23


def test_l2_projection_by_hand() -> None:
    x = torch.tensor([[0.5, 0.5]]).view(1, 1, 1, 2)
    candidate = torch.tensor([[0.8, 0.1]]).view(1, 1, 1, 2)  # δ = (0.3, −0.4), ‖δ‖ = 0.5
    found = geometry.project(candidate, x, Threat("l2", 0.25))
    assert found.flatten().tolist() == pytest.approx([0.65, 0.3], abs=1e-6)


def test_l2_projection_is_the_scaled_difference_inside_the_box() -> None:
    generator = torch.Generator().manual_seed(0)
    x = 0.5 + 0.1 * torch.rand(8, 2, 4, 4, generator=generator)
    delta = 0.3 * (torch.rand(x.shape, generator=generator) - 0.5)
    found = geometry.project(x + delta, x, Threat("l2", 0.2))
    expected = x.double() + delta.double() * 0.2 / delta.double().flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    assert float((found.double() - expected).abs().max()) < 2e-7


def test_clamping_comes_before_the_ball() -> None:
    """A pixel beyond the box does not use up the radius: δ = (5, 0.3) is (0.5, 0.3) in the box, then scaled."""
    x = torch.tensor([0.5, 0.5]).view(1, 1, 1, 2)
    found = geometry.project(torch.tensor([5.5, 0.8]).view(1, 1, 1, 2), x, Threat("l2", 0.1))
    scale = 0.1 / math.hypot(0.5, 0.3)
    assert found.flatten().tolist() == pytest.approx([0.5 + 0.5 * scale, 0.5 + 0.3 * scale], abs=1e-6)


def test_l1_projection_by_hand() -> None:
    """δ = (0.3, 0.1, −0.2), radius 0.3: θ = (0.6 − 0.3) / 3 = 0.1 leaves (0.2, 0, −0.1)."""
    x = torch.full((1, 1, 1, 3), 0.5)
    candidate = torch.tensor([0.8, 0.6, 0.3]).view(1, 1, 1, 3)
    found = geometry.project(candidate, x, Threat("l1", 0.3))
    assert found.flatten().tolist() == pytest.approx([0.7, 0.5, 0.4], abs=1e-6)


def excess(theta: float, magnitude: np.ndarray, radius: float) -> float:
    return float(np.maximum(magnitude - theta, 0).sum() - radius)


@pytest.mark.parametrize("radius", [0.05, 0.5, 3.0])
def test_l1_projection_equals_the_root_of_its_equation(radius: float) -> None:
    """Σ max(|δᵢ| − θ, 0) = radius, solved for θ by bisection in float64."""
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(6, 2, 4, 4, generator=generator)
    candidate = torch.rand(x.shape, generator=generator)
    found = geometry.project(candidate, x, Threat("l1", radius))
    for start, goal, point in zip(x.double().numpy(), candidate.double().numpy(), found.double().numpy(), strict=True):
        delta = goal - start
        theta = optimize.brentq(excess, 0, 1, args=(np.abs(delta), radius), xtol=1e-14)
        expected = start + np.sign(delta) * np.maximum(np.abs(delta) - theta, 0)
        assert np.abs(point - expected).max() < 5e-7 * max(1, radius)


def test_l0_projection_keeps_the_largest_changes_as_they_are() -> None:
    generator = torch.Generator().manual_seed(2)
    x, candidate = torch.rand(5, 3, 4, 4, generator=generator), torch.rand(5, 3, 4, 4, generator=generator)
    found = geometry.project(candidate, x, Threat("l0", 3))
    change = (candidate.double() - x.double()).square().sum(1).flatten(1)
    for row in range(5):
        kept = set(change[row].argsort(descending=True)[:3].tolist())
        for place in range(16):
            expected = candidate if place in kept else x
            assert torch.equal(found[row].flatten(1)[:, place], expected[row].flatten(1)[:, place])


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_no_rows_are_no_fault(threat: Threat) -> None:
    nothing = torch.zeros(0, 2, 3, 3)
    assert geometry.project(nothing, nothing, threat).shape == nothing.shape
    assert geometry.random_in_ball(nothing, nothing, threat).shape == nothing.shape
    assert geometry.ascent(nothing, threat.norm).shape == nothing.shape


def test_one_row_is_projected_as_among_others() -> None:
    generator = torch.Generator().manual_seed(3)
    x, candidate = torch.rand(9, 1, 4, 4, generator=generator), torch.rand(9, 1, 4, 4, generator=generator)
    for threat in THREATS:
        together = geometry.project(candidate, x, threat)
        alone = [geometry.project(candidate[i : i + 1], x[i : i + 1], threat) for i in range(9)]
        assert torch.equal(torch.cat(alone), together)


@pytest.mark.parametrize("kind", NORMS)
def test_ascent_has_unit_norm_and_gains_the_dual_norm(kind: Norm) -> None:
    """max over ‖d‖ ≤ 1 of ⟨g, d⟩ is the dual norm of g: L1 for L∞, L2 for L2, L∞ for L1 and, with signs, for L0."""
    generator = torch.Generator().manual_seed(4)
    gradient = torch.randn(20, 1, 5, 5, generator=generator)
    direction = geometry.ascent(gradient, kind)
    gain = (gradient.double() * direction.double()).flatten(1).sum(1)
    flat = gradient.double().flatten(1)
    dual = {"linf": flat.abs().sum(1), "l2": flat.norm(dim=1), "l1": flat.abs().amax(1), "l0": flat.abs().amax(1)}
    assert gain.tolist() == pytest.approx(dual[kind].tolist(), rel=1e-6)
    assert geometry.norm(direction, kind).tolist() == pytest.approx([1.0] * 20, rel=1e-6)


@pytest.mark.parametrize("kind", ["linf", "l2", "l1"])
def test_no_other_direction_gains_more(kind: Norm) -> None:
    generator = torch.Generator().manual_seed(5)
    gradient = torch.randn(1, 2, 2, 2, generator=generator)
    best = float((gradient * geometry.ascent(gradient, kind)).sum())
    others = torch.randn(2000, 2, 2, 2, generator=generator)
    others = others / geometry.norm(others, kind).float().view(-1, 1, 1, 1)
    assert float((gradient * others).flatten(1).sum(1).max()) <= best + 1e-5


def test_l1_ascent_shares_between_equals() -> None:
    gradient = torch.tensor([2.0, -2.0, 1.0, 0.0]).view(1, 1, 2, 2)
    assert geometry.ascent(gradient, "l1").flatten().tolist() == [0.5, -0.5, 0.0, 0.0]


def test_l0_ascent_moves_all_channels_of_one_pixel() -> None:
    gradient = torch.zeros(1, 3, 2, 2)
    gradient[0, :, 1, 0] = torch.tensor([1.0, -2.0, 0.5])
    gradient[0, 0, 0, 0] = 2.1
    expected = torch.zeros(1, 3, 2, 2)
    expected[0, :, 1, 0] = torch.tensor([1.0, -1.0, 1.0])
    assert torch.equal(geometry.ascent(gradient, "l0"), expected)


@pytest.mark.parametrize("kind", NORMS)
def test_zero_gradient_gives_no_direction(kind: Norm) -> None:
    assert torch.equal(geometry.ascent(torch.zeros(2, 1, 3, 3), kind), torch.zeros(2, 1, 3, 3))


@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("size", [1e-25, 1e-37])
def test_vanishing_gradients_still_point(kind: Norm, size: float) -> None:
    """A saturated model's gradients: their squares are 0 in float32."""
    gradient = torch.tensor([3.0, -4.0, 0.0, 0.0]).view(1, 1, 2, 2)
    small = geometry.ascent(gradient * size, kind)
    assert small.flatten().tolist() == pytest.approx(geometry.ascent(gradient, kind).flatten().tolist(), rel=1e-6)


@given(x=images(0, 1), seed=st.integers(0, 10**6), threat=st.sampled_from(THREATS))
@settings(deadline=None)
def test_random_points_lie_in_ball_and_box(x: Tensor, seed: int, threat: Threat) -> None:
    uniform = rng.uniform(rng.key(seed), torch.arange(2), torch.zeros(2, dtype=torch.int64), SHAPE[1:])
    found = geometry.random_in_ball(uniform, x, threat)
    assert bool((distance(found, x, threat.norm) <= threat.epsilon).all())
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1


@pytest.mark.parametrize("ends", [0.0, 0.5, float(np.nextafter(np.float32(1), np.float32(0)))])
@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_random_points_of_the_ends_are_finite(threat: Threat, ends: float) -> None:
    x = torch.full((1, 1, 3, 3), 0.4)
    assert bool(torch.isfinite(geometry.random_in_ball(torch.full_like(x, ends), x, threat)).all())


def spread(threat: Threat, shape: tuple[int, int, int], n: int = 20_000) -> Tensor:
    """δ of n random points around mid-grey, where the box is out of reach."""
    uniform = rng.uniform(rng.key(0, "spread"), torch.arange(n), torch.zeros(n, dtype=torch.int64), shape)
    x = torch.full((n, *shape), 0.5)
    return (geometry.random_in_ball(uniform, x, threat) - x).flatten(1).double() / threat.epsilon


def test_random_linf_points_fill_the_cube_evenly() -> None:
    delta = spread(Threat("linf", 0.25), (1, 1, 2))
    assert float(delta.mean(0).abs().max()) < 4 / math.sqrt(3 * len(delta))
    assert delta.square().mean(0).tolist() == pytest.approx([1 / 3, 1 / 3], rel=0.03)
    assert float((delta.abs().amax(1) < 0.5).double().mean()) == pytest.approx(0.25, abs=0.015)


@pytest.mark.parametrize("pixels", [2, 5])
def test_random_l2_points_fill_the_ball_evenly(pixels: int) -> None:
    """Of a ball in d dimensions the share rᵈ lies within r of the centre, and direction and radius are independent."""
    delta = spread(Threat("l2", 0.25), (1, 1, pixels))
    radius = delta.norm(dim=1)
    for r in (0.5, 0.8):
        assert float((radius < r).double().mean()) == pytest.approx(r**pixels, abs=0.015)
    direction = delta / radius[:, None]
    assert float(direction.mean(0).abs().max()) < 0.03
    assert direction.square().mean(0).tolist() == pytest.approx([1 / pixels] * pixels, abs=0.02)
    together = ((radius - radius.mean())[:, None] * direction).mean(0)
    assert float(together.abs().max()) < 0.01
