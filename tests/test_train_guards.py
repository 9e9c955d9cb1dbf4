"""What an epoch is judged by under attack, and what the guards do about it, against arithmetic done by hand."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from faultlight import files, rng
from faultlight.attacks.pgd import PGD
from faultlight.certify.certificate import certify
from faultlight.cli.train import _as_text
from faultlight.models.subject import Subject
from faultlight.threat import parse_threat
from faultlight.train import Splits, load_recipe, loop, train
from faultlight.train.guards import has_collapsed, overfitting
from faultlight.train.heldout import (
    HeldOut,
    accuracy_and_loss_under_attack,
    gradient_alignment,
    held_out,
    judge,
    watched,
)
from faultlight.train.loop import Plan, fit
from faultlight.train.memory import Resident, load_splits
from faultlight.train.numerics import Numerics
from faultlight.train.objectives import Batch, Context, build, remedy
from faultlight.train.objectives.adversarial import Adversarial
from faultlight.train.objectives.fgsm_rs import FgsmRs
from faultlight.train.objectives.n_fgsm import NFgsm
from faultlight.train.recipe import Recipe, names, parse_recipe
from faultlight.train.state import State, merit, restore, save, start
from toys import convolutional, linear

PLAIN = Numerics("cpu", bf16=False, channels_last=False)
ROBUST = {
    "adversarial", "fgsm-rs", "n-fgsm", "free", "trades", "mart", "hat", "awp", "ibp", "crown-ibp", "ard", "rslad",
}  # fmt: skip


def recipe(**changes: Any) -> Recipe:
    least = {"name": "test", "title": "", "model": "digits-cnn", "data": "digits", "epochs": 1, "batch": 1}
    return parse_recipe(least | changes)


def asked(threat: str = "linf:0.1", images: int = 300, **changes: Any) -> HeldOut:
    found = held_out(recipe(robust_validation={"threat": threat, "images": images, **changes}), build(recipe()))
    assert found is not None
    return found


def grey(count: int, classes: int = 2, channels: int = 1) -> Resident:
    x = 0.3 + 0.4 * torch.rand(count, channels, 4, 4, generator=torch.Generator().manual_seed(0))
    return Resident(x, torch.arange(count) % classes)


class Quadratic(nn.Module):
    """Logits ±s·‖x − ½‖²: around ½ the gradient points away from there, whatever the label."""

    def __init__(self) -> None:
        super().__init__()
        self.s = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        value = self.s * (x - 0.5).square().flatten(1).sum(1)
        return torch.stack([value, -value], 1)


class Blind(nn.Module):
    """The same logits whatever the image."""

    def forward(self, x: Tensor) -> Tensor:
        return (0 * x.flatten(1).sum(1))[:, None] + torch.tensor([[1.0, 0.0]])


def test_gradients_of_a_linear_loss_are_aligned() -> None:
    # Of two logits the gradient of the loss is p·(w₁ − w₀): always the same direction.
    for threat in ("linf:0.1", "l2:0.5"):
        assert gradient_alignment(linear(2), grey(300), asked(threat), PLAIN) == pytest.approx(1.0, abs=1e-5)


def test_the_alignment_of_a_quadratic_loss_by_hand() -> None:
    # At x the gradient is along x − ½, at x + η along x − ½ + η.
    images, wanted = grey(300), asked("linf:0.2")
    uniform = rng.uniform(wanted.key, torch.arange(300), torch.full((300,), -1), (1, 4, 4))
    here = (images.pixels - 0.5).flatten(1)
    there = here + 0.2 * (2 * uniform - 1).flatten(1)
    due = torch.cosine_similarity(here, there).mean()
    assert gradient_alignment(Quadratic(), images, wanted, PLAIN) == pytest.approx(float(due), abs=1e-5)
    assert 0.3 < due < 0.9


def test_images_without_a_gradient_have_no_angle() -> None:
    middle = Resident(torch.full((3, 1, 4, 4), 0.5), torch.zeros(3, dtype=torch.int64))
    assert gradient_alignment(Quadratic(), middle, asked(), PLAIN) == 0.0
    beside = Resident(torch.cat([middle.pixels, grey(1).pixels]), torch.zeros(4, dtype=torch.int64))
    alone = gradient_alignment(Quadratic(), grey(1), asked(), PLAIN)
    mixed = gradient_alignment(Quadratic(), beside, asked(), PLAIN)
    assert 0.3 < mixed <= 1
    assert 0.3 < alone <= 1


def test_accuracy_under_attack_of_a_linear_network_by_hand() -> None:
    # The worst point of the ball lowers the margin by ε·‖w_y − w_k‖₁, as long as no pixel leaves [0, 1].
    module, images = linear(2), grey(300)
    weight = module[1].weight.detach()
    logits = module(images.pixels).detach()
    margin = torch.where(images.labels == 0, 1, -1) * (logits[:, 0] - logits[:, 1])
    worst = margin - 0.1 * (weight[0] - weight[1]).abs().sum()
    accuracy, loss = accuracy_and_loss_under_attack(module, images, asked(), PLAIN)
    assert accuracy == float((worst > 0).double().mean())
    assert loss == pytest.approx(float(nn.functional.softplus(-worst).mean()), rel=1e-4)


def test_certified_accuracy_and_the_loss_of_its_bounds() -> None:
    module, images = linear(2), grey(40)
    subject = Subject(module, 2)
    proven = certify(subject, images.pixels, images.labels, "linf:0.05").certified
    accuracy, loss = accuracy_and_loss_under_attack(module, images, asked("linf:0.05", by="certificate"), PLAIN)
    attacked = accuracy_and_loss_under_attack(module, images, asked("linf:0.05"), PLAIN)
    assert accuracy == float(proven.double().mean()) > 0
    # Of a linear network the bounds are exact.
    assert (accuracy, loss) == (attacked[0], pytest.approx(attacked[1], rel=1e-3))


def test_bounds_that_do_not_fit_into_float32_are_no_bar() -> None:
    module = linear(2)
    with torch.no_grad():
        module[1].weight *= 1e38
    accuracy, loss = accuracy_and_loss_under_attack(module, grey(4), asked(by="certificate"), PLAIN)
    assert math.isfinite(loss)
    assert accuracy <= 1


def test_only_the_first_images_are_asked_about_and_the_network_is_left_as_it_was() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2)).train()
    before = copy.deepcopy(net.state_dict())
    few = Resident(grey(300).pixels[:20], grey(300).labels[:20])
    found = [judge(net, net, images, asked(images=20), PLAIN) for images in (grey(300), few, few)]
    assert found[0] == found[1] == found[2]
    assert net.training
    assert net[1].training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_the_network_that_learns_is_watched_beside_the_average() -> None:
    kept, learner, images = convolutional(2, 0, (1, 4, 4)), convolutional(2, 1, (1, 4, 4)), grey(300)
    figures = judge(kept, learner, images, asked(), PLAIN)
    fewer = watched(asked(), images, averaged=True)
    assert fewer.images == 75
    assert figures["plain_robust_accuracy"] == accuracy_and_loss_under_attack(learner, images, fewer, PLAIN)[0]
    assert figures["validation_robust_accuracy"] == accuracy_and_loss_under_attack(kept, images, asked(), PLAIN)[0]
    assert figures["gradient_alignment"] == gradient_alignment(learner, images, asked(), PLAIN)
    assert watched(asked(), images, averaged=False) == asked()


def test_what_is_asked_comes_from_the_objective_and_the_table_goes_before_it() -> None:
    trades = recipe(objective={"name": "trades", "threat": "linf:4/255"})
    found = held_out(trades, build(trades))
    assert found is not None
    assert (found.threat, found.by, found.images) == (parse_threat("linf:4/255"), "pgd", 512)
    assert found.attack == PGD(steps=10, step_size=0.25)
    other = trades.model_copy(update={"robust_validation": asked_table("l2:0.5", steps=3)})
    laid_over = held_out(other, build(other))
    assert laid_over is not None
    assert (str(laid_over.threat), laid_over.attack.steps) == ("l2:0.5", 3)
    assert held_out(recipe(), build(recipe())) is None
    off = trades.model_copy(update={"robust_validation": asked_table("", images=0)})
    assert held_out(off, build(off)) is None


def asked_table(threat: str, **changes: Any) -> Any:
    return recipe(robust_validation={"threat": threat, **changes}).robust_validation


@pytest.mark.parametrize("name", sorted(ROBUST))
def test_every_robust_objective_is_judged_under_attack(name: str) -> None:
    one = recipe(objective={"name": name})
    found = held_out(one, build(one))
    assert found is not None
    assert found.by == ("certificate" if name in ("ibp", "crown-ibp") else "pgd")


@pytest.mark.parametrize("name", names())
def test_a_carried_recipe_for_robustness_chooses_by_it(name: str) -> None:
    one = load_recipe(name)
    assert (held_out(one, build(one)) is not None) == (one.objective.name in ROBUST)
    assert one.robust_target is None or one.objective.name in ROBUST


def test_the_remedy_of_one_step_is_a_noisy_step() -> None:
    assert remedy(Adversarial("linf:0.1", steps=1)) == NFgsm("linf:0.1")
    assert remedy(FgsmRs("linf:0.1")) == NFgsm("linf:0.1")
    for objective in (Adversarial(), Adversarial("l2:0.5", steps=1), NFgsm(), build(recipe())):
        assert remedy(objective) is None


def row(robust: float, alignment: float = 0.8, clean: float = 0.9, epoch: int = 1, **more: float) -> dict[str, Any]:
    return {
        "epoch": epoch, "validation_robust_accuracy": robust, "validation_robust_loss": 1 - robust, "seconds": 1.0,
        "gradient_alignment": alignment, "validation_accuracy": clean, "validation_loss": 1.0, **more,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("history", "now", "due"),
    [
        ([], row(0.0), False),
        ([row(0.4)], row(0.1), True),
        ([row(0.4)], row(0.21), False),  # half of the best is the line
        ([row(0.4), row(0.3)], row(0.19), True),  # of the best, not of the one before
        ([row(0.4), row(0.1)], row(0.0), False),  # it had fallen already
        ([row(0.4)], row(0.1, clean=0.5), False),  # all is lost, not robustness alone
        ([row(0.4)], row(0.1, clean=0.5, alignment=0.1), True),
        ([row(0.1)], row(0.0), False),  # ten classes: it was guessing
        ([row(0.9, plain_robust_accuracy=0.4)], row(0.9, plain_robust_accuracy=0.1), True),  # the average lags
        ([row(0.4, plain_robust_accuracy=0.4)], row(0.1, plain_robust_accuracy=0.4), False),
    ],
)
def test_what_counts_as_a_collapse(history: list[dict[str, Any]], now: dict[str, Any], due: bool) -> None:
    assert has_collapsed(history, now, 500, 0.1) is due


def test_a_fall_that_few_images_cannot_show_is_none() -> None:
    # 1 of 5 after 3 of 5: the interval of 1 of 5 reaches up to 72 %.
    assert not has_collapsed([row(0.6)], row(0.2), 5, 0.1)
    assert has_collapsed([row(0.6)], row(0.2), 50, 0.1)


def test_robust_overfitting_is_told_beyond_the_interval_of_the_last_epoch() -> None:
    # 200 of 500 is 40 %, its exact interval 35.7 to 44.4 %.
    history = [row(0.3), row(0.45, epoch=2), row(0.4, epoch=3)]
    (found,) = overfitting(history, 2, 500)
    assert found["robust_accuracy"] == {"best": 0.45, "last": 0.4}
    assert found["text"].startswith("robust overfitting: best epoch 2 at 45.0 %, last epoch 40.0 %")
    history[1]["validation_robust_accuracy"] = 0.443
    assert overfitting(history, 2, 500) == []
    assert overfitting([{"validation_accuracy": 0.5}], 1, 500) == []


def test_merit_is_accuracy_under_attack_where_it_is_known() -> None:
    assert merit(row(0.3)) == (0.3, -0.7)
    assert merit({"validation_accuracy": 0.9, "validation_loss": 0.2}) == (0.9, -0.2)


class Noisy(nn.Module):
    """A network that draws at random while it learns, and has running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


