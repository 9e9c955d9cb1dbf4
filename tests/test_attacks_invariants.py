"""What every attack must keep to, run on whatever the catalogue finds: a new file is tested without a word here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import faultlight as fl
import toys
from faultlight import settings
from faultlight.api import AttackResult
from faultlight.attacks._contract import is_minimal, norms
from faultlight.catalogue import Entry, catalogue
from faultlight.errors import InputError
from faultlight.evaluation.judge import ROUNDING
from faultlight.evaluation.oracle import RecordingOracle
from faultlight.evaluation.rows import Outcome
from faultlight.models.subject import Subject

SHAPE = (2, 6, 6)
ENTRIES = catalogue("attacks")
THREATS = {"linf": "linf:0.03", "l2": "l2:0.15", "l1": "l1:0.6", "l0": "l0:1"}
CLASSES = (2, 3, 10)
WRONG = 4  # the row whose label is not what the model says
LARGEST = (6, 4, 3, 2)  # what steps, populations and the like are cut down to: the first that makes few steps of them

CASES = [
    (entry, threat) for entry in ENTRIES.values() for norm, threat in THREATS.items() if norm in norms(entry.load())
]
attacks = pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
threats = pytest.mark.parametrize(
    ("entry", "threat"), CASES, ids=[f"{threat.partition(':')[0]}-{entry.name}" for entry, threat in CASES]
)
widths = pytest.mark.parametrize("classes", CLASSES)


@dataclass(frozen=True)
class Scene:
    """A tiny net and nine images, one of which it gets wrong."""

    net: nn.Sequential
    subject: Subject
    images: fl.Images


@cache
def scene(classes: int) -> Scene:
    net = toys.convolutional(classes, shape=SHAPE)
    images = toys.images(net, classes, n=9, shape=SHAPE, spread=0.5)
    y = images.y.clone()
    y[WRONG] = (y[WRONG] + 1) % classes
    return Scene(net, Subject(net, classes), replace(images, y=y))


@cache
def baseline(name: str, classes: int, threat: str) -> AttackResult:
    """The attack on the whole scene."""
    at = scene(classes)
    return attacked(ENTRIES[name], at, at.images, threat)


@cache
def brief(entry: Entry) -> Any:
    """The attack with its defaults, but whole numbers no larger than they need be: what holds of few holds of many."""
    allowed = [attack for largest in LARGEST if (attack := _with_at_most(entry, largest))]
    return next((attack for attack in allowed if attack.steps <= LARGEST[0]), allowed[0])


def _with_at_most(entry: Entry, largest: int) -> Any:
    defaults = {field.name: getattr(entry.load()(), field.name) for field in entry.fields}
    large = [name for name, value in defaults.items() if isinstance(value, int) and value > largest]
    try:
        return entry.load()(**dict.fromkeys(large, largest))
    except InputError:  # too small for it, or at odds with another setting
        return None


def own_threat(entry: Entry) -> str:
    """A threat that the attack is made for."""
    return next(threat for case, threat in CASES if case is entry)


def attacked(entry: Entry, at: Scene, images: fl.Images, threat: str, slots: int = 0) -> AttackResult:
    return fl.attack(at.subject, images, brief(entry), threat, slots=slots)


def outcomes(result: AttackResult, images: fl.Images) -> dict[int, tuple[Any, ...]]:
    """All that became of each image, its pixels bit for bit."""
    columns = (result.broken, result.distance, result.prediction, result.forwards, result.backwards)
    facts = zip(images.ids.tolist(), *(column.tolist() for column in columns), result.x, strict=True)
    return {image: (*found, x.numpy().tobytes()) for image, *found, x in facts}


def distance(x: Tensor, clean: Tensor, norm: str) -> np.ndarray:
    delta = (x.numpy().astype(np.float64) - clean.numpy().astype(np.float64)).reshape(len(x), -1)
    kinds = {
        "linf": lambda: np.abs(delta).max(1),
        "l2": lambda: np.sqrt((delta**2).sum(1)),
        "l1": lambda: np.abs(delta).sum(1),
        "l0": lambda: (delta.reshape(*x.shape) != 0).any(1).sum((1, 2)).astype(np.float64),
    }
    return np.asarray(kinds[norm]())


def test_there_are_attacks_to_test() -> None:
    assert {"fgsm", "pgd", "uniform-noise"} <= set(ENTRIES)


@attacks
def test_it_is_a_frozen_dataclass_with_defaults(entry: Entry) -> None:
    kind = entry.load()
    assert dataclasses.is_dataclass(kind)
    assert kind.__dataclass_params__.frozen
    attack = kind()
    assert attack.steps >= 1
    assert kind() == attack
    assert hash(kind()) == hash(attack)


@attacks
def test_its_docstring_says_what_whence_and_each_field(entry: Entry) -> None:
    assert entry.summary.endswith("."), "the first line is one sentence"
    assert entry.source, 'a paragraph "Source: …" names paper and section'
    arguments = entry.doc.partition("Args:")[2]
    for field in entry.fields:
        assert f"\n    {field.name}: " in arguments, f"Args: says nothing of {field.name}"
    assert {field.name for field in entry.fields} == {field.name for field in dataclasses.fields(entry.load())}


@attacks
def test_its_settings_can_be_written_on_the_command_line(entry: Entry) -> None:
    hints = get_type_hints(entry.load())
    defaults = {field.name: getattr(entry.load()(), field.name) for field in entry.fields}
    for name, value in defaults.items():
        assert settings.parse(name, str(value), hints[name]) == value
    written = [f"{name}={value}" for name, value in defaults.items()]
    assert settings.build(entry, written, "attack") == entry.load()()


@threats
@widths
def test_twins_lie_in_the_ball_and_in_the_box(entry: Entry, threat: str, classes: int) -> None:
    """In float64, without the package's own arithmetic."""
    result, images = baseline(entry.name, classes, threat), scene(classes).images
    norm, _, epsilon = threat.partition(":")
    found = distance(result.x, images.x, norm)
    assert result.x.dtype == torch.float32
    assert bool(torch.isfinite(result.x).all())
    # A minimal attack knows no ball: what it found is measured by the judge, with his allowance for rounding.
    assert found.max() <= float(epsilon) * (1 + ROUNDING * is_minimal(brief(entry)))
    assert float(result.x.min()) >= 0
    assert float(result.x.max()) <= 1
    assert result.distance.numpy() == pytest.approx(found, rel=1e-12)


