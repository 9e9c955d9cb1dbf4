"""The Square attack: windows and shapes by hand, a pixel that random search must find, and a peer's success."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import faultlight as fl
import toys
from faultlight.attacks._contract import Problem
from faultlight.attacks.square import Searching, Square, _hill, _sides
from faultlight.errors import InputError
from faultlight.evaluation.oracle import RecordingOracle
from faultlight.models.subject import Subject

SHAPE = (3, 15, 15)


def scene(shape: tuple[int, int, int] = SHAPE, n: int = 6, spread: float = 0.2) -> tuple[Subject, fl.Images]:
    net = toys.convolutional(10, shape=shape)
    return Subject(net, 10), toys.images(net, 10, n=n, shape=shape, spread=spread)


@pytest.mark.parametrize(
    ("query", "halvings"),
    # Hand-computed from the paper's table, scaled by one half: p is halved after 10/2 = 5 queries, 50/2 = 25, …
    [(0, 0), (5, 0), (6, 1), (25, 1), (26, 2), (100, 2), (101, 3), (999, 5), (1001, 6), (4000, 8), (4001, 9)],
)
def test_the_share_is_halved_when_the_paper_says(query: int, halvings: int) -> None:
    assert Square(steps=5000).halvings(torch.tensor([query])).tolist() == [halvings]
    assert Square(steps=100, rescaled=False).halvings(torch.tensor([2 * query])).tolist() == [halvings]


def test_sides_of_windows() -> None:
    """√(0.8·32·32) = 28.6, √(0.4·32·32) = 20.2, 14.3, 10.1, 7.2, 5.06, 3.6, 2.5, 1.8, 1.3; odd and 3 at least in L2."""
    assert _sides(0.8, 32, 32, 1).tolist() == [29, 20, 14, 10, 7, 5, 4, 3, 2, 1]
    assert _sides(0.8, 32, 32, 3).tolist() == [29, 21, 15, 11, 7, 5, 5, 3, 3, 3]


def test_the_hill_of_side_three() -> None:
    """Above, a row of 1 × 3: 1/4, 1 + 1/4, 1/4; below, two rows whose middle is the lower: all 1/4, then the same."""
    above = torch.tensor([[0.25, 1.25, 0.25]])
    below = torch.tensor([[0.25, 0.25, 0.25], [0.25, 1.25, 0.25]])
    expected = torch.cat([above / above.norm(), -below / below.norm()]) / 2**0.5
    assert torch.allclose(_hill(3), expected)


def stepped(attack: Square, posed: Problem, steps: int = 1) -> tuple[Searching, Tensor]:
    """The state after some steps, and the points asked about in the last."""
    state = attack.start(posed)
    oracle = posed.oracle
    assert isinstance(oracle, RecordingOracle)
    for step in range(1, steps + 1):
        state = attack.step(replace(posed, step=torch.full_like(posed.step, step)), state)
    return state, oracle.questions[-1].x


def test_it_begins_with_vertical_stripes_of_the_full_radius() -> None:
    subject, images = scene()
    _, first = stepped(Square(steps=1), toys.problem(subject, images, "linf:0.0625"))
    delta = first - images.x
    assert torch.allclose(delta.abs(), torch.tensor(0.0625), atol=1e-6)
    assert torch.equal(delta.sign(), delta[:, :, :1].sign().expand_as(delta))
    assert len(delta.sign()[:, :, 0].unique(dim=0)) == len(images), "each image has stripes of its own"
    assert 0.3 < float((delta > 0).float().mean()) < 0.7


def test_it_begins_with_tiles_of_the_full_norm() -> None:
    """In each of 25 tiles of 3 × 3 and each colour ±η or ±ηᵀ, all of one norm: ε / √(25·3)."""
    subject, images = scene()
    _, first = stepped(Square(steps=1), toys.problem(subject, images, "l2:0.5"))
    tiles = (first - images.x).unfold(2, 3, 3).unfold(3, 3, 3)
    shapes = torch.stack([sign * shape for sign in (1, -1) for shape in (_hill(3), _hill(3).T)]) * 0.5 / 75**0.5
    nearest = (tiles.unsqueeze(-3) - shapes).abs().flatten(-2).amax(-1).amin(-1)
    assert float(nearest.max()) < 1e-6
    turned = (tiles - tiles.transpose(-1, -2)).abs().amax((-1, -2)) > 1e-3
    assert bool(turned.all()), "η is not its own transpose"


def proposals(threat: str, step: int) -> tuple[Tensor, Tensor]:
    """The points that stand after some steps and those that are proposed from them, both less the clean image."""
    subject, images = scene(n=24)
    posed = toys.problem(subject, images, threat)
    state, first = stepped(Square(steps=5000), posed)
    later = replace(state, asked=torch.full_like(state.asked, step), value=torch.full_like(state.value, torch.inf))
    Square(steps=5000).step(posed, later)
    assert torch.equal(first, state.x), "the first point asked about is kept"
    assert isinstance(posed.oracle, RecordingOracle)
    return state.x - images.x, posed.oracle.questions[-1].x - images.x


@pytest.mark.parametrize(("step", "side"), [(1, 13), (6, 13), (7, 9), (27, 7), (102, 5)])
def test_one_square_is_repainted_in_one_corner_of_the_ball(step: int, side: int) -> None:
    before, after = proposals("linf:0.0625", step)
    changed = before != after
    assert torch.allclose(after.abs(), torch.tensor(0.0625), atol=1e-6)
    for row in range(len(after)):
        rows, columns = (changed[row].any(0).any(along).nonzero()[:, 0] for along in (1, 0))
        assert rows[-1] - rows[0] < side
        assert columns[-1] - columns[0] < side
        window = after[row, :, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].sign()
        assert all(len(colour.unique()) == 1 for colour in window)
    extent = [int(changed.any(1)[row].any(1).sum()) for row in range(len(after))]
    assert max(extent) == side


def test_a_window_may_lie_at_either_border() -> None:
    before, after = proposals("linf:0.0625", 102)
    touched = (before != after).any(1)
    assert touched[:, 0].any()
    assert touched[:, -1].any()


def test_norm_is_moved_from_one_square_to_another() -> None:
    """No pixel is at the box here, so each colour keeps its norm, all the norm is used and most pixels stay."""
    before, after = proposals("l2:0.5", 102)
    for delta in (before, after):
        assert delta.flatten(1).norm(dim=1).numpy() == pytest.approx([0.5] * len(delta), rel=2e-5)
    assert torch.allclose(before.flatten(2).norm(dim=2), after.flatten(2).norm(dim=2), rtol=1e-4)
    changed = ((before - after).abs() > 1e-6).any(1).flatten(1).sum(1)
    assert int(changed.max()) <= 2 * 25
    emptied = ((after == 0) & (before != 0)).all(1).flatten(1).sum(1)
    assert int(emptied.max()) == 25
    assert int(emptied.min()) < 25, "the two windows may overlap, and the first counts"


@pytest.mark.parametrize("epsilon", [1e-4, 0.01, 0.5, 20.0])
def test_in_l2_it_never_leaves_the_ball(epsilon: float) -> None:
    """In float64, where float32 would round outwards as often as not."""
    subject, images = scene((3, 40, 40), n=8, spread=0.5)
    points = toys.trace(Square(steps=6), toys.problem(subject, images, f"l2:{epsilon}")).points
    for point in points:
        distance = (point.double() - images.x.double()).flatten(1).norm(dim=1)
        assert float(distance.max()) <= epsilon
        assert float(point.min()) >= 0
        assert float(point.max()) <= 1


class MiddlePixel(nn.Module):
    """Class 1 where the middle pixel's red is above 0.55 and its blue below 0.45; linear, on images of 15 × 15."""

    def forward(self, x: Tensor) -> Tensor:
        score = torch.minimum(x[:, 0, 7, 7] - 0.55, 0.45 - x[:, 2, 7, 7])
        return torch.stack([torch.zeros_like(score), score], 1)


