"""Twins that are 8-bit images: on the grid, in the ball, and judged as they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import faultlight as fl
import runs
import toys
from faultlight import geometry
from faultlight.errors import InputError
from faultlight.evaluation.judge import Judge
from faultlight.models.subject import Subject
from faultlight.threat import parse_threat

SHAPE = (2, 6, 6)


def is_on_the_grid(x: Tensor) -> bool:
    return torch.equal(x, (255 * x).round() / 255) and torch.equal(255 * x, (255 * x).round())


def rounded(x: Tensor) -> Tensor:
    return (255 * x).round() / 255


def test_levels_times_255_are_whole_in_float32() -> None:
    assert is_on_the_grid(torch.arange(256).float() / 255)


@pytest.mark.parametrize(
    ("clean", "candidate", "threat", "level"),
    [
        (100, 108 / 255, "linf:8/255", 108),
        (100, 108.4 / 255, "linf:8/255", 108),
        (100, 92.01 / 255, "linf:8/255", 92),
        (100, 104.6 / 255, "linf:8/255", 105),
        (3, 0.0, "linf:8/255", 0),
        (100, 176.5 / 255, "linf:0.3", 176),  # 76.5 levels: the half is out of reach
        (100, 104.6 / 255, "l2:0.018", 104),  # 4.59 levels: 105 lies outside, so towards x
        (100, 95.4 / 255, "l2:0.018", 96),
        (100, 104.6 / 255, "l2:1", 105),
    ],
)
def test_a_pixel_goes_to_its_level(clean: int, candidate: float, threat: str, level: int) -> None:
    x = torch.full((1, 1, 1, 1), clean / 255)
    moved = geometry.to_grid(torch.full_like(x, candidate), x, parse_threat(threat))
    assert float(255 * moved) == level


@pytest.mark.parametrize("threat", ["linf:8/255", "linf:0.1", "l2:0.7", "l1:3", "l0:4"])
@pytest.mark.parametrize("aligned", [True, False])
def test_points_of_the_ball_stay_in_it(threat: str, aligned: bool) -> None:
    ball = parse_threat(threat)
    x = torch.rand(200, *SHAPE, generator=torch.Generator().manual_seed(0))
    x = rounded(x) if aligned else x
    if not aligned and ball.norm != "linf":
        pytest.skip("the grid may be out of reach")
    luck = torch.rand(200, *SHAPE, generator=torch.Generator().manual_seed(1))
    moved = geometry.to_grid(geometry.random_in_ball(luck, x, ball), x, ball)
    assert is_on_the_grid(moved)
    distance = geometry.norm(geometry.on_grid(moved) - geometry.on_grid(x), ball.norm)
    assert float(distance.max()) <= ball.epsilon * (1 + 1e-6)
    assert torch.equal(geometry.to_grid(moved, x, ball), moved)


@pytest.mark.parametrize("threat", ["linf:8/255", "l2:0.3"])
@pytest.mark.parametrize("aligned", [True, False])
def test_twins_are_8_bit_images_that_break(threat: str, aligned: bool) -> None:
    net = toys.convolutional(10, shape=SHAPE)
    images = toys.images(net, 10, n=40, shape=SHAPE, spread=0.5)
    if aligned:
        x = rounded(images.x)
        with torch.no_grad():
            images = replace(images, x=x, y=net(x).argmax(1))
    result = fl.attack(Subject(net, 10), images, fl.attacks.PGD(steps=20), threat, eight_bit=True)
    plain = fl.attack(Subject(net, 10), images, fl.attacks.PGD(steps=20), threat)
    changed = result.broken & (result.distance > 0)
    assert int(changed.sum()) > 5
    assert int(plain.broken.sum()) - int(result.broken.sum()) <= 3
    assert is_on_the_grid(result.x[changed])
    with torch.no_grad():
        assert bool((net(result.x[changed]).argmax(1) != images.y[changed]).all())
    ball = parse_threat(threat)
    apart = geometry.norm(result.x.double() - images.x.double(), ball.norm)
    assert float(apart[changed].max()) <= ball.epsilon + 1e-7


def test_the_whole_of_eight_levels_is_used() -> None:
    """In float32 (k + 8)/255 − k/255 is often a hair more than 8/255; between 8-bit images it is 8/255."""
    x = torch.arange(0, 248).float().view(-1, 1, 1, 1) / 255
    ball = parse_threat("linf:8/255")
    judge = Judge(Subject(toys.linear(2, shape=(1, 1, 1)), 2), eight_bit=True)
    labels = torch.zeros(len(x), dtype=torch.int64)
    ruling = judge.rule(geometry.project(x + 1, x, ball), x, labels, labels - 1, ball)
    assert torch.equal((255 * ruling.x).round(), 255 * x + 8)
    assert not bool(ruling.outside.any())
    assert ruling.distance.tolist() == pytest.approx([8 / 255] * len(x), rel=1e-12)


def test_images_off_the_grid_leave_nothing_to_change_a_pixel() -> None:
    net = toys.convolutional(3, shape=SHAPE)
    images = toys.images(net, 3, shape=SHAPE)
    with pytest.raises(InputError, match="no 8-bit images"):
        fl.attack(Subject(net, 3), images, fl.attacks.PGD(steps=2), "l0:1", eight_bit=True)


def test_an_audit_counts_8_bit_twins_alone(tmp_path: Path) -> None:
    run = fl.audit(runs.subject(), runs.digits(20), "linf:0.15", tmp_path / "run", effort="quick", eight_bit=True)
    arrays = load_file(tmp_path / "run" / "arrays" / "adversarial.safetensors")
    assert len(arrays["x"]) > 3
    assert is_on_the_grid(arrays["x"])
    assert "8-bit images" in run.verdict.sentence
    assert run.verdict.status == "sound"
    with torch.no_grad():
        assert bool((runs.templates()(arrays["x"]).argmax(1) != arrays["y"]).all())