@threats
@widths
def test_what_is_called_broken_is_broken(entry: Entry, threat: str, classes: int) -> None:
    """By the plain net in one batch of its own; what stands is handed back as it was."""
    result, at = baseline(entry.name, classes, threat), scene(classes)
    with torch.no_grad():
        prediction = at.net(result.x).argmax(1)
    assert torch.equal(prediction != at.images.y, result.broken)
    assert torch.equal(prediction, result.prediction)
    standing = ~result.broken
    assert torch.equal(result.x[standing], at.images.x[standing])


@threats
def test_the_scene_is_neither_hopeless_nor_trivial(entry: Entry, threat: str) -> None:
    """Else the tests above would be empty: some images stand and some fall to the attack, over all class counts."""
    results = [baseline(entry.name, classes, threat) for classes in CLASSES]
    assert any(bool((result.broken & (result.distance > 0)).any()) for result in results)
    assert any(bool((~result.broken).any()) for result in results)


@threats
@widths
def test_an_image_that_is_wrong_already_is_left_alone(entry: Entry, threat: str, classes: int) -> None:
    result, images = baseline(entry.name, classes, threat), scene(classes).images
    assert bool(result.broken[WRONG])
    assert torch.equal(result.x[WRONG], images.x[WRONG])
    assert (float(result.distance[WRONG]), int(result.forwards[WRONG]), int(result.backwards[WRONG])) == (0, 1, 0)


@threats
def test_the_number_of_slots_changes_nothing(entry: Entry, threat: str) -> None:
    """With fewer slots than images some begin where others stand in the middle; by default all begin at once."""
    at = scene(3)
    images = at.images.first(5)
    whole = outcomes(baseline(entry.name, 3, threat), at.images)
    found = outcomes(attacked(entry, at, images, threat, slots=2), images)
    assert found == {image: whole[image] for image in images.ids.tolist()}


@threats
@pytest.mark.parametrize("rows", [[8, 3, 1, 0, 7], [7]], ids=["another order", "one"])
def test_order_and_company_change_nothing(entry: Entry, threat: str, rows: list[int]) -> None:
    at = scene(10)
    images = at.images.take(torch.tensor(rows))
    whole = outcomes(baseline(entry.name, 10, threat), at.images)
    found = outcomes(attacked(entry, at, images, threat), images)
    assert found == {image: whole[image] for image in images.ids.tolist()}


