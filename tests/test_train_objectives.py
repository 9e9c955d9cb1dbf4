"""Objectives against values worked out by hand, on a network of one pixel: z = (0, 4·ln 3·x).

At x = ½ its probabilities are (1/10, 9/10); with ε = ¼, at x = ¾ they are (1/28, 27/28), at x = ¼ (1/4, 3/4).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from math import log
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from faultlight import rng
from faultlight.catalogue import catalogue
from faultlight.certify.objective import crown_interval_loss, interval_loss
from faultlight.data.load import load_data
from faultlight.errors import InputError
from faultlight.models import zoo
from faultlight.threat import parse_threat
from faultlight.train import loop
from faultlight.train.loop import Plan, fit
from faultlight.train.memory import reside
from faultlight.train.numerics import Numerics
from faultlight.train.objectives import Batch, Context, build, replays, teacher
from faultlight.train.objectives._terms import divergence, grown
from faultlight.train.objectives.adversarial import Adversarial
from faultlight.train.objectives.ard import ARD
from faultlight.train.objectives.awp import AWP, perturbation
from faultlight.train.objectives.crown_ibp import CrownIBP
from faultlight.train.objectives.distillation import Distillation
from faultlight.train.objectives.fgsm_rs import FgsmRs
from faultlight.train.objectives.free import Free
from faultlight.train.objectives.hat import HAT
from faultlight.train.objectives.ibp import IBP, risen
from faultlight.train.objectives.mart import MART, boosted_cross_entropy
from faultlight.train.objectives.n_fgsm import NFgsm
from faultlight.train.objectives.rslad import RSLAD
from faultlight.train.objectives.standard import Standard, paste
from faultlight.train.objectives.trades import TRADES
from faultlight.train.recipe import Recipe, parse_recipe
from faultlight.train.state import State, restore, save, start

PLAIN = Numerics("cpu", bf16=False, channels_last=False)
BALL = "linf:0.25"


class OnePixel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(4 * log(3)))

    def forward(self, x: Tensor) -> Tensor:
        pixel = x.flatten(1)
        return torch.cat([0 * pixel, self.w * pixel], 1)


def recipe(**changes: Any) -> Recipe:
    least = {"name": "test", "title": "", "model": "digits-cnn", "data": "digits", "epochs": 1, "batch": 1}
    return parse_recipe(least | changes)


def place(**changes: Any) -> Context:
    return Context(recipe(), 0, 0, **changes)


def halves(count: int = 1, label: int = 0) -> Batch:
    ids = torch.arange(count)
    return Batch(torch.full((count, 1, 1, 1), 0.5), torch.full_like(ids, label), ids)


def always(*logits: float) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.tensor([logits]).expand(len(x), -1)


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * log(a / b) for a, b in zip(p, q, strict=True))


CLEAN, HARD, SOFT, EVEN = [0.1, 0.9], [1 / 28, 27 / 28], [0.25, 0.75], [0.5, 0.5]


def value(found: tuple[Tensor, dict[str, Tensor]]) -> float:
    return float(found[0].detach())


def test_divergence_by_hand_and_its_mean_is_over_the_batch() -> None:
    target = torch.tensor([[0.0, log(3)], [1.0, 1.0]])
    found = divergence(target, torch.zeros(2, 2))
    assert found.tolist() == pytest.approx([kl(SOFT, EVEN), 0], abs=1e-6)
    first, second = torch.zeros(2, 2).log_softmax(1), target.softmax(1)
    assert float(found.mean()) == pytest.approx(float(functional.kl_div(first, second, reduction="batchmean")))


def test_divergence_softens_both_sides() -> None:
    assert float(divergence(torch.tensor([[0.0, 2 * log(3)]]), torch.zeros(1, 2), 2.0)) == pytest.approx(kl(SOFT, EVEN))


def test_adversarial_cross_entropy_is_that_of_the_worst_point() -> None:
    loss, metrics = Adversarial(BALL, step_size=0.5)(OnePixel(), halves(), place())
    assert float(loss.detach()) == pytest.approx(log(28), abs=1e-5)
    assert float(metrics["attacked_accuracy"]) == 0
    assert value(Adversarial(BALL, step_size=0.5)(OnePixel(), halves(label=1), place())) == pytest.approx(
        -log(0.75), abs=1e-5
    )


def test_one_step_without_random_start_is_fgsm() -> None:
    plain = Adversarial(BALL, steps=1, step_size=1.0, random_start=False)
    assert value(plain(OnePixel(), halves(), place())) == pytest.approx(log(28), abs=1e-5)
    short = Adversarial(BALL, steps=1, step_size=0.5, random_start=False)
    assert value(short(OnePixel(), halves(), place())) == pytest.approx(log(1 + 3**2.5), abs=1e-5)


def test_label_smoothing_counts_under_attack() -> None:
    smooth = Context(recipe(label_smoothing=0.2), 0, 0)
    expected = -0.9 * log(HARD[0]) - 0.1 * log(HARD[1])
    assert value(Adversarial(BALL, step_size=0.5)(OnePixel(), halves(), smooth)) == pytest.approx(expected, abs=1e-5)


def watched(objective: Any, batch: Batch, context: Context) -> Tensor:
    """The points at which an objective's loss was computed: those that training mode saw."""
    model, seen = OnePixel().train(), []
    model.register_forward_hook(lambda module, inputs, _: seen.append(inputs[0].detach()) if module.training else None)
    objective(model, batch, context)
    return seen[-1]


