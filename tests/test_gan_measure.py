"""Fidelity and coverage against closed forms and hand-made cases, and the alarm."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import nn

from faultlight.errors import InputError
from faultlight.gan.fidelity import frechet_distance, neighbour_radii, precision_recall
from faultlight.gan.measuring import measure, see
from faultlight.gan.modes import alarms, modes, within_class_spread
from faultlight.gan.nearest import nearest
from faultlight.gan.reals import place_reals
from faultlight.gan.run import train
from faultlight.gan.sample import draw
from faultlight.gan.saved import load_generator
from faultlight.models.subject import Subject
from gan_toys import images, recipe


def normal(count: int, dimensions: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dimensions))


def test_two_gaussians_with_diagonal_covariance_have_a_known_distance() -> None:
    """d² = ‖μ₁ − μ₂‖² + Σ (σ₁ − σ₂)²."""
    # ±1 in each of two directions: mean 0, sample covariance the unit matrix times 4/3.
    corners = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    moved = corners * np.array([3.0, 0.5]) + np.array([2.0, -1.0])
    deviation = (4 / 3) ** 0.5
    due = 5.0 + (3 * deviation - deviation) ** 2 + (0.5 * deviation - deviation) ** 2
    assert frechet_distance(corners, moved) == pytest.approx(due, rel=1e-10)


def test_the_distance_is_that_of_the_matrix_root() -> None:
    first = normal(50, 6, 0) @ normal(6, 6, 1)
    second = normal(60, 6, 2) @ normal(6, 6, 3) + 0.3
    one, two = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    apart = ((first.mean(0) - second.mean(0)) ** 2).sum()
    due = apart + np.trace(one + two - 2 * np.real(sqrtm(one @ two)))
    assert frechet_distance(first, second) == pytest.approx(float(due), rel=1e-8)
    assert frechet_distance(second, first) == pytest.approx(float(due), rel=1e-8)


def test_a_set_is_no_distance_from_itself_even_where_its_covariance_is_singular() -> None:
    flat = np.repeat(normal(20, 2, 0), 3, axis=1)
    assert frechet_distance(flat, flat) == pytest.approx(0.0, abs=1e-8)


def test_radii_reach_the_kth_neighbour() -> None:
    points = torch.tensor([[0.0], [1.0], [3.0], [7.0]], dtype=torch.float64)
    assert neighbour_radii(points, 1).tolist() == [1.0, 1.0, 2.0, 4.0]
    assert neighbour_radii(points, 2).tolist() == [3.0, 2.0, 3.0, 6.0]


def test_precision_and_recall_of_points_on_a_line() -> None:
    """Real 0, 1, 10, 11 reach 1 each. Drawn 0.5, 1.5, 5, 5.2 reach 1, 1, 0.2, 0.2."""
    real, drawn = np.array([[0.0], [1.0], [10.0], [11.0]]), np.array([[0.5], [1.5], [5.0], [5.2]])
    found = precision_recall(real, drawn, k=1)
    assert found.precision == 0.5
    assert found.recall == 0.5
    assert precision_recall(real, real, k=1) == precision_recall(drawn, drawn, k=1)


def test_a_generator_that_draws_one_image_has_precision_without_recall() -> None:
    real = normal(200, 3, 0)
    found = precision_recall(real, np.repeat(real[:1], 200, axis=0))
    assert found.precision == 1.0
    assert found.recall == 1 / 200


def test_modes_are_counted_with_their_entropy() -> None:
    found = modes(np.array([0] * 50 + [1] * 25 + [2] * 25), 4)
    assert found.counts.tolist() == [50, 25, 25, 0]
    assert found.entropy == pytest.approx(1.5 * np.log(2))
    assert found.most_entropy == pytest.approx(2 * np.log(2))
    assert (found.covered, found.least) == (3, 2)


def test_a_class_with_less_than_a_tenth_of_an_even_share_is_not_covered() -> None:
    prediction = np.concatenate([np.arange(9).repeat(110), np.full(9, 9), np.zeros(1, int)])
    assert modes(prediction, 10).least == 10
    assert modes(prediction, 10).covered == 9
    assert modes(np.arange(500), 1000).covered == 500


def test_the_alarm_is_silent_over_even_classes_and_says_why_it_goes_off() -> None:
    even, one = np.arange(10).repeat(100), np.ones(1000, int)
    real = modes(even, 10)
    assert alarms(modes(even, 10), real, 0.5) == ()
    found = alarms(modes(one, 10), real, 0.0)
    assert [each.check for each in found] == ["modes", "entropy", "spread"]
    assert found[0].evidence == "1 of 10 classes are drawn, with at least 10 each; 8 are due"
    assert found[1].evidence == "the entropy of the classes is 0.00 nats where 1.73 are due and real images have 2.30"
    assert [each.check for each in alarms(modes(even, 10), real, 0.0)] == ["spread"]
    half = alarms(modes(np.arange(4).repeat(250), 10), real, 0.5)
    assert [each.check for each in half] == ["modes", "entropy"]


def test_the_alarm_asks_no_more_classes_than_as_many_real_images_have() -> None:
    # Two classes under a classifier of ten; and fifty samples of a thousand even modes.
    two = modes(np.arange(2).repeat(500), 10)
    few = modes(np.random.default_rng(0).integers(0, 1000, 50), 1000)
    others = modes(np.random.default_rng(1).integers(0, 1000, 50), 1000)
    assert alarms(two, two, 1.0) == ()
    assert alarms(few, others, 1.0) == ()
    assert [each.check for each in alarms(modes(np.zeros(1000, int), 10), two, 1.0)] == ["modes", "entropy"]


def test_the_spread_within_classes_is_known() -> None:
    """Class 0 holds (0, 0) and (2, 0), class 1 holds (5, 5) three times: √((1 + 1) / (5 − 2))."""
    x = np.array([[0, 0], [2, 0], [5, 5], [5, 5], [5, 5]], np.float32)
    assert within_class_spread(x, np.array([0, 0, 7, 7, 7])) == pytest.approx((2 / 3) ** 0.5)
    assert within_class_spread(x[2:], np.zeros(3, int)) == 0.0
    # No class has two: all are one, with mean (1, 0).
    assert within_class_spread(x[:2], np.array([0, 1])) == pytest.approx(2**0.5)


def test_the_nearest_image_is_found_by_its_pixels() -> None:
    known = images(40).x
    asked = known[[7, 31]] + 0.001
    found = nearest(asked, known)
    assert found.row.tolist() == [7, 31]
    assert found.distance.tolist() == pytest.approx([0.001 * 8, 0.001 * 8], rel=1e-3)


class Bright(nn.Module):
    """Two classes: dark and bright, by the mean pixel; features are the mean and its double."""

    def __init__(self) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.mean = nn.Linear(64, 2, bias=False)
        self.last = nn.Linear(2, 2)
        with torch.no_grad():
            self.mean.weight.copy_(torch.tensor([[1 / 64], [2 / 64]]).expand(2, 64))
            self.last.weight.copy_(torch.tensor([[0.0, 0.0], [40.0, 0.0]]))
            self.last.bias.copy_(torch.tensor([0.0, -20.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.last(self.mean(self.flatten(x)))
        return logits


def test_a_classifier_sees_each_layer_of_a_stack_by_itself() -> None:
    dark, bright = torch.zeros(1, 1, 8, 8), torch.full((1, 1, 8, 8), 0.6)
    seen = see(Subject(Bright(), 2), torch.cat([bright, dark, bright], 1), stack=3)
    assert seen.prediction.tolist() == [0b101]
    sure = 1 / (1 + np.exp(-4.0))
    assert seen.confidence.tolist() == pytest.approx([sure], rel=1e-5)
    assert seen.features[0].tolist() == pytest.approx([0.6, 1.2, 0.0, 0.0, 0.6, 1.2], rel=1e-5)


def test_a_run_is_measured_beside_real_images(run_folder: Path) -> None:
    train(recipe(target={"at_least": 0.0}), out=run_folder, images=images(), quiet=True)
    record = measure(run_folder, Subject(Bright(), 2), n=60, train=images(), held_out=images(30, split="test"))
    assert json.loads((run_folder / "records/measure.json").read_text()) == record
    assert sum(record["drawn"]["modes"]["counts"]) == 60
    assert record["held_out"]["n"] == 30
    assert record["held_out"]["modes"]["covered"] == 2
    assert record["target"]["met"]
    assert record["alarm"] == bool(record["findings"])
    for picture in ("samples.png", "nearest.png", "interpolation.png"):
        assert (run_folder / picture).read_bytes().startswith(b"\x89PNG")


def test_more_samples_than_there_are_training_images_show_none_of_them_twice(run_folder: Path) -> None:
    train(recipe(), out=run_folder, images=images(), quiet=True)
    others = images(160, split="test")
    record = measure(run_folder, Subject(Bright(), 2), n=160, train=images(), held_out=others)
    assert record["held_out"]["precision"] > 0.5
    due = frechet_distance(*(see(Subject(Bright(), 2), each.x).features for each in (images(), others)))
    assert record["held_out"]["classifier_fid"] == pytest.approx(due, rel=1e-9)


def test_both_fids_rest_on_as_many_images(run_folder: Path) -> None:
    """Of 60 samples the first 30 are compared, for as many images were held out."""
    train(recipe(), out=run_folder, images=images(), quiet=True)
    subject, others = Subject(Bright(), 2), images(30, split="test")
    record = measure(run_folder, subject, n=60, train=images(), held_out=others)
    known, drawn = (see(subject, x).features for x in (images().x, draw(load_generator(run_folder), 60, 0)))
    assert (record["drawn"]["n"], record["drawn"]["fid_n"], record["held_out"]["fid_n"]) == (60, 30, 30)
    assert record["drawn"]["classifier_fid"] == pytest.approx(frechet_distance(known, drawn[:30]), rel=1e-9)
    assert record["held_out"]["classifier_fid"] == pytest.approx(
        frechet_distance(known, see(subject, others.x).features), rel=1e-9
    )
    order = place_reals(images(), 1, 2, "cpu").sample(40, 0)
    due = precision_recall(see(subject, order).features[:30], drawn[:30])
    assert record["drawn"]["precision"] == due.precision
    assert record["drawn"]["recall"] == due.recall


def test_stacks_are_measured_over_all_their_modes(run_folder: Path) -> None:
    train(recipe(stack=3), out=run_folder, images=images(), quiet=True)
    held_out = images(30, split="test")
    record = measure(run_folder, Subject(Bright(), 2), n=40, train=images(), held_out=held_out)
    assert record["classes"] == 8
    shown = place_reals(held_out, 3, 2, "cpu").sample(30, 0), draw(load_generator(run_folder), 40, 0)
    for x, key in zip(shown, ("held_out", "drawn"), strict=True):
        bright = (x.flatten(2).mean(2) > 0.5).long()
        counts = torch.bincount(bright @ torch.tensor([4, 2, 1]), minlength=8)
        assert record[key]["modes"]["counts"] == counts.tolist()
        # A tenth of an even share is below one image.
        assert record[key]["modes"]["covered"] == int((counts > 0).sum())


def test_stacks_of_bright_images_alone_cover_one_mode_of_eight(run_folder: Path) -> None:
    train(recipe(stack=3), out=run_folder, images=images(), quiet=True)
    bright = replace(images(30, split="test"), x=torch.full((30, 1, 8, 8), 0.9))
    found = measure(run_folder, Subject(Bright(), 2), n=40, train=images(), held_out=bright)["held_out"]["modes"]
    assert found["counts"] == [0, 0, 0, 0, 0, 0, 0, 30]
    assert (found["covered"], found["entropy"]) == (1, 0.0)


def test_what_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no model.json"):
        measure(tmp_path, Subject(Bright(), 2))
    with pytest.raises(InputError, match="3 samples say nothing"):
        measure(tmp_path, Subject(Bright(), 2), n=3)
