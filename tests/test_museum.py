"""The museum: each broken defence is seen through, or its audit says that it cannot be trusted."""

from __future__ import annotations

import importlib.util
import json
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import faultlight as fl
from faultlight.evaluation.ledger import read_ledger
from faultlight.evaluation.rows import Status
from faultlight.models.subject import Subject

THREAT = "linf:0.1"
IMAGES = 24
# What each exhibit must be caught by; one of them is enough.
FLAGS = {
    "saturated": {"zero-gradients", "saturated-logits"},
    "cold_softmax": {"probabilities"},
    "rounded_input": {"zero-gradients"},
    "compressed": {"zero-gradients"},
    "thermometer": {"zero-gradients"},
    "noisy": {"random-output"},
    "randomly_shifted": {"random-output"},
    "random_ensemble": {"random-output"},
    "detached": {"zero-gradients"},
    "k_winners": {"unexplained-changes"},
    "quantised_activations": {"zero-gradients"},
    "abstaining": {"abstains"},
}
# Before these nothing is done to the pixels and after them the order of the classes is the same: the truth is that of
# the classifier itself, image by image.
TRANSPARENT = ("saturated", "cold_softmax", "detached", "huge_logits", "relu_logits", "distilled")


def museum() -> ModuleType:
    path = Path(__file__).parent.parent / "examples" / "museum.py"
    spec = importlib.util.spec_from_file_location("museum", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MUSEUM = museum()


@cache
def truth(name: str) -> frozenset[int]:
    """The images that a strong attack on the classifier behind a transparent defence leaves standing."""
    net = MUSEUM.distilled() if name == "distilled" else MUSEUM.undefended()
    attack = fl.attacks.PGD(steps=100, step_size=2.0, schedule="cosine", momentum=0.75, loss="margin", targets=9)
    images = fl.load_data("digits", n=IMAGES)
    broken = fl.attack(Subject(net, 10), images, attack, THREAT).broken
    return frozenset(images.ids[~broken].tolist())


def audited(name: str, folder: Path) -> tuple[fl.Run, set[str], frozenset[int]]:
    subject = Subject(MUSEUM.EXHIBITS[name](), 10, name)
    run = fl.audit(subject, fl.load_data("digits", n=IMAGES), THREAT, folder, effort="quick")
    standing = {row.id for row in read_ledger(folder / "ledger.sqlite").images() if row.status == Status.STANDING}
    return run, {finding.check for finding in run.verdict.findings}, frozenset(standing)


def test_there_are_ten_exhibits_at_least() -> None:
    assert len(MUSEUM.EXHIBITS) >= 10
    assert set(FLAGS) | set(TRANSPARENT) == set(MUSEUM.EXHIBITS)


@pytest.mark.slow
@pytest.mark.parametrize("name", MUSEUM.EXHIBITS)
def test_no_exhibit_gets_a_sound_verdict_with_a_false_number(name: str, tmp_path: Path) -> None:
    run, found, standing = audited(name, tmp_path / "run")
    if name in FLAGS:
        assert run.verdict.status != "sound" or name == "cold_softmax"
        assert found & FLAGS[name]
    if name in TRANSPARENT:
        assert len(standing - truth(name)) <= 1
    assert run.verdict.status != "sound" or name in TRANSPARENT


@pytest.mark.slow
def test_the_classifier_itself_is_sound(tmp_path: Path) -> None:
    """The control: no check fires where nothing is hidden."""
    subject = Subject(MUSEUM.undefended(), 10, "undefended")
    run = fl.audit(subject, fl.load_data("digits", n=IMAGES), THREAT, tmp_path / "run", effort="quick")
    assert run.verdict.findings == ()
    assert run.verdict.status == "sound"
    assert run.verdict.attacked is not None
    assert abs(run.verdict.attacked.count - len(truth("detached"))) <= 1
    checks: list[dict[str, Any]] = json.loads((tmp_path / "run" / "records" / "checks.json").read_text())["checks"]
    assert {check["outcome"] for check in checks} <= {"passed", "not run"}
    assert len(checks) >= 28


def test_the_exhibits_are_the_same_each_time() -> None:
    before = torch.get_rng_state()
    x = fl.load_data("digits", n=4).x
    again = museum()
    assert torch.equal(again.detached()(x), MUSEUM.detached()(x))
    assert torch.equal(torch.get_rng_state(), before)