@attacks
def test_no_images_left_are_no_fault(entry: Entry) -> None:
    at = scene(3)
    wrong = at.images.take(torch.tensor([WRONG]))
    assert attacked(entry, at, wrong, own_threat(entry)).broken.tolist() == [True]


class Counting(nn.Module):
    """A net that counts the rows it is shown, forwards and backwards; black rows are what pieces are filled up with."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net, self.forwards, self.backwards = net, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        shown = int((x != 0).flatten(1).any(1).sum())
        self.forwards += shown
        if x.requires_grad:
            x.register_hook(lambda gradient: self._count(shown))
        return self.net(x)

    def _count(self, shown: int) -> None:
        self.backwards += shown


@threats
def test_passes_are_those_that_the_model_saw(entry: Entry, threat: str) -> None:
    """Summed over the images, and image by image when each goes alone."""
    at = scene(3)
    whole = counted(entry, at, at.images, threat)
    for row in (WRONG, 8):
        assert counted(entry, at, at.images.take(torch.tensor([row])), threat) == [whole[row]]


def counted(entry: Entry, at: Scene, images: fl.Images, threat: str) -> list[tuple[int, int]]:
    """Forward and backward passes of each image, as the engine counts them; they sum to those that the model saw."""
    subject = Subject(Counting(at.net), 3)
    running = toys.engine(subject, images, brief(entry), threat)
    model = subject.module
    assert isinstance(model, Counting)
    model.forwards = 0
    settled = toys.settle(running)
    passes = [[one.attempt for one in settled if one.row == row] for row in range(len(images))]
    found = [(sum(a.forwards for a in some), sum(a.backwards for a in some)) for some in passes]
    assert sum(forwards for forwards, _ in found) == model.forwards
    assert sum(backwards for _, backwards in found) == model.backwards
    return found


@threats
def test_the_judge_never_refuses_it(entry: Entry, threat: str) -> None:
    """No candidate outside, and on the judge's own model no claim that the judge does not uphold."""
    at = scene(3)
    settled = toys.settle(toys.engine(at.subject, at.images, brief(entry), threat))
    assert {one.attempt.outcome for one in settled} <= {Outcome.BROKE, Outcome.STOOD}
    assert all(one.attempt.claims_refused == 0 for one in settled)


@threats
def test_start_and_step_are_pure(entry: Entry, threat: str) -> None:
    """Called twice they answer the same; what they were given is unchanged, and so is torch's own generator."""
    at, attack = scene(3), brief(entry)
    posed = toys.problem(at.subject, at.images, threat)
    given, luck = tensors(posed), torch.random.get_rng_state()
    state = attack.start(posed)
    stepped = replace(posed, step=posed.step + 1)
    before = tensors(state)
    after = attack.step(stepped, state)
    assert same(tensors(state), before)
    assert same(tensors(attack.start(posed)), before)
    assert same(tensors(attack.step(stepped, state)), tensors(after))
    assert same(tensors(posed), given)
    assert torch.equal(torch.random.get_rng_state(), luck)


@threats
def test_what_it_asks_about_lies_in_the_ball(entry: Entry, threat: str) -> None:
    """All of it, not only what is claimed; a minimal attack may leave the ball, but never the box."""
    at, (norm, _, epsilon) = scene(3), threat.partition(":")
    posed, attack = toys.problem(at.subject, at.images, threat), brief(entry)
    state = attack.start(posed)
    for step in range(1, min(attack.steps, LARGEST[0]) + 1):
        state = attack.step(replace(posed, step=torch.full_like(posed.y, step)), state)
    assert isinstance(posed.oracle, RecordingOracle)
    for question in posed.oracle.questions:
        points = len(question.x) // len(at.images)
        assert float(question.x.min()) >= -ROUNDING
        assert float(question.x.max()) <= 1 + ROUNDING
        if not is_minimal(attack):
            clean = at.images.x.repeat_interleave(points, 0)
            assert distance(question.x.clamp(0, 1), clean, norm).max() <= float(epsilon) * (1 + ROUNDING)


@attacks
def test_its_state_has_a_row_for_each_image(entry: Entry) -> None:
    at = scene(3)
    state = brief(entry).start(toys.problem(at.subject, at.images, own_threat(entry)))
    assert dataclasses.is_dataclass(state)
    assert state.x.shape == at.images.x.shape
    assert {len(value) for value in tensors(state).values()} == {len(at.images)}


def tensors(record: Any) -> dict[str, Tensor]:
    """Copies of the tensors among a dataclass's fields."""
    values = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    return {name: value.clone() for name, value in values.items() if isinstance(value, Tensor)}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
