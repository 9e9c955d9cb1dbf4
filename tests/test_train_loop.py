"""The one loop against arithmetic done by hand."""

from __future__ import annotations

import math
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from faultlight import stamp
from faultlight.data.images import Images
from faultlight.errors import InputError
from faultlight.models import zoo
from faultlight.train import loop
from faultlight.train.average import gathered, renew_statistics
from faultlight.train.interrupt import held_interrupt
from faultlight.train.loop import Plan, accuracy_and_loss, fit
from faultlight.train.memory import Resident, Splits, check_splits, reside, shuffle
from faultlight.train.numerics import Numerics, decide
from faultlight.train.objectives import Batch, Context
from faultlight.train.objectives.standard import Standard
from faultlight.train.recipe import Recipe, parse_recipe
from faultlight.train.state import State, restore, save, start

PLAIN = Numerics("cpu", bf16=False, channels_last=False)
NOT_KEPT = "not kept"


def recipe(**changes: Any) -> Recipe:
    least = {"name": "test", "title": "", "model": "digits-cnn", "data": "digits", "epochs": 1, "batch": 1}
    return parse_recipe(least | changes)


class OneWeight(nn.Module):
    """One logit w·x of one pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) * self.w


def halved_square(model: nn.Module, batch: Batch, context: Context) -> tuple[Tensor, dict[str, Tensor]]:
    """(w·x − 1)²/2, whose gradient at x = 1 is w − 1."""
    miss = (model(batch.x) - 1).flatten()
    return (miss**2 / 2).mean(), {"miss": miss.mean()}


def white(count: int) -> Resident:
    return Resident(torch.full((count, 1, 1, 1), 255, dtype=torch.uint8), torch.zeros(count, dtype=torch.int64))


@dataclass
class Kept:
    """Copies of the weight at every call of `keep`."""

    weights: list[float] = field(default_factory=list)

    def __call__(self, state: State) -> None:
        self.weights.append(float(next(state.model.parameters()).detach().reshape(-1)[0]))


def run_one_weight(asked: Recipe, images: int, kept: Any = NOT_KEPT, objective: Any = halved_square) -> State:
    keep = (lambda state: None) if kept is NOT_KEPT else kept
    state = start(OneWeight(), asked)
    fit(Plan(asked, objective, PLAIN, white(images), white(2), keep, quiet=True), state)
    return state


def weight(state: State) -> float:
    return float(next(state.judged.parameters()).detach())


SGD = {"name": "sgd", "lr": 0.1, "momentum": 0.9}


def test_sgd_with_momentum_by_hand() -> None:
    # v₁ = −1, w₁ = 0.1; v₂ = −0.9 − 0.9 = −1.8, w₂ = 0.28; v₃ = −1.62 − 0.72 = −2.34, w₃ = 0.514
    kept = Kept()
    state = run_one_weight(recipe(epochs=3, optimiser=SGD), images=1, kept=kept)
    assert kept.weights == pytest.approx([0.1, 0.28, 0.514], abs=1e-6)
    losses = [epoch["train_loss"] for epoch in state.history]
    assert losses == pytest.approx([0.5, 0.81 / 2, 0.72**2 / 2], abs=1e-6)
    assert [epoch["miss"] for epoch in state.history] == pytest.approx([-1, -0.9, -0.72], abs=1e-6)


def test_nesterov_and_weight_decay_by_hand() -> None:
    # w = 0: g = −1, v = −1, the step is g + 0.9 v = −1.9, w = 0.19;
    # then g = −0.81 + 0.5·0.19 = −0.715, v = −0.9 − 0.715 = −1.615, g + 0.9 v = −2.1685, w = 0.40685
    asked = recipe(epochs=2, optimiser=SGD | {"nesterov": True, "weight_decay": 0.5})
    kept = Kept()
    run_one_weight(asked, images=1, kept=kept)
    assert kept.weights == pytest.approx([0.19, 0.40685], abs=1e-6)


class Shifted(nn.Module):
    """One logit w·x + b of one pixel, b that of a batch norm whose statistics leave x as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.norm = nn.Parameter(torch.zeros(1)), nn.BatchNorm1d(1, eps=0.0)
        self.norm.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.batch_norm(
            x.flatten(1) * self.w, self.norm.running_mean, self.norm.running_var, bias=self.norm.bias, eps=0.0
        )