def noisy_state(wanted: Recipe) -> State:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return start(Noisy(), wanted)


def noisy_plan(wanted: Recipe, keep: Callable[[State], None] = lambda _: None, objective: Any = None) -> Plan:
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(0, 256, (40, 1, 4, 4), generator=generator, dtype=torch.uint8)
    images = Resident(x, torch.randint(0, 3, (40,), generator=generator))
    return Plan(wanted, objective or build(wanted), PLAIN, images, images, keep, quiet=True)


def one_step(**changes: Any) -> Recipe:
    attack = {"name": "adversarial", "threat": "linf:0.1", "steps": 1, "step_size": 1.0, "random_start": False}
    least = {"epochs": 5, "batch": 8, "objective": attack, "optimiser": {"name": "adam", "lr": 0.01}, "ema": 0.9}
    return recipe(**least | changes)


Figures = Callable[[Plan, State], dict[str, Any]]


def told(robust: Callable[[State], float]) -> Figures:
    """Stands in for all measures of an epoch."""

    def figures(plan: Plan, state: State) -> dict[str, Any]:
        value = robust(state)
        keys = ("validation_robust_accuracy", "validation_accuracy", "validation_loss", "gradient_alignment")
        return {key: row(value)[key] for key in keys} | {"validation_robust_loss": 1 - value}

    return figures


