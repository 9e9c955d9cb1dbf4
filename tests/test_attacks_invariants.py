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
from faultlight.catalogue import Entry, catalogue
from faultlight.errors import InputError
from faultlight.evaluation.ledger import Outcome
from faultlight.models.subject import Subject

SHAPE = (2, 6, 6)
ENTRIES = catalogue("attacks")
THREATS = {"linf": "linf:0.03", "l2": "l2:0.15"}
CLASSES = (2, 3, 10)
WRONG = 4  # the row whose label is not what the model says

attacks = pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
threats = pytest.mark.parametrize("threat", THREATS.values(), ids=THREATS)
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


def brief(entry: Entry) -> Any:
    """The attack with default settings, but no more than 50 steps: what must hold holds after any number."""
    attack = entry.load()()
    settable = any(field.name == "steps" for field in dataclasses.fields(attack))
    return replace(attack, steps=min(attack.steps, 50)) if settable else attack


def attacked(entry: Entry, at: Scene, images: fl.Images, threat: str, slots: int = 0) -> AttackResult:
    try:
        return fl.attack(at.subject, images, brief(entry), threat, slots=slots)
    except InputError as error:  # an attack may say that a norm is not its own
        pytest.skip(str(error))


def outcomes(result: AttackResult, images: fl.Images) -> dict[int, tuple[Any, ...]]:
    """All that became of each image, its pixels bit for bit."""
    columns = (result.broken, result.distance, result.prediction, result.forwards, result.backwards)
    facts = zip(images.ids.tolist(), *(column.tolist() for column in columns), result.x, strict=True)
    return {image: (*found, x.numpy().tobytes()) for image, *found, x in facts}


def distance(x: Tensor, clean: Tensor, norm: str) -> np.ndarray:
    delta = (x.numpy().astype(np.float64) - clean.numpy().astype(np.float64)).reshape(len(x), -1)
    return np.abs(delta).max(1) if norm == "linf" else np.sqrt((delta**2).sum(1))


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


@attacks
@threats
@widths
def test_twins_lie_in_the_ball_and_in_the_box(entry: Entry, threat: str, classes: int) -> None:
    """In float64, without the package's own arithmetic."""
    result, images = baseline(entry.name, classes, threat), scene(classes).images
    norm, _, epsilon = threat.partition(":")
    found = distance(result.x, images.x, norm)
    assert result.x.dtype == torch.float32
    assert bool(torch.isfinite(result.x).all())
    assert found.max() <= float(epsilon)
    assert float(result.x.min()) >= 0
    assert float(result.x.max()) <= 1
    assert result.distance.numpy() == pytest.approx(found, rel=1e-12)


@attacks
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


@attacks
@threats
def test_the_scene_is_neither_hopeless_nor_trivial(entry: Entry, threat: str) -> None:
    """Else the tests above would be empty: some images stand and some fall to the attack, over all class counts."""
    results = [baseline(entry.name, classes, threat) for classes in CLASSES]
    assert any(bool((result.broken & (result.distance > 0)).any()) for result in results)
    assert any(bool((~result.broken).any()) for result in results)


@attacks
@threats
@widths
def test_an_image_that_is_wrong_already_is_left_alone(entry: Entry, threat: str, classes: int) -> None:
    result, images = baseline(entry.name, classes, threat), scene(classes).images
    assert bool(result.broken[WRONG])
    assert torch.equal(result.x[WRONG], images.x[WRONG])
    assert (float(result.distance[WRONG]), int(result.forwards[WRONG]), int(result.backwards[WRONG])) == (0, 1, 0)


@attacks
@threats
@pytest.mark.parametrize("slots", [1, 3, 7, 64])
def test_the_number_of_slots_changes_nothing(entry: Entry, threat: str, slots: int) -> None:
    at = scene(3)
    again = attacked(entry, at, at.images, threat, slots)
    assert outcomes(again, at.images) == outcomes(baseline(entry.name, 3, threat), at.images)


@attacks
@threats
@pytest.mark.parametrize("rows", [[8, 3, 1, 0, 7, 4, 2, 6, 5], [2, 5], [7]], ids=["another order", "two", "one"])
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
    assert attacked(entry, at, wrong, THREATS["linf"]).broken.tolist() == [True]


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


@attacks
@threats
def test_passes_are_those_that_the_model_saw(entry: Entry, threat: str) -> None:
    """Summed over the images, and image by image when each goes alone."""
    at = scene(3)
    whole = counted(entry, at, at.images, threat)
    alone = [counted(entry, at, at.images.take(torch.tensor([row])), threat) for row in range(len(at.images))]
    assert [one[0] for one in alone] == whole


def counted(entry: Entry, at: Scene, images: fl.Images, threat: str) -> list[tuple[int, int]]:
    """Forward and backward passes of each image, as the engine counts them; they sum to those that the model saw."""
    subject = Subject(Counting(at.net), 3)
    running = toys.engine(subject, images, brief(entry), threat)
    model = subject.module
    assert isinstance(model, Counting)
    model.forwards = 0
    try:
        settled = toys.settle(running)
    except InputError as error:
        pytest.skip(str(error))
    passes = [[one.attempt for one in settled if one.row == row] for row in range(len(images))]
    found = [(sum(a.forwards for a in some), sum(a.backwards for a in some)) for some in passes]
    assert sum(forwards for forwards, _ in found) == model.forwards
    assert sum(backwards for _, backwards in found) == model.backwards
    return found


@attacks
@threats
@widths
def test_the_judge_never_refuses_it(entry: Entry, threat: str, classes: int) -> None:
    """No candidate outside, and on the judge's own model no claim that the judge does not uphold."""
    at = scene(classes)
    try:
        settled = toys.settle(toys.engine(at.subject, at.images, brief(entry), threat))
    except InputError as error:
        pytest.skip(str(error))
    assert {one.attempt.outcome for one in settled} <= {Outcome.BROKE, Outcome.STOOD}
    assert all(one.attempt.claims_refused == 0 for one in settled)


@attacks
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


@attacks
def test_its_state_has_a_row_for_each_image(entry: Entry) -> None:
    at = scene(3)
    state = entry.load()().start(toys.problem(at.subject, at.images, THREATS["linf"]))
    assert dataclasses.is_dataclass(state)
    assert state.x.shape == at.images.x.shape
    assert {len(value) for value in tensors(state).values()} == {len(at.images)}


def tensors(record: Any) -> dict[str, Tensor]:
    """Copies of the tensors among a dataclass's fields."""
    values = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    return {name: value.clone() for name, value in values.items() if isinstance(value, Tensor)}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
