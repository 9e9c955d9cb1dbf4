"""APGD: its checkpoints and halvings by hand, and step by step against AutoAttack's own program."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import faultlight as fl
import toys
from faultlight import rng
from faultlight.attacks.apgd import APGD, Climb, checkpoints
from faultlight.errors import InputError
from faultlight.evaluation.oracle import RecordingOracle
from faultlight.losses import LossName
from faultlight.models.subject import Subject
from faultlight.threat import parse_threat

CLASSES, SHAPE = 5, (2, 6, 6)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (100, (0, 22, 41, 57, 70, 80, 87, 93, 99)),
        (50, (0, 11, 21, 30, 38, 45)),
        (1, (0, 1)),
    ],
)
def test_checkpoints(steps: int, expected: tuple[int, ...]) -> None:
    """Of 50: distances 11, 10, 9, 8, 7, and 6 would be too far."""
    assert checkpoints(steps) == expected


@dataclass
class Script:
    """An oracle that answers its n-th question with the n-th loss, whatever the point, and a slope of 1."""

    losses: list[float]
    asked: int = 0

    def logits(self, x: Tensor) -> Tensor:
        raise AssertionError

    def differentiate(self, x: Tensor, function: Callable[..., Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        value = torch.full((len(x),), float(self.losses[self.asked]))
        self.asked += 1
        return torch.zeros(len(x), 2), value, torch.where(value.view(-1, 1, 1, 1) > 0, 1.0, -1.0).expand_as(x)


def scripted(losses: list[float]) -> list[Climb]:
    """The state after the start and after each of 100 steps."""
    net = toys.linear(2)
    posed = replace(toys.problem(Subject(net, 2), toys.images(net, 2, n=1), "linf:0.1"), oracle=Script(losses))
    attack = APGD()
    states = [attack.start(posed)]
    for step in range(1, len(losses)):
        states.append(attack.step(replace(posed, step=torch.tensor([step])), states[-1]))
    return states


def lengths(losses: list[float]) -> list[float]:
    """The step size in units of ε after each checkpoint that the losses reach."""
    states = scripted(losses)
    return [float(states[at].length) for at in checkpoints(100) if at < len(states)]


def steadily(count: int, first: float, rise: float) -> list[float]:
    return [first + rise * i for i in range(count)]


def test_while_the_loss_grows_the_step_keeps_its_size() -> None:
    assert lengths(steadily(101, 0, 1)) == [2.0] * 9


def test_while_it_does_not_the_step_is_halved_at_each_checkpoint() -> None:
    assert lengths([1.0] * 101) == [2.0 / 2**i for i in range(9)]


@pytest.mark.parametrize(("rises", "halved"), [(16, True), (17, False)])
def test_three_quarters_of_the_steps_must_raise_the_loss(rises: int, halved: bool) -> None:
    """0.75 · 22 = 16.5; the loss at the start is the first to compare with."""
    losses = steadily(rises + 1, 0, 1)
    losses += [losses[-1]] * (22 - rises)
    assert lengths(losses) == [2.0, 1.0 if halved else 2.0]


@pytest.mark.parametrize(("rises", "halved"), [(12, True), (13, False)])
def test_a_tie_is_too_few(rises: int, halved: bool) -> None:
    """0.75 · 16 = 12, between the checkpoints 41 and 57."""
    losses = steadily(42 + rises, 0, 1)
    losses += [losses[-1]] * (16 - rises)
    assert lengths(losses)[-1] == (1.0 if halved else 2.0)


def test_a_best_that_does_not_grow_halves_the_step_unless_it_was_halved_just_before() -> None:
    """Condition 2, with nearly every step a rise, but none above the best."""
    unhalved = steadily(23, 100, 1) + steadily(19, 0, 1)
    assert lengths(unhalved) == [2.0, 2.0, 1.0]
    after_halving = [100.0] * 23 + steadily(19, 0, 1) + steadily(16, 0, 1)
    assert lengths(after_halving) == [2.0, 1.0, 1.0, 0.5]


def test_a_halving_goes_on_from_the_best_point_with_its_gradient() -> None:
    losses = [-1.0] * 23
    losses[7:9] = 4.0, 5.0  # the only points with a slope of +1
    states = scripted(losses)
    assert not torch.equal(states[21].x, states[8].x)
    assert torch.equal(states[22].x, states[8].x)
    assert torch.equal(states[22].gradient, torch.ones_like(states[22].x))
    assert float(states[22].best_value) == 5.0


def test_the_best_point_is_kept() -> None:
    losses = [float(7 * i % 101) for i in range(101)]
    states = scripted(losses)
    assert [float(state.best_value) for state in states] == [max(losses[: i + 1]) for i in range(101)]


@pytest.mark.parametrize(("attack", "passes"), [(APGD(), 101), (APGD(steps=7), 8), (APGD(steps=7, diversify=2), 10)])
def test_it_costs_a_pass_each_way_for_the_start_and_each_step(attack: APGD, passes: int) -> None:
    """The judge looks at the last point once more."""
    net = toys.linear(3)
    images = toys.images(net, 3, n=4)
    settled = toys.settle(toys.engine(Subject(net, 3), images, attack, "linf:0.0001"))
    assert [(one.attempt.forwards, one.attempt.backwards) for one in settled] == [(passes + 1, passes)] * 4


@pytest.mark.parametrize("threat", ["linf:0.1", "l2:0.3"])
def test_random_starts_lie_on_the_surface(threat: str) -> None:
    """x + ε·t/‖t‖∞: for L∞ one pixel at least moves by ε."""
    net = toys.linear(2)
    images = toys.images(net, 2, spread=0.05)
    posed, ball = toys.problem(Subject(net, 2), images, threat), parse_threat(threat)
    delta = (APGD().start(posed).x - images.x).flatten(1)
    size = delta.abs().amax(1) if ball.norm == "linf" else delta.norm(dim=1)
    assert torch.allclose(size, torch.tensor(ball.epsilon), rtol=1e-5)
    assert torch.equal(APGD(random_start=False).start(posed).x, images.x)
    again = toys.problem(Subject(net, 2), images, threat, restart=1)
    assert not torch.equal(APGD(random_start=False).start(again).x, images.x)


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
@pytest.mark.parametrize("loss", ["cross-entropy", "margin", "dlr"])
def test_on_a_linear_classifier_it_breaks_what_can_be_broken(norm: str, dual: int, loss: LossName) -> None:
    """Of two classes: broken iff |margin| < ε·‖w‖ in the dual norm, within 1 % on either side."""
    net, attack = toys.linear(2), APGD(loss=loss, steps=25)
    subject, images = Subject(net, 2), toys.images(net, 2, n=4, spread=0.05)
    logits = net(images.x).detach()
    weight = (net[1].weight[0] - net[1].weight[1]).detach()
    critical = (logits[:, 0] - logits[:, 1]).abs() / weight.norm(p=dual)
    for row, epsilon in enumerate(critical.tolist()):
        one = images.take(torch.tensor([row]))
        assert not fl.attack(subject, one, attack, f"{norm}:{0.99 * epsilon}").broken[0]
        assert fl.attack(subject, one, attack, f"{norm}:{1.01 * epsilon}").broken[0]


def autopgd() -> ModuleType:
    """AutoAttack's own program, packaged as pyautoattack."""
    if importlib.util.find_spec("pyautoattack") is None:
        pytest.skip("pyautoattack is not installed; it is only needed to compare with it")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("pyautoattack.autopgd_base")