def test_fgsm_rs_steps_one_and_a_quarter_radii_from_a_random_point_and_is_clipped() -> None:
    batch = halves(200)
    moves = (watched(FgsmRs("linf:0.2"), batch, place()) - batch.x).flatten() / 0.2
    # η uniform in [−1, 1] radii, then min(η + 1.25, 1): 3/8 of the points are within, evenly from 0.25 on.
    assert float(moves.max()) == pytest.approx(1, abs=1e-5)
    assert 0.25 <= float(moves.min()) < 0.3
    within = moves < 0.999
    assert float(within.float().mean()) == pytest.approx(3 / 8, abs=0.1)
    assert float(moves[within].mean()) == pytest.approx(0.625, abs=0.05)


def test_n_fgsm_clips_neither_the_noise_nor_the_step() -> None:
    batch = halves(200)
    moves = (watched(NFgsm("linf:0.1"), batch, place()) - batch.x).flatten() / 0.1
    uniform = rng.uniform(place().key("noise"), batch.ids, batch.ids * 0, (1, 1, 1)).flatten()
    torch.testing.assert_close(moves, 2 * (2 * uniform - 1) + 1, atol=1e-4, rtol=0)
    assert float(moves.max()) > 2.8
    assert float(moves.min()) < -0.8


def test_points_stay_within_the_pixels_range() -> None:
    batch = halves(50)
    found = watched(NFgsm("linf:0.4"), batch, place())
    assert float(found.min()) >= 0
    assert float(found.max()) == 1


def test_free_moves_delta_by_the_backward_pass_of_the_weights() -> None:
    model, context, objective = OnePixel(), place(), Free(BALL, replays=3)
    first, _ = objective(model, halves(), context)
    assert float(first.detach()) == pytest.approx(log(10), abs=1e-5)
    assert context.memory == {}
    first.backward()  # type: ignore[no-untyped-call]
    assert context.memory["free delta"].item() == 0.25
    assert model.w.grad is not None
    assert float(model.w.grad) == pytest.approx(0.9 * 0.5, abs=1e-5)
    second, _ = objective(model, halves(), context)
    assert float(second.detach()) == pytest.approx(log(28), abs=1e-5)
    second.backward()  # type: ignore[no-untyped-call]
    assert context.memory["free delta"].item() == 0.25
    third, _ = objective(model, halves(label=1), context)  # the next batch inherits δ
    assert float(third.detach()) == pytest.approx(-log(HARD[1]), abs=1e-5)
    third.backward()  # type: ignore[no-untyped-call]
    assert context.memory["free delta"].item() == 0