def collapsing(state: State) -> float:
    """Robust until the fourth epoch, which loses it until a remedy is at work."""
    return 0.05 if state.epoch == 3 and not state.acted("switch") else 0.5 + 0.05 * state.epoch


@pytest.fixture
def collapse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_judge", told(collapsing))


def run(wanted: Recipe, objective: Any = None) -> State:
    state = noisy_state(wanted)
    fit(noisy_plan(wanted, objective=objective), state)
    return state


def assert_equal_states(one: State, other: State) -> None:
    pairs = [(each.model.state_dict(), each.average.state_dict() if each.average else {}) for each in (one, other)]
    for first, second in zip(*pairs, strict=True):
        assert all(torch.equal(value, second[name]) for name, value in first.items())
    moments = [each.optimiser.state_dict()["state"] for each in (one, other)]
    for place, values in moments[0].items():
        assert all(torch.equal(value, moments[1][place][name]) for name, value in values.items())
    assert timeless(one.history) == timeless(other.history)


def timeless(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**each, "seconds": 0} for each in records]


def test_the_checkpoint_is_the_epoch_best_under_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    # Clean accuracy grows all the while.
    shown = [(0.3, 0.9, 0.5), (0.5, 0.8, 0.6), (0.5, 0.7, 0.7), (0.5, 0.7, 0.8), (0.45, 0.1, 0.9)]

    def figures(plan: Plan, state: State) -> dict[str, Any]:
        accuracy, loss, clean = shown[state.epoch]
        return row(accuracy, clean=clean) | {"validation_robust_loss": loss}

    monkeypatch.setattr(loop, "_judge", figures)
    state = run(one_step())
    assert state.best is not None
    # The third epoch beats the second by its loss; the fourth only equals it.
    assert (state.best.epoch, state.best.merit, state.best.accuracy) == (3, (0.5, -0.7), 0.7)