def test_batch_norm_learns_at_its_own_multiple_of_the_rate_by_hand() -> None:
    """w = b = 0: both gradients are −1, so w = 0.5 and b = 4·0.5 = 2. Then both are 1.5, besides a decay of 0.1·0.5 and
    0.1/4·2; the rate is 0.25, so w = 0.5 − 0.25·1.55 and b = 2 − 1·1.55."""
    settings = {"name": "sgd", "lr": 0.5, "momentum": 0.0, "weight_decay": 0.1, "norm_lr": 4.0}
    asked = recipe(epochs=2, optimiser=settings, schedule={"name": "linear"})
    state = start(Shifted(), asked)
    fit(Plan(asked, halved_square, PLAIN, white(1), white(2), lambda state: None, quiet=True), state)
    assert float(state.model.w.detach()) == pytest.approx(0.5 - 0.25 * 1.55, abs=1e-6)
    assert float(state.model.norm.bias.detach()) == pytest.approx(2 - 1.55, abs=1e-6)
    assert [epoch["lr"] for epoch in state.history] == pytest.approx([0.5, 0.25])


def test_a_rate_for_batch_norm_needs_batch_norm() -> None:
    with pytest.raises(InputError, match=r"optimiser\.norm_lr: the network has no batch norm"):
        start(OneWeight(), recipe(optimiser=SGD | {"norm_lr": 2.0}))


def test_the_first_adam_step_has_the_length_of_the_learning_rate() -> None:
    state = run_one_weight(recipe(optimiser={"name": "adam", "lr": 0.01}), images=1)
    assert weight(state) == pytest.approx(0.01, abs=1e-6)


def test_adamw_decays_the_weight_apart_from_the_gradient() -> None:
    # Step 1 from w = 0: 0.01. Step 2: the weight first shrinks by 1 − 0.01·10, then moves by about 0.01.
    kept = Kept()
    run_one_weight(recipe(epochs=2, optimiser={"name": "adamw", "lr": 0.01, "weight_decay": 10.0}), 1, kept)
    assert kept.weights == pytest.approx([0.01, 0.01 * 0.9 + 0.01], abs=1e-4)


def test_the_schedule_moves_the_steps() -> None:
    # Plain SGD, linear from 1: rates 1 and 0.5. w = 0 → 1 → 1 (the gradient is 0 there).
    asked = recipe(epochs=2, optimiser=SGD | {"momentum": 0.0, "lr": 0.5}, schedule={"name": "linear"})
    kept = Kept()
    state = run_one_weight(asked, 1, kept)
    assert kept.weights == pytest.approx([0.5, 0.5 + 0.25 * 0.5])
    assert [epoch["lr"] for epoch in state.history] == pytest.approx([0.5, 0.25])


def test_the_average_follows_by_its_decay_once_warm() -> None:
    # The decay of step t is min(ema, (1 + t)/(10 + t)): 0.1, then 2/11. Weights are 0.5 and 0.75.
    asked = recipe(epochs=2, ema=0.9, optimiser=SGD | {"momentum": 0.0, "lr": 0.5})
    state = run_one_weight(asked, 1)
    first = 0.1 * 0 + 0.9 * 0.5
    assert weight(state) == pytest.approx(2 / 11 * first + 9 / 11 * 0.75, abs=1e-6)
    assert float(next(state.model.parameters()).detach()) == pytest.approx(0.75)


def test_the_last_epochs_are_averaged_evenly() -> None:
    # Weights 0.5, 0.75, 0.875, 0.9375; the last half of the epochs is the last two. Until then the plain ones count.
    asked = recipe(epochs=4, swa=0.5, optimiser=SGD | {"momentum": 0.0, "lr": 0.5})
    judged: list[float] = []
    state = run_one_weight(asked, 1, lambda state: judged.append(weight(state)))
    assert judged == pytest.approx([0.5, 0.75, 0.875, (0.875 + 0.9375) / 2])
    assert float(next(state.model.parameters()).detach()) == pytest.approx(0.9375)
    assert [gathered(recipe(epochs=10, swa=0.01), epoch) for epoch in (8, 9)] == [0, 0]


def test_an_even_average_gets_batch_norm_statistics_of_its_own() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Dropout(0.5), nn.Conv2d(2, 1, 1), nn.BatchNorm2d(1))
    x = torch.rand(40, 1, 4, 4)
    net.eval()
    renew_statistics(net, x.split(10))
    first = net[0](x).transpose(0, 1).flatten(1)
    torch.testing.assert_close(net[1].running_mean, first.mean(1).detach())
    second = net[3](net[1](net[0](x)))
    assert not net[2].training
    torch.testing.assert_close(net[4].running_mean, second.mean().detach()[None], atol=1e-2, rtol=0)
    assert net[1].momentum == 0.1
    assert not any(layer.training for layer in net)