def test_trades_by_hand() -> None:
    batch = halves()
    expected = log(10) + 6 * kl(CLEAN, HARD)
    found = TRADES(threat=BALL).loss(OnePixel(), batch, torch.full((1, 1, 1, 1), 0.75), place())
    assert value(found) == pytest.approx(expected, abs=1e-5)
    assert float(found[1]["clean_loss"]) == pytest.approx(log(10), abs=1e-5)
    assert float(found[1]["divergence"]) == pytest.approx(kl(CLEAN, HARD), abs=1e-5)


def test_trades_increases_the_divergence_from_the_clean_output() -> None:
    # Away from the image on the side of its first nudge: ¼ or ¾.
    batch = halves(20)
    points = TRADES(threat=BALL).points(OnePixel(), batch, place()).flatten()
    assert {round(x, 5) for x in points.tolist()} == {0.25, 0.75}
    noise = rng.normal(place().key("nudge"), batch.ids, batch.ids * 0, (1, 1, 1)).flatten()
    assert torch.equal(points > 0.5, noise > 0)


def test_boosted_cross_entropy_by_hand() -> None:
    p = torch.tensor([[0.5, 0.3, 0.2], [0.7, 0.2, 0.1]])
    found = boosted_cross_entropy(p.log() + 3, torch.tensor([1, 0]))
    assert found.tolist() == pytest.approx([-log(0.3) - log(0.5), -log(0.7) - log(0.8)], abs=1e-5)
    assert math.isfinite(float(boosted_cross_entropy(torch.tensor([[0.0, 100.0]]), torch.tensor([0]))))


def test_mart_by_hand() -> None:
    found = MART(threat=BALL)(OnePixel(), halves(), place())
    expected = 2 * log(28) + 5 * 0.9 * kl(CLEAN, HARD)
    assert value(found) == pytest.approx(expected, abs=1e-4)


def test_hat_adds_what_the_teacher_sees_at_the_attack_twice_as_far_out() -> None:
    batch = halves()
    objective = HAT(threat=BALL, teacher="x")
    context = place(teacher=always(1.0, 0.0))
    point = TRADES(threat=BALL).points(OnePixel(), batch, context)
    expected = log(10) + 2.5 * kl(CLEAN, HARD if float(point) > 0.5 else SOFT)
    beyond = 0.5 + 2 * (float(point) - 0.5)  # 0 or 1, where class 0 has 1/2 or 1/82
    helped = log(82) if beyond == 1 else log(2)
    assert value(objective(OnePixel(), batch, context)) == pytest.approx(expected + 0.5 * helped, abs=1e-4)


def test_weight_perturbation_by_hand() -> None:
    # ‖w‖ = 5, g/‖g‖ = (0, 1)
    found = perturbation(torch.tensor([3.0, 4.0]), torch.tensor([0.0, 2.0]), 0.1)
    assert found.tolist() == pytest.approx([0, 0.5])
    assert perturbation(torch.ones(2), torch.zeros(2), 0.1).tolist() == [0, 0]


def small_net() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    return nn.Sequential(*layers).train()