@pytest.mark.usefixtures("collapse")
def test_a_collapse_is_undone_and_training_goes_on_with_the_remedy() -> None:
    state = run(one_step())
    assert [epoch["epoch"] for epoch in state.history] == [1, 2, 3, 4, 5]
    assert [epoch["validation_robust_accuracy"] for epoch in state.history] == pytest.approx(
        [0.5, 0.55, 0.6, 0.65, 0.7]
    )
    (found,) = state.guards
    assert (found["guard"], found["epoch"], found["action"]) == ("catastrophic overfitting", 4, "switch")
    assert found["robust_accuracy"] == {"before": pytest.approx(0.6), "after": 0.05}
    assert set(found["gradient_alignment"]) == set(found["validation_accuracy"]) == {"before", "after"}
    assert "in epoch 4: accuracy under PGD fell from 60.0 to 5.0 % (10 validation images)" in found["text"]
    assert "back to the end of epoch 3, and on with N-FGSM" in found["text"]


@dataclass(frozen=True)
class Changed:
    """The objective until an epoch, its remedy from then on."""

    epoch: int
    before: Adversarial
    threat: str = "linf:0.1"

    def __call__(self, model: nn.Module, batch: Batch, context: Context) -> tuple[Tensor, dict[str, Tensor]]:
        after = self.before.remedy()
        assert after is not None
        return (self.before if context.epoch < self.epoch else after)(model, batch, context)