def test_images_that_fill_no_batch_are_left_for_the_next_shuffle() -> None:
    seen: list[int] = []

    def spy(model: nn.Module, batch: Batch, context: Context) -> tuple[Tensor, dict[str, Tensor]]:
        seen.append(len(batch.y))
        return halved_square(model, batch, context)

    run_one_weight(recipe(batch=3, epochs=2), images=8, objective=spy)
    assert seen == [3, 3, 3, 3]
    seen.clear()
    run_one_weight(recipe(batch=30), images=8, objective=spy)
    assert seen == [8]


def test_the_objective_is_told_where_it_stands() -> None:
    places: list[tuple[int, int]] = []

    def spy(model: nn.Module, batch: Batch, context: Context) -> tuple[Tensor, dict[str, Tensor]]:
        places.append((context.epoch, context.step))
        return halved_square(model, batch, context)

    run_one_weight(recipe(batch=2, epochs=2), images=4, objective=spy)
    assert places == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_the_checkpoint_is_the_epoch_best_on_validation_images(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = iter([(0.5, 1.0), (0.9, 0.5), (0.9, 0.4), (0.9, 0.4), (0.7, 0.1)])
    monkeypatch.setattr(loop, "accuracy_and_loss", lambda *_: next(figures))
    kept = Kept()
    state = run_one_weight(recipe(epochs=5, optimiser=SGD), 1, kept)
    assert state.best is not None
    # The third epoch beats the second by its loss; the fourth only equals it.
    assert (state.best.epoch, state.best.accuracy, state.best.loss) == (3, 0.9, 0.4)
    assert float(state.best.weights["w"]) == kept.weights[2]


def test_shuffling_is_a_permutation_and_a_function_of_seed_and_epoch() -> None:
    order = shuffle(1000, 5, 2)
    assert sorted(order.tolist()) == list(range(1000))
    torch.rand(3)
    assert torch.equal(order, shuffle(1000, 5, 2))
    assert not torch.equal(order, shuffle(1000, 5, 3))
    assert not torch.equal(order, shuffle(1000, 6, 2))


def test_every_epoch_sees_every_image_once() -> None:
    x = torch.arange(12, dtype=torch.uint8).view(12, 1, 1, 1)
    seen: list[float] = []

    def spy(model: nn.Module, batch: Batch, context: Context) -> tuple[Tensor, dict[str, Tensor]]:
        seen.extend((batch.x * 255).flatten().round().tolist())
        return halved_square(model, batch, context)

    asked = recipe(batch=4, epochs=2)
    plan = Plan(asked, spy, PLAIN, Resident(x, torch.zeros(12, dtype=torch.int64)), white(1), lambda _: None, True)
    fit(plan, start(OneWeight(), asked))
    assert sorted(seen[:12]) == sorted(seen[12:]) == list(range(12))
    assert seen[:12] != seen[12:]


def test_label_smoothing_by_hand() -> None:
    # softmax(0, ln 3) = (1/4, 3/4); with s = 0.2 and two classes q = (0.1, 0.9) for label 1.
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([[0.0, math.log(3)]])

    batch = Batch(torch.zeros(1, 1, 1, 1), torch.tensor([1]), torch.tensor([0]))
    loss, _ = Standard()(Fixed(), batch, Context(recipe(label_smoothing=0.2), 0, 0))
    assert float(loss) == pytest.approx(-0.1 * math.log(1 / 4) - 0.9 * math.log(3 / 4), abs=1e-6)
    plain, _ = Standard()(Fixed(), batch, Context(recipe(), 0, 0))
    assert float(plain) == pytest.approx(-math.log(3 / 4), abs=1e-6)


def test_accuracy_and_loss_by_hand_across_batches() -> None:
    class Pixel(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x.flatten(1), 1 - x.flatten(1)], 1)

    # Pixels 1 and 0 in turn: class 0 wins where the pixel is 1.
    levels = torch.tensor([255, 0] * 600, dtype=torch.uint8).view(-1, 1, 1, 1)
    images = Resident(levels, torch.tensor([0, 0, 0, 1] * 300))
    accuracy, loss = accuracy_and_loss(Pixel(), images, PLAIN)
    assert accuracy == 0.75
    right, wrong = math.log(1 + math.exp(-1)), math.log(1 + math.e)
    assert loss == pytest.approx(0.75 * right + 0.25 * wrong, abs=1e-6)


