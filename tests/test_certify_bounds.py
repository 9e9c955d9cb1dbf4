"""Bounds: closed forms on linear nets, a net by hand, never looser than intervals, and never left by any point."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor, nn

import certify_nets as nets
import toys
from faultlight import geometry
from faultlight.certify._backward import least
from faultlight.certify._ball import ball
from faultlight.certify._lines import lines
from faultlight.certify._margins import Bound, every_other_class
from faultlight.certify._network import Network
from faultlight.certify._ranges import Ranges, interval_ranges
from faultlight.certify._reading import read_network
from faultlight.certify._window import Carried, Window
from faultlight.certify.certificate import CASCADE, certify, certify_images
from faultlight.certify.crown import Crown
from faultlight.certify.interval import Interval
from faultlight.errors import InputError
from faultlight.models.subject import Subject
from faultlight.threat import NORMS, Norm, Threat, parse_threat

BOUNDS = (Interval(), Crown(hidden="interval"), Crown(), Crown(steps=4))
some = settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
kinds, seeds, norms = st.sampled_from(list(nets.KINDS)), st.integers(0, 10_000), st.sampled_from(NORMS)
sizes = st.sampled_from([0.003, 0.03, 0.1, 0.3])


def threat_of(norm: Norm, size: float) -> Threat:
    """A ball that moves the values of a small image by about as much in any norm."""
    return Threat(norm, {"linf": size, "l2": 4 * size, "l1": 20 * size, "l0": float(1 + int(10 * size))}[norm])


def margins(bound: Bound, module: nn.Module, x: Tensor, threat: Threat, y: Tensor | None = None) -> Tensor:
    network = read_network(module, tuple(x.shape[1:]))
    y = module(x).argmax(1) if y is None else y
    found = bound.margins(network, ball(x, threat), y, every_other_class(y, network.classes))
    assert torch.isneginf(found.gather(1, y[:, None])).all()
    return found.detach().masked_fill(~every_other_class(y, network.classes), torch.inf)


def margins_at(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    logits = module(x)
    gaps = logits.gather(1, y[:, None]) - logits
    return gaps.double().masked_fill(~every_other_class(y, logits.shape[1]), torch.inf)


def linear(seed: int = 0) -> tuple[nn.Sequential, Tensor, Tensor, Tensor]:
    """A linear net in float64, images, labels, and the differences of its weights, (n, classes, pixels)."""
    module, x = toys.linear(4, seed).double(), nets.pixels(6, seed, toys.SHAPE).double()
    y, weight = module(x).argmax(1), module[1].weight
    return module, x, y, (weight[y][:, None] - weight).detach()


@pytest.mark.parametrize("bound", BOUNDS, ids=str)
def test_linf_margin_of_a_linear_net_is_exact_with_the_box(bound: Bound) -> None:
    module, x, y, w = linear()
    lower, upper = ((x + sign * 0.2).clamp(0, 1).flatten(1)[:, None] for sign in (-1, 1))
    ends = (w.clamp(min=0) * lower + w.clamp(max=0) * upper).sum(2)
    bias = module[1].bias
    expected = (ends + bias[y][:, None] - bias).masked_fill(~every_other_class(y, 4), torch.inf)
    torch.testing.assert_close(margins(bound, module, x, Threat("linf", 0.2)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bound", BOUNDS, ids=str)
@pytest.mark.parametrize(("norm", "dual"), [("l2", 2), ("l1", float("inf"))])
def test_margin_of_a_linear_net_falls_by_the_dual_norm(bound: Bound, norm: Norm, dual: float) -> None:
    """Where the box is out of reach."""
    module, _, _, _ = linear()
    x = torch.full((2, *toys.SHAPE), 0.5, dtype=torch.float64)
    y = module(x).argmax(1)
    w = (module[1].weight[y][:, None] - module[1].weight).detach()
    expected = margins_at(module, x, y) - 0.3 * torch.linalg.vector_norm(w, dual, dim=2)
    torch.testing.assert_close(margins(bound, module, x, Threat(norm, 0.3)), expected, rtol=1e-4, atol=1e-4)


def test_l2_margin_is_that_of_a_solver_where_the_box_cuts_in() -> None:
    module, x, y, w = linear(seed=1)
    found = margins(Crown(), module, x, Threat("l2", 0.7))
    for i in range(3):
        j = (int(y[i]) + 1) % 4
        point, slope = x[i].flatten().numpy(), w[i, j].numpy()
        inside = {"type": "ineq", "fun": lambda z, point=point: 0.49 - ((z - point) ** 2).sum()}
        solved = minimize(lambda z, slope=slope: slope @ z, point, bounds=[(0, 1)] * 16, constraints=inside, tol=1e-9)
        bias = float((module[1].bias[y[i]] - module[1].bias[j]).detach())
        assert float(found[i, j]) == pytest.approx(solved.fun + bias, abs=2e-3)
        assert float(found[i, j]) <= solved.fun + bias + 1e-6


def test_l1_and_l0_margins_by_hand() -> None:
    """Three pixels 0.9, 0.5, 0.2; the margin 3·x₁ − 2·x₂ + x₃ − 1 is 0.9 at the image."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(3, 2)).double()
    with torch.no_grad():
        module[1].weight.copy_(torch.tensor([[3.0, -2.0, 1.0], [0.0, 0.0, 0.0]]))
        module[1].bias.copy_(torch.tensor([-1.0, 0.0]))
    x = torch.tensor([0.9, 0.5, 0.2], dtype=torch.float64).view(1, 1, 1, 3)
    assert float(module(x)[0, 0].detach()) == pytest.approx(0.9)
    # L1 of 1.0: pixel 1 all the way down (0.9 at slope 3), then 0.1 of pixel 2 at slope 2.
    assert float(margins(Crown(), module, x, Threat("l1", 1.0))[0, 1]) == pytest.approx(0.9 - 2.7 - 0.2, abs=1e-5)
    # One pixel: 3·0.9 is the deepest fall; two: 2·0.5 beside it.
    assert float(margins(Crown(), module, x, Threat("l0", 1.0))[0, 1]) == pytest.approx(0.9 - 2.7, abs=1e-5)
    assert float(margins(Crown(), module, x, Threat("l0", 2.0))[0, 1]) == pytest.approx(0.9 - 3.7, abs=1e-5)