@pytest.mark.usefixtures("collapse")
@pytest.mark.parametrize("average", [{"ema": 0.9}, {"ema": 0.0, "swa": 0.7}, {"ema": 0.0}])
def test_what_was_undone_leaves_no_trace(average: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = one_step(**average)
    state = run(wanted)
    assert len(state.guards) == 1
    monkeypatch.setattr(loop, "_judge", told(lambda state: 0.5 + 0.05 * state.epoch))
    plain = build(wanted)
    assert isinstance(plain, Adversarial)
    assert_equal_states(state, run(wanted, Changed(3, plain)))


class Stopped(Exception):
    pass


@pytest.mark.usefixtures("collapse")
@pytest.mark.parametrize("stop", [3, 17, 18, 20, 23, 24, 25, 29])
def test_going_on_from_any_step_around_a_collapse_ends_as_an_unbroken_run(
    stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Five steps an epoch and its end: the fourth epoch is calls 19 to 24, and 24 keeps the state gone back to.
    monkeypatch.setattr(loop, "_SAVE_EVERY_SECONDS", -1.0)
    wanted = one_step()
    unbroken = run(wanted)
    calls = 0

    def keep(state: State) -> None:
        nonlocal calls
        calls += 1
        save(state, tmp_path)
        if calls == stop:
            raise Stopped

    with pytest.raises(Stopped):
        fit(noisy_plan(wanted, keep), noisy_state(wanted))
    resumed = noisy_state(wanted)
    assert restore(resumed, tmp_path)
    fit(noisy_plan(wanted), resumed)
    assert_equal_states(resumed, unbroken)
    assert timeless(resumed.guards) == timeless(unbroken.guards)
    assert resumed.best is not None
    assert unbroken.best is not None
    assert resumed.best.epoch == unbroken.best.epoch == 5


@pytest.mark.usefixtures("collapse")
def test_a_run_that_is_to_stop_ends_with_the_collapsed_epoch_and_keeps_the_best(tmp_path: Path) -> None:
    wanted = one_step(robust_validation={"on_collapse": "stop"})
    state = run(wanted)
    assert len(state.history) == 4
    assert [found["action"] for found in state.guards] == ["stop", "note"]
    assert state.best is not None
    assert state.best.epoch == 3
    save(state, tmp_path)
    resumed = noisy_state(wanted)
    restore(resumed, tmp_path)
    fit(noisy_plan(wanted), resumed)
    assert len(resumed.history) == 4


@pytest.mark.usefixtures("collapse")
@pytest.mark.parametrize(
    "changes",
    [{"robust_validation": {"on_collapse": "note"}}, {"objective": {"name": "n-fgsm", "threat": "linf:0.1"}}],
)
def test_without_a_remedy_a_collapse_is_noted_once(changes: dict[str, Any]) -> None:
    state = run(one_step(**changes))
    assert len(state.history) == 5
    (found,) = state.guards
    assert (found["action"], found["epoch"], found["seconds"]) == ("note", 4, 0.0)
    assert state.good is None


def test_a_second_collapse_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_judge", told(lambda state: 0.05 if state.epoch >= 3 else 0.6))
    state = run(one_step())
    assert [(found["epoch"], found["action"]) for found in state.guards[:2]] == [(4, "switch"), (4, "note")]
    assert state.guards[2]["guard"] == "robust overfitting"
    assert state.best is not None
    assert state.best.epoch == 1


@pytest.mark.usefixtures("collapse")
def test_a_collapse_is_said_where_progress_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    fit(replace(noisy_plan(one_step()), quiet=False), noisy_state(one_step()))
    assert "train test: catastrophic overfitting in epoch 4: " in capsys.readouterr().err


@pytest.fixture(scope="module")
def splits() -> Splits:
    whole = load_splits("digits", 0)
    return Splits(whole.train.first(160), whole.validation.first(40), whole.test.first(50))


@pytest.mark.usefixtures("collapse")
def test_the_record_tells_what_the_guards_found(splits: Splits, run_folder: Path) -> None:
    changes = {"objective": one_step().objective.model_dump(), "epochs": 5, "batch": 32, "ema": 0.0}
    result = train(load_recipe("digits-cnn", changes), out=run_folder, data=splits, quiet=True)
    record = files.read_json(run_folder / "records/training.json")
    (found,) = record["guards"]
    assert found["epoch"] == 4
    assert record["best_epoch"] == 5
    spent = [part["seconds"] for part in [*record["epochs"], found]]
    assert len(spent) == 6
    assert result.seconds == pytest.approx(sum(spent), abs=1e-2)
    assert result.guards == (found["text"],)
    words = _as_text(result)
    assert f"guard           {found['text']}" in words
    at = 100 * record["epochs"][4]["validation_robust_accuracy"]
    assert f"checkpoint      epoch 5, chosen by its validation accuracy under PGD of {at:.2f} % (" in words


def test_a_whole_robust_run_records_its_figures_each_epoch(splits: Splits, run_folder: Path) -> None:
    changes = {"objective": one_step().objective.model_dump(), "epochs": 2, "batch": 32}
    result = train(load_recipe("digits-cnn", changes), out=run_folder, data=splits, quiet=True)
    record = files.read_json(run_folder / "records/training.json")
    due = {"validation_robust_accuracy", "validation_robust_loss", "gradient_alignment"}
    assert all(due <= set(epoch) for epoch in record["epochs"])
    wanted = load_recipe("digits-cnn", changes)
    validation = Resident(splits.validation.x, splits.validation.y)
    found = held_out(wanted, build(wanted))
    assert found is not None
    again = judge(*(result.subject().module,) * 2, validation, found, PLAIN)
    best = record["epochs"][record["best_epoch"] - 1]
    assert again["validation_robust_accuracy"] == best["validation_robust_accuracy"]


def test_an_epoch_of_the_warm_up_of_bounds_does_not_win(splits: Splits, run_folder: Path) -> None:
    # Plain training for half of the run, then bounds of a small ball; accuracy on clean images is best before.
    bounds = {"name": "ibp", "threat": "linf:0.02", "warmup": 0.5, "ramp": 0.2, "kappa": 0.0}
    changes = {"objective": bounds, "epochs": 10, "batch": 16, "ema": 0.0, "augment": {}, "model": "mlp"}
    result = train(load_recipe("digits-cnn", changes), out=run_folder, data=splits, quiet=True)
    record = files.read_json(run_folder / "records/training.json")
    proven = [epoch["validation_robust_accuracy"] for epoch in record["epochs"]]
    assert f"chosen by its proven validation accuracy of {100 * max(proven):.2f} %" in _as_text(result)
    assert record["best_epoch"] > 7
    assert max(proven[:5]) < max(proven) == proven[record["best_epoch"] - 1]