def test_it_finds_the_one_pixel_that_counts() -> None:
    images = fl.Images(torch.full((12, *SHAPE), 0.5), torch.zeros(12).long(), torch.arange(12), ("0", "1"), "grey")
    result = fl.attack(Subject(MiddlePixel(), 2), images, Square(steps=2000), "linf:0.0501")
    assert result.broken.all()
    assert not fl.attack(Subject(MiddlePixel(), 2), images, Square(steps=300), "linf:0.0499").broken.any()


def test_what_it_keeps_never_falls_and_ties_are_not_taken() -> None:
    subject, images = scene()
    attack, posed = Square(steps=60), toys.problem(subject, images, "linf:0.01")
    state = attack.start(posed)
    assert isinstance(posed.oracle, RecordingOracle)
    for step in range(1, 61):
        before = state
        state = attack.step(replace(posed, step=torch.full_like(posed.step, step)), before)
        asked = posed.oracle.questions[-1].x
        margin = posed.margin(subject(asked))
        kept = margin > before.value
        assert torch.equal(state.value, torch.where(kept, margin, before.value))
        assert torch.equal(state.x[~kept], before.x[~kept])
        assert torch.equal(state.x[kept], asked[kept])
    assert state.finished.all()


@pytest.mark.parametrize("threat", ["linf:0.02", "l2:0.3"])
@pytest.mark.parametrize("lookahead", [3, 50])
def test_looking_ahead_changes_no_outcome(threat: str, lookahead: int) -> None:
    """The run that decides on one query after the other, and the run that asks about several at once."""
    subject, images = scene(n=3)
    posed = toys.problem(subject, images, threat)
    plain, _ = stepped(Square(steps=40), posed, 40)
    ahead = Square(steps=40, lookahead=lookahead)
    state, rounds = ahead.start(posed), 0
    while not state.finished.all():
        state, rounds = ahead.step(posed, state), rounds + 1
    assert torch.equal(state.x, plain.x)
    assert torch.allclose(state.value, plain.value, atol=1e-4)
    assert rounds < 40