def theirs(net: Any, images: fl.Images, threat: str, loss: LossName, target: int = -1) -> Any:
    """Their attack with the same settings."""
    ball, program = parse_threat(threat), autopgd()
    settings = {"norm": {"linf": "Linf", "l2": "L2"}[ball.norm], "eps": ball.epsilon, "device": "cpu"}
    if target >= 0:
        attack = program.APGDAttack_targeted(net, **settings)
        attack.y_target = torch.full_like(images.y, target)
    else:
        attack = program.APGDAttack(net, loss={"cross-entropy": "ce", "dlr": "dlr"}[loss], **settings)
    attack.init_hyperparam(images.x)
    return attack


@pytest.mark.filterwarnings("ignore::Warning:pyautoattack")
@pytest.mark.parametrize("threat", ["linf:0.03", "linf:0.1", "l2:0.3", "l2:0.05"])
@pytest.mark.parametrize(("loss", "target"), [("cross-entropy", -1), ("dlr", -1), ("dlr", 2)])
def test_every_point_is_that_of_autoattack(threat: str, loss: LossName, target: int) -> None:
    """From the same start: all rows to 1e-5 up to the first checkpoint; nine in ten to the end, in L2 to 5e-4.

    Where the largest losses are equal but for rounding, the best of them may be another point, and rows part ways.
    """
    net = toys.convolutional(CLASSES, seed=0)
    images = toys.images(net, CLASSES, n=20, shape=SHAPE, spread=0.5)
    posed = toys.problem(Subject(net, CLASSES), images, threat, target=target)
    toys.trace(APGD(loss=loss), posed)
    assert isinstance(posed.oracle, RecordingOracle)
    found, seen = [question.x for question in posed.oracle.questions], list[Tensor]()

    def watched(x: Tensor) -> Tensor:
        seen.append(x.detach().clone())
        logits: Tensor = net(x)
        return logits

    theirs(watched, images, threat, loss, target).attack_single_run(images.x, images.y, x_init=found[0])
    assert len(found) == len(seen) == 101
    apart = (torch.stack(found) - torch.stack(seen)).abs().flatten(2).amax(2)
    assert float(apart[:22].max()) < 1e-5
    assert int((apart.amax(0) < (1e-5 if posed.threat.norm == "linf" else 5e-4)).sum()) >= 18
    assert float((found[-1] - images.x).abs().max()) > 0.01


@pytest.mark.filterwarnings("ignore::Warning:pyautoattack")
@pytest.mark.parametrize("threat", ["linf:0.01", "l2:0.05"])
@pytest.mark.parametrize("loss", ["cross-entropy", "dlr"])
def test_the_same_images_are_broken(threat: str, loss: LossName, monkeypatch: pytest.MonkeyPatch) -> None:
    """End to end from the same random numbers; a twin may differ, but not whether there is one."""
    net = toys.convolutional(CLASSES, seed=1)
    images = toys.images(net, CLASSES, n=40, shape=SHAPE, spread=0.4)
    found = fl.attack(Subject(net, CLASSES), images, APGD(loss=loss), threat, seed=0)
    key, first = rng.key(0, "apgd", str(parse_threat(threat))), torch.zeros_like(images.ids)
    monkeypatch.setattr(torch, "rand", lambda shape: rng.uniform(key, images.ids, first, tuple(shape[1:])))
    monkeypatch.setattr(torch, "randn", lambda shape: rng.normal(key, images.ids, first, tuple(shape[1:])))
    with torch.no_grad():
        expected = net(theirs(net, images, threat, loss).perturb(images.x, images.y)).argmax(1) != images.y
    assert found.broken.tolist() == expected.tolist()
    assert 5 < int(expected.sum()) < 35


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"steps": 0}, "steps"),
        ({"restarts": 0}, "restarts"),
        ({"targets": -1}, "targets"),
        ({"diversify": -1}, "diversify"),
        ({"momentum": 0.0}, "momentum"),
        ({"rho": 1.5}, "rho"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        APGD(**settings)