def test_a_loss_that_becomes_nan_stops_the_run_and_keeps_the_state_before_it() -> None:
    def broken(model: nn.Module, batch: Batch, context: Context) -> tuple[Tensor, dict[str, Tensor]]:
        loss, metrics = halved_square(model, batch, context)
        return loss * (math.nan if context.epoch == 2 else 1.0), metrics

    kept = Kept()
    with pytest.raises(InputError, match=r"NaN or infinite in epoch 3.*learning rate 0\.1.*lower optimiser\.lr"):
        run_one_weight(recipe(epochs=5, optimiser=SGD), 4, kept, broken)
    assert len(kept.weights) == 2
    assert all(map(math.isfinite, kept.weights))


def test_a_gradient_that_overflows_in_the_last_step_is_not_kept() -> None:
    def steep(model: nn.Module, batch: Batch, context: Context) -> tuple[Tensor, dict[str, Tensor]]:
        # The loss itself stays finite (w = 0), its gradient does not fit into float32 once multiplied.
        return model(batch.x).mean() * 3e38 * 10.0, {}

    kept = Kept()
    with pytest.raises(InputError, match="NaN or infinite in epoch 1"):
        run_one_weight(recipe(optimiser=SGD), 1, kept, steep)
    assert kept.weights == []


class Noisy(nn.Module):
    """A network that draws at random while it learns, and has running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


def noisy_plan(asked: Recipe, keep: Any) -> Plan:
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(0, 256, (40, 1, 4, 4), generator=generator, dtype=torch.uint8)
    images = Resident(x, torch.randint(0, 3, (40,), generator=generator))
    return Plan(asked, Standard(), PLAIN, images, images, keep, quiet=True)


def noisy_state(asked: Recipe) -> State:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return start(Noisy(), asked)


class Stopped(Exception):
    pass


@pytest.mark.parametrize("stop", [1, 4, 7, 10, 14])
@pytest.mark.parametrize(("optimiser", "average"), [("sgd", {"ema": 0.9}), ("adam", {"swa": 0.7})])
def test_going_on_from_any_step_ends_bit_for_bit_as_an_unbroken_run(
    optimiser: str, average: dict[str, float], stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_SAVE_EVERY_SECONDS", -1.0)  # after every step
    asked = recipe(
        epochs=3, batch=8, **average, augment={"shift": 1}, schedule={"name": "onecycle", "warmup": 0.3},
        optimiser={"name": optimiser, "lr": 0.05},
    )  # fmt: skip
    unbroken = noisy_state(asked)
    fit(noisy_plan(asked, lambda _: None), unbroken)

    calls = 0

    def keep(state: State) -> None:
        nonlocal calls
        calls += 1
        save(state, tmp_path)
        if calls == stop:
            raise Stopped

    with pytest.raises(Stopped):
        fit(noisy_plan(asked, keep), noisy_state(asked))
    torch.rand(5)  # whatever the global generator does in between has no say
    resumed = noisy_state(asked)
    assert restore(resumed, tmp_path)
    fit(noisy_plan(asked, lambda _: None), resumed)
    assert_equal_states(resumed, unbroken)


def assert_equal_states(one: State, other: State) -> None:
    for first, second in ((one.model, other.model), (one.average, other.average)):
        assert first is not None
        assert second is not None
        for name, value in first.state_dict().items():
            assert torch.equal(value, second.state_dict()[name]), name
    assert one.best is not None
    assert other.best is not None
    assert (one.best.epoch, one.best.loss) == (other.best.epoch, other.best.loss)
    timeless = [[{**epoch, "seconds": 0} for epoch in state.history] for state in (one, other)]
    assert timeless[0] == timeless[1]


def test_a_damaged_checkpoint_is_named_and_leaves_the_way_out(tmp_path: Path) -> None:
    asked = recipe()
    save(start(OneWeight(), asked), tmp_path)
    path = tmp_path / "checkpoint.pt"
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"<html>"):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"checkpoint\.pt is damaged .*delete it"):
            restore(start(OneWeight(), asked), tmp_path)


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    asked = recipe()
    save(start(Noisy(), asked), tmp_path)
    with pytest.raises(InputError, match="damaged"):
        restore(start(OneWeight(), asked), tmp_path)


def test_the_global_generator_is_left_as_it_was() -> None:
    before = torch.get_rng_state()
    run_one_weight(recipe(epochs=2), 2)
    assert torch.equal(before, torch.get_rng_state())


def test_the_first_ctrl_c_is_held_and_the_second_is_not() -> None:
    with held_interrupt() as interrupt:
        assert not interrupt.asked
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_ignored_ctrl_c_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with held_interrupt() as interrupt:
            os.kill(os.getpid(), signal.SIGINT)
            assert not interrupt.asked
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_keeps_the_state_of_the_step_just_finished() -> None:
    def pressed(model: nn.Module, batch: Batch, context: Context) -> tuple[Tensor, dict[str, Tensor]]:
        if context.step == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return halved_square(model, batch, context)

    kept = Kept()
    with pytest.raises(KeyboardInterrupt):
        run_one_weight(recipe(optimiser=SGD), 5, kept, pressed)
    assert kept.weights == pytest.approx([0.28], abs=1e-6)  # two steps, see the first test


def images(x: Tensor, split: str = "train", classes: tuple[str, ...] = ("a", "b")) -> Images:
    count = torch.arange(len(x))
    return Images(x, count % 2, count, classes, "made", split)


def test_pixels_are_held_as_bytes_only_where_that_loses_nothing() -> None:
    levels = torch.arange(256).view(256, 1, 1, 1)
    exact = reside(images(levels.float() / 255), "cpu")
    assert exact.pixels.dtype == torch.uint8
    x, y = exact.take(torch.tensor([255, 3]))
    assert torch.equal(x.flatten(), torch.tensor([1.0, torch.tensor(3.0) / 255]))
    assert y.tolist() == [1, 1]
    assert reside(images(torch.full((2, 1, 1, 1), 0.123)), "cpu").pixels.dtype == torch.float32


def test_splits_that_do_not_fit_together_are_refused() -> None:
    train, test = images(torch.zeros(2, 1, 4, 4)), images(torch.zeros(2, 1, 4, 4), "test")
    with pytest.raises(InputError, match=r"validation split.*images of shape \(1, 5, 4\).*\(1, 4, 4\)"):
        check_splits(Splits(train, images(torch.zeros(2, 1, 5, 4), "validation"), test))
    with pytest.raises(InputError, match=r"test split.*classes"):
        check_splits(Splits(train, train, images(torch.zeros(2, 1, 4, 4), "test", ("a", "c"))))


@pytest.mark.parametrize("features", [["amx_bf16"], ["avx512_bf16"], []])
def test_auto_means_bfloat16_only_where_the_processor_multiplies_it(
    features: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stamp, "cpu", lambda: {"features": features})
    assert decide(recipe(), "cpu").bf16 is ("amx_bf16" in features)
    assert decide(recipe(precision="bf16"), "cpu").bf16 is True
    assert decide(recipe(precision="float32"), "cpu").bf16 is False
    assert decide(recipe(layout="contiguous"), "cpu").channels_last is False


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda:999", "cpu:y"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(InputError, match="device"):
        decide(recipe(), device)


def gradients(numerics: Numerics) -> list[Tensor]:
    model = numerics.place(zoo.build("digits-cnn", 10, (1, 8, 8), seed=0))
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(16, 1, 8, 8, generator=generator), torch.arange(16) % 10
    with numerics.autocast():
        loss, _ = Standard()(model, Batch(numerics.lay(x), y, torch.arange(16)), Context(recipe(), 0, 0))
    loss.backward()  # type: ignore[no-untyped-call]
    return [each.grad for each in model.parameters() if each.grad is not None]


def test_channels_last_changes_nothing_but_rounding() -> None:
    for plain, other in zip(gradients(PLAIN), gradients(Numerics("cpu", False, True)), strict=True):
        torch.testing.assert_close(other, plain, atol=1e-6, rtol=1e-4)


def test_bfloat16_keeps_float32_weights_and_the_direction_of_the_gradient() -> None:
    plain = torch.cat([each.flatten() for each in gradients(PLAIN)])
    other = torch.cat([each.flatten() for each in gradients(Numerics("cpu", True, True))])
    assert other.dtype == torch.float32
    assert not torch.equal(other, plain)
    assert float(torch.cosine_similarity(other, plain, dim=0)) > 0.99