def by_hand() -> nn.Sequential:
    """s = x₁ + x₂; z₀ = relu(s − 0.9) − relu(s − 1) + 0.3, z₁ = 0."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)).double()
    with torch.no_grad():
        module[1].weight.fill_(1.0)
        module[1].bias.copy_(torch.tensor([-0.9, -1.0]))
        module[3].weight.copy_(torch.tensor([[1.0, -1.0], [0.0, 0.0]]))
        module[3].bias.copy_(torch.tensor([0.3, 0.0]))
    return module


@pytest.mark.parametrize(
    ("bound", "expected"),
    [
        # relu(s − 0.9) ≥ 0 and relu(s − 1) ≤ 0.5 for s in [0.5, 1.5]
        (Interval(), -0.2),
        # relu(s − 0.9) ≥ s − 0.9 on [−0.4, 0.6]; relu(s − 1) ≤ (s − 1)/2 + 1/4; s/2 − 0.65 + 0.3 is least at s = 0.5
        (Crown(), -0.1),
        # with α(s − 0.9) below: −0.4·α at s = 0.5 and 0.6·α − 0.5 at s = 1.5 meet at α = 1/2
        (Crown(steps=100), 0.1),
    ],
)
def test_two_neurons_by_hand(bound: Bound, expected: float) -> None:
    x, y = torch.full((1, 1, 1, 2), 0.5, dtype=torch.float64), torch.tensor([0])
    assert float(margins(bound, by_hand(), x, Threat("linf", 0.25), y)[0, 1]) == pytest.approx(expected, abs=2e-3)


def test_max_pool_lines_by_hand() -> None:
    """A window with [0, 1] and [0.4, 2]: below lies the second input; above, (2 − 1)/(2 − 0.4)·(x − 0.4) + 1."""
    module = nn.Sequential(nn.MaxPool2d((1, 2)), nn.Flatten()).double()
    network = read_network(nn.Sequential(nn.Identity(), *module), (1, 1, 2), check=False)
    x = torch.tensor([0.5, 0.5], dtype=torch.float64).view(1, 1, 1, 2)
    ranges = interval_ranges(network, ball(x, Threat("linf", 0.1)))
    ranges.lower[0], ranges.upper[0] = (torch.tensor(v).double().view(1, 1, 1, 2) for v in ([0.0, 0.4], [1.0, 2.0]))
    found = lines(network, ranges)[1]
    assert (int(found.below), int(found.above)) == (1, 1)  # type: ignore[union-attr]
    assert float(found.slope) == pytest.approx(0.625)  # type: ignore[union-attr]
    assert float(found.shift) == pytest.approx(0.75)


@given(kind=kinds, seed=seeds, norm=norms, size=sizes)
@some
def test_no_point_leaves_any_bound(kind: str, seed: int, norm: Norm, size: float) -> None:
    """Neither the range of any number in the net, nor any margin; random points and those of a gradient attack."""
    module, x, threat = nets.net(kind, seed), nets.pixels(3, seed), threat_of(norm, size)
    network, y = read_network(module, nets.SHAPE), module(x).argmax(1)
    tried = torch.cat([nets.points(x, threat, 12, seed), attacked(module, x, y, threat)[None]])
    for bound in (Interval(), Crown(), Crown(steps=3)):
        found = margins(bound, module, x, threat)
        for each in tried:
            assert (margins_at(module, each, y) >= found).all()
    for ranges in (interval_ranges(network, ball(x, threat)), Crown().ranges(network, ball(x, threat))):
        for each in tried:
            check_inside(network, ranges, each)


def attacked(module: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    point = x
    for _ in range(15):
        leaf = point.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(margins_at(module, leaf, y).amin(1).sum(), leaf)
        length = threat.epsilon / 4 if threat.norm in ("linf", "l2") else 1.0
        norm: Literal["linf", "l2"] = "l2" if threat.norm == "l2" else "linf"
        point = geometry.project(point - length * geometry.ascent(gradient, norm), x, threat)
    return point


def check_inside(network: Network, ranges: Ranges, x: Tensor) -> None:
    for place, value in enumerate(network.values(x)):
        assert (value >= ranges.lower[place]).all(), network.nodes[place].name
        assert (value <= ranges.upper[place]).all(), network.nodes[place].name


@given(kind=kinds, seed=seeds, norm=norms, size=sizes)
@some
def test_crown_is_never_looser_than_intervals(kind: str, seed: int, norm: Norm, size: float) -> None:
    module, x, threat = nets.net(kind, seed), nets.pixels(2, seed), threat_of(norm, size)
    network, around = read_network(module, nets.SHAPE), ball(x, threat)
    found = [margins(bound, module, x, threat) for bound in BOUNDS]
    for looser, tighter in ((0, 1), (0, 2), (2, 3)):
        assert (found[tighter] >= found[looser] - 1e-5 * found[looser].abs().nan_to_num(0, 0, 0)).all()
    wide, narrow = interval_ranges(network, around), Crown().ranges(network, around)
    for place in range(len(network.nodes)):
        slack = 1e-5 * wide.size[place]
        assert (narrow.lower[place] >= wide.lower[place] - slack).all()
        assert (narrow.upper[place] <= wide.upper[place] + slack).all()


def test_crown_is_tighter_where_it_should_be() -> None:
    threat, x = Threat("linf", 0.03), nets.pixels(4)
    for kind in nets.KINDS:
        module = nets.net(kind, seed=3)
        gained = margins(Crown(), module, x, threat) - margins(Interval(), module, x, threat)
        assert float(gained.nan_to_num(0, 0, 0).amax()) > 0.01, kind


@pytest.mark.parametrize("kind", ["pooled", "strided", "residual", "normalising"])
def test_a_window_bounds_what_the_whole_map_does(kind: str) -> None:
    module, x = nets.net(kind).double(), nets.pixels(3).double()
    network, around = read_network(module, nets.SHAPE), ball(x, Threat("linf", 0.05))
    ranges = interval_ranges(network, around)
    owner, checked = torch.tensor([0, 1, 2, 2]), 0
    for place in network.bent:
        shape = network.nodes[place].shape
        if len(shape) != 3:
            continue
        for row, column in {(0, 0), (shape[1] - 1, shape[2] - 1), (shape[1] // 2, shape[2] // 2)}:
            window = Window(row, row + 1, column, column + 1)
            a = torch.randn(4, shape[0], 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
            found = [
                least(network, around, ranges, place, function, owner, lines(network, ranges))
                for function in (Carried(a, window), Carried(window.laid_out(a, shape)))
            ]
            torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)
            checked += 1
    assert checked >= 2


def test_bounds_hold_for_the_rounding_of_float32() -> None:
    """Weights of 10⁴ that cancel: in float32 the margin of one and the same image varies with the order of its sum."""
    torch.manual_seed(0)
    big = torch.randn(512) * 1e4
    weight = torch.stack([torch.cat([big, -big]), torch.zeros(1024)])
    module = nn.Sequential(nn.Flatten(), nn.Linear(1024, 2))
    with torch.no_grad():
        module[1].weight.copy_(weight)
        module[1].bias.copy_(torch.tensor([0.5, 0.0]))
    x = torch.full((1, 1, 32, 32), 0.7)
    found = float(margins(Crown(), module.requires_grad_(False), x, Threat("linf", 1e-9), torch.tensor([0]))[0, 1])
    flat, order = (weight[0] * 0.7), torch.Generator().manual_seed(1)
    sums = []
    for _ in range(50):
        total = torch.zeros(())
        for part in flat[torch.randperm(1024, generator=order)].split(1):
            total = total + part[0]
        sums.append(float(total) + 0.5)
    assert min(sums) < 0.5 < max(sums)
    assert found <= min(sums)


def test_the_budget_decides_what_is_narrowed() -> None:
    module, x, threat = nets.net("strided"), nets.pixels(3), Threat("linf", 0.05)
    none, all_of_it = margins(Crown(budget=0.0), module, x, threat), margins(Crown(), module, x, threat)
    torch.testing.assert_close(none, margins(Crown(hidden="interval"), module, x, threat))
    assert (all_of_it >= none - 1e-5).all()
    assert (all_of_it > none + 1e-3).any()


def test_certify_names_the_bound_that_proved_each_image() -> None:
    module, x = nets.net("dense"), nets.pixels(40)
    y = module(x).argmax(1)
    found = certify(Subject(module, nets.CLASSES), x, y, "linf:0.05")
    assert {int(i) for i in found.bound} >= {-1, 0, 1}
    assert (found.certified == (found.bound >= 0)).all()
    assert (found.certified == (found.margin > 0)).all()
    for place, bound in enumerate(CASCADE.values()):
        alone = margins(bound, module, x, parse_threat("linf:0.05")).amin(1) > 0
        assert alone[found.bound == place].all()
        assert not (alone & ((found.bound > place) | (found.bound < 0))).any()


def test_a_wrong_label_is_never_certified() -> None:
    module, x = nets.net("dense"), nets.pixels(10)
    y = (module(x).argmax(1) + 1) % nets.CLASSES
    found = certify_images(read_network(module, nets.SHAPE), x, y, parse_threat("linf:0.001"))
    assert not found.certified.any()
    assert torch.isneginf(found.margin).all(), "nothing is spent on it"


@pytest.mark.parametrize("wrong", [{"hidden": "exact"}, {"steps": -1}, {"budget": -1.0}])
def test_settings_are_checked(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError, match="Crown needs"):
        Crown(**wrong)  # type: ignore[arg-type]