def some_batch(count: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(1)
    ids = torch.arange(count)
    return Batch(torch.rand(count, 1, 4, 4, generator=generator), ids % 3, ids)


def test_awp_is_trades_at_the_worst_weights_nearby_with_the_gradient_from_there() -> None:
    net, batch, context = small_net(), some_batch(), place()
    objective, trades = AWP(gamma=0.05, warmup=0.0, threat="linf:0.1"), TRADES(threat="linf:0.1")
    moved = copy.deepcopy(net)
    points = trades.points(net, batch, context)
    trades.loss(moved, batch, points, context)[0].backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for weight in moved.parameters():
            if weight.ndim > 1:
                assert weight.grad is not None
                weight += 0.05 * weight.norm() * weight.grad / weight.grad.norm()
    moved.zero_grad()
    moved.load_state_dict({name: value.clone() for name, value in net.named_buffers()}, strict=False)
    expected = trades.loss(moved, batch, points, context)[0]
    expected.backward()  # type: ignore[no-untyped-call]
    found = objective(net, batch, context)[0]
    found.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(found, expected)
    for one, other in zip(net.parameters(), moved.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-6, rtol=1e-4)
    for one, other in zip(net.buffers(), moved.buffers(), strict=True):
        torch.testing.assert_close(one, other)


def test_awp_begins_after_its_warm_up() -> None:
    net, batch = small_net(), some_batch()
    early = Context(recipe(epochs=10), 0, 0, 2)
    trades, objective = TRADES(threat="linf:0.1"), AWP(warmup=0.05, threat="linf:0.1")
    twin = copy.deepcopy(net)  # each call moves the running statistics, and so the next attack
    assert value(objective(net, batch, early)) == value(trades(twin, batch, early))
    late = Context(recipe(epochs=10), 0, 1, 2)
    assert value(objective(net, batch, late)) > value(trades(twin, batch, late))


def test_distillation_by_hand_with_the_square_of_the_temperature() -> None:
    # Teacher (0, 2 ln 3) at T = 2: (1/4, 3/4). The student says (1/2, 1/2).
    student = nn.Sequential(nn.Flatten(), nn.Linear(1, 2))
    nn.init.zeros_(student[1].weight)
    nn.init.zeros_(student[1].bias)
    objective = Distillation("x", temperature=2.0, weight=0.3)
    loss, terms = objective(student, halves(), place(teacher=always(0.0, 2 * log(3))))
    assert float(loss.detach()) == pytest.approx(0.3 * 4 * kl(SOFT, EVEN) + 0.7 * log(2), abs=1e-5)
    assert float(terms["soft_loss"]) == pytest.approx(4 * kl(SOFT, EVEN), abs=1e-5)
    loss.backward()  # type: ignore[no-untyped-call]
    # The gradient by the student's logits is α·T·(q − p) + (1 − α)·(q − y).
    assert student[1].bias.grad.tolist() == pytest.approx([0.6 * 0.25 - 0.35, -0.6 * 0.25 + 0.35], abs=1e-5)


def test_ard_by_hand() -> None:
    # The student at x' = ¾ and T = 3 says (1/4, 3/4); the teacher (1/2, 1/2).
    objective = ARD("x", temperature=3.0, weight=0.5, threat=BALL)
    found = objective(OnePixel(), halves(), place(teacher=always(0.0, 0.0)))
    assert value(found) == pytest.approx(0.5 * 9 * kl(EVEN, SOFT) + 0.5 * log(10), abs=1e-4)
    alone = ARD("x", temperature=3.0, threat=BALL)(OnePixel(), halves(), place(teacher=always(0.0, 0.0)))
    assert value(alone) == pytest.approx(9 * kl(EVEN, SOFT), abs=1e-4)


def test_rslad_by_hand() -> None:
    found = RSLAD("x", threat=BALL)(OnePixel(), halves(), place(teacher=always(0.0, 0.0)))
    assert value(found) == pytest.approx(5 / 6 * kl(EVEN, HARD) + 1 / 6 * kl(EVEN, CLEAN), abs=1e-4)


def test_a_line_that_rises_after_its_warm_up() -> None:
    assert [risen(at, 0.2, 0.4) for at in (0.1, 0.2, 0.3, 0.6, 0.9)] == pytest.approx([0, 0, 0.25, 1, 1])
    assert [risen(at, 0.2, 0.0) for at in (0.2, 0.21)] == [0, 1]


def test_bounds_follow_their_schedules() -> None:
    net, batch = zoo.build("strided-cnn", 3, (1, 4, 4)), some_batch(4)
    middle = Context(recipe(epochs=10), 3, 0, 1)  # progress 0.4
    halfway = IBP("linf:0.2", kappa=0.5, warmup=0.3, ramp=0.2)
    expected = interval_loss(net, batch.x, batch.y, 0.1, 0.75)
    loss, metrics = halfway(net, batch, middle)
    torch.testing.assert_close(loss, expected)
    assert float(metrics["epsilon"]) == pytest.approx(0.1)
    crown = CrownIBP("linf:0.2", kappa=0.0, beta=0.0, warmup=0.3, ramp=0.2)
    torch.testing.assert_close(crown(net, batch, middle)[0], crown_interval_loss(net, batch.x, batch.y, 0.1, 0.5, 0.5))


def test_bounds_are_computed_in_float32_under_bf16() -> None:
    net, batch = zoo.build("strided-cnn", 3, (1, 4, 4)), some_batch(4)
    last = Context(recipe(), 0, 0)
    plain = value(IBP("linf:0.1")(net, batch, last))
    with torch.autocast("cpu", torch.bfloat16):
        assert value(IBP("linf:0.1")(net, batch, last)) == plain


def test_epsilon_grows_over_its_ramp() -> None:
    at = [grown(parse_threat("linf:0.2"), Context(recipe(epochs=10), epoch, 0, 1), 0.5).epsilon for epoch in (0, 3, 8)]
    assert at == pytest.approx([0.04, 0.16, 0.2])


def test_a_box_is_pasted_by_hand() -> None:
    x, other = torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)
    # √(1 − ¾) = ½: a box of 2 × 2 around pixel (2, 1), of which the share of x is 12/16.
    mixed, share = paste(x, other, 0.75, 0.5, 0.25)
    assert mixed[0, 0].tolist() == [[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]
    assert share == 0.75
    # At the corner three quarters of it are cut off, and the share says so.
    mixed, share = paste(x, other, 0.75, 0.0, 0.0)
    assert float(mixed.sum()) == 1
    assert share == 15 / 16


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixed_images_have_mixed_labels(kind: str) -> None:
    net, batch, context = small_net().eval(), some_batch(), place()
    draw = np.random.default_rng(context.key("mixing"))
    partner = torch.from_numpy(draw.permutation(8))
    share = float(draw.beta(0.4, 0.4))
    if kind == "mixup":
        x = share * batch.x + (1 - share) * batch.x[partner]
    else:
        x, share = paste(batch.x, batch.x[partner], share, float(draw.random()), float(draw.random()))
    soft = share * functional.one_hot(batch.y, 3) + (1 - share) * functional.one_hot(batch.y[partner], 3)
    expected = functional.cross_entropy(net(x), soft)
    torch.testing.assert_close(Standard(**{kind: 0.4})(net, batch, context)[0], expected)


def test_the_attack_sees_running_statistics_and_leaves_them() -> None:
    net, batch, modes = small_net(), some_batch(), []
    net[1].register_forward_hook(lambda module, *_: modes.append(module.training))
    Adversarial("linf:0.1", steps=3)(net, batch, place())
    assert modes == [False, False, False, True]
    assert int(net[1].num_batches_tracked) == 1


def test_the_attack_runs_in_the_precision_of_the_run() -> None:
    net, batch, kinds = small_net(), some_batch(), set()
    net[0].register_forward_hook(lambda module, inputs, out: kinds.add(out.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = Adversarial("linf:0.1", steps=2)(net, batch, place())
    assert kinds == {torch.bfloat16}
    assert loss.dtype == torch.float32
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(weight.grad is not None for weight in net.parameters())


@dataclass(frozen=True)
class Spy:
    """Remembers which images each step got."""

    seen: Any
    replays: int = 3

    def __call__(self, model: nn.Module, batch: Batch, context: Context) -> tuple[Tensor, dict[str, Tensor]]:
        self.seen.append((context.step, batch.ids.tolist(), batch.x.sum().item()))
        return model(batch.x).sum() * 0, {}


def digits_plan(asked: Recipe, objective: Any, keep: Any = lambda _: None, tutor: Any = None, count: int = 64) -> Plan:
    images = reside(load_data("digits", "train", n=count), "cpu")
    return Plan(asked, objective, PLAIN, images, images, keep, quiet=True, teacher=tutor)


def digits_state(asked: Recipe, model: str = "digits-cnn") -> State:
    return start(zoo.build(model, 10, (1, 8, 8)), asked)


def test_replays_give_the_same_augmented_batch_several_times() -> None:
    asked = recipe(batch=32, augment={"shift": 2})
    spy = Spy([])
    fit(digits_plan(asked, spy), digits_state(asked))
    assert [step for step, _, _ in spy.seen] == list(range(6))
    assert all(spy.seen[i][1:] == spy.seen[3 * (i // 3)][1:] for i in range(6))
    assert not set(spy.seen[0][1]) & set(spy.seen[3][1])
    assert replays(Standard()) == 1


class Stopped(Exception):
    pass


@pytest.mark.parametrize("stop", [2, 5])
def test_a_run_whose_objective_remembers_goes_on_bit_for_bit(
    stop: int, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_SAVE_EVERY_SECONDS", -1.0)
    asked, objective = recipe(batch=32, optimiser={"lr": 0.01}), Free("linf:0.1", replays=3)
    unbroken = digits_state(asked)
    fit(digits_plan(asked, objective), unbroken)
    calls = 0

    def keep(state: State) -> None:
        nonlocal calls
        calls += 1
        save(state, tmp_path)
        if calls == stop:
            raise Stopped

    with pytest.raises(Stopped):
        fit(digits_plan(asked, objective, keep), digits_state(asked))
    resumed = digits_state(asked)
    assert restore(resumed, tmp_path)
    fit(digits_plan(asked, objective), resumed)
    for one, other in zip(resumed.model.parameters(), unbroken.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(resumed.memory["free delta"], unbroken.memory["free delta"])


FAST = {"threat": "linf:0.03", "steps": 1, "step_size": 1.0}
QUICK: dict[str, dict[str, Any]] = {
    "adversarial": FAST,
    "ard": FAST | {"teacher": "x", "temperature": 2.0},
    "awp": FAST,
    "crown-ibp": {"threat": "linf:0.02"},
    "distillation": {"teacher": "x"},
    "fgsm-rs": {"threat": "linf:0.03"},
    "free": {"threat": "linf:0.03", "replays": 2},
    "hat": FAST | {"teacher": "x"},
    "ibp": {"threat": "linf:0.02"},
    "mart": FAST,
    "n-fgsm": {"threat": "linf:0.03"},
    "rslad": FAST | {"teacher": "x"},
    "standard": {"mixup": 0.2, "cutmix": 0.2},
    "trades": FAST,
}


def test_every_objective_of_the_package_is_tried_here() -> None:
    assert set(QUICK) == set(catalogue("train.objectives"))


@pytest.mark.parametrize("name", sorted(QUICK))
def test_every_objective_learns(name: str) -> None:
    asked = recipe(objective={"name": name, **QUICK[name]}, epochs=10, batch=16, optimiser={"lr": 0.01})
    state = digits_state(asked, "mlp")
    fit(digits_plan(asked, build(asked), tutor=nearest_digit, count=32), state)
    assert state.history[-1]["validation_accuracy"] > 0.8
    assert state.history[-1]["train_loss"] < state.history[0]["train_loss"] * (2 if "ibp" in name else 1)


def nearest_digit(x: Tensor) -> Tensor:
    """A teacher that knows the training images by heart."""
    known = load_data("digits", "train", n=32)
    nearest = torch.cdist(x.flatten(1), known.x.flatten(1)).argmin(1)
    return 3 * functional.one_hot(known.y[nearest], 10).float()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"name": "adversarial", "steps": 0}, "PGD needs steps ≥ 1"),
        ({"name": "adversarial", "threat": "8/255"}, "names no known norm"),
        ({"name": "trades", "beta": -1.0}, r"objective\.beta must be at least 0, not -1"),
        ({"name": "trades", "ramp": 1.5}, r"objective\.ramp must lie in \[0, 1\], not 1\.5"),
        ({"name": "n-fgsm", "threat": "l2:1"}, "'n-fgsm' is made for L∞"),
        ({"name": "free", "replays": 0}, r"objective\.replays must be at least 1"),
        ({"name": "distillation", "temperature": 0.0}, r"objective\.temperature must be above 0"),
    ],
)
def test_settings_out_of_range_are_told(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        build(recipe(objective=settings))


def test_an_objective_without_the_teacher_it_needs_is_told() -> None:
    with pytest.raises(InputError, match=r"HAT learns from a trained network; name its folder by objective\.teacher"):
        teacher(HAT())
    assert teacher(HAT(teacher="runs/x")) == "runs/x"
    assert teacher(TRADES()) is None