def test_a_goal_is_sought_by_its_own_margin() -> None:
    subject, images = scene(n=12)
    reached = fl.attack(subject, images, Square(steps=200), "linf:0.1", target=3)
    assert reached.broken.any()
    assert set(reached.prediction[reached.broken].tolist()) == {3}


@pytest.mark.parametrize(("norm", "peers", "epsilon"), [("linf", "Linf", 0.008), ("l2", "L2", 0.1)])
def test_it_breaks_as_many_as_autoattacks_own(norm: str, peers: str, epsilon: float) -> None:
    """200 images, 150 queries; the two draw other numbers, so the counts differ by chance: 4 deviations of a pair."""
    if importlib.util.find_spec("pyautoattack") is None:
        pytest.skip("pyautoattack is not installed; it is only needed to compare with it")
    from pyautoattack.square import SquareAttack

    subject, images = scene(n=200, spread=0.5)
    ours = fl.attack(subject, images, Square(steps=150), f"{norm}:{epsilon}", fast=False).broken
    peer = SquareAttack(subject.module, norm=peers, n_queries=150, eps=epsilon, device="cpu")
    with torch.no_grad():
        theirs = subject(peer.perturb(images.x, images.y)).argmax(1) != images.y
    one_way, other_way = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    assert 30 < int(ours.sum()) < 170, "neither hopeless nor trivial"
    assert abs(one_way - other_way) <= 4 * max(one_way + other_way, 4) ** 0.5


@pytest.mark.parametrize("settings", [{"steps": 0}, {"share": 0.0}, {"share": 1.5}, {"restarts": 0}])
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(InputError, match="Square needs"):
        Square(**settings)  # type: ignore[arg-type]


def test_norms_it_is_not_made_for_are_refused() -> None:
    subject, images = scene()
    with pytest.raises(InputError, match="Square is made for linf and l2"):
        fl.attack(subject, images, Square(), "l1:3")
