"""Studies on linear classifiers, where noise, transfer and the best universal perturbation are known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import faultlight as fl
import toys
from faultlight.attacks.fgsm import FGSM
from faultlight.attacks.pgd import PGD
from faultlight.errors import InputError
from faultlight.models.subject import Subject
from faultlight.studies._case import Case
from faultlight.studies._search import to_the_end
from faultlight.studies.drawn_class import DrawnClass
from faultlight.studies.epsilon_curve import EpsilonCurve
from faultlight.studies.noise_transfer import NoiseTransfer, cosines, shuffled
from faultlight.studies.targeted_matrix import TargetedMatrix
from faultlight.studies.transfer import Transfer
from faultlight.studies.universal import Universal
from faultlight.threat import parse_threat

STUDIES = (DrawnClass, EpsilonCurve, NoiseTransfer, TargetedMatrix, Transfer, Universal)


def case(net: nn.Module, images: fl.Images, threat: str, **more: Any) -> Case:
    return Case({"net": Subject(net, len(images.classes))}, images, parse_threat(threat), **more)


def direction(net: nn.Sequential) -> Tensor:
    """w₁ − w₀: where a classifier of two classes turns from 0 to 1."""
    last = net[1]
    assert isinstance(last, nn.Linear)
    return (last.weight[1] - last.weight[0]).detach()


def margins(net: nn.Sequential, images: fl.Images) -> Tensor:
    """z₁ − z₀, for labels 1; with its sign turned for labels 0: how far the label is ahead."""
    logits = net(images.x).detach()
    ahead = logits[:, 1] - logits[:, 0]
    return torch.where(images.y == 1, ahead, -ahead)


def test_the_curve_of_a_linear_classifier_falls_where_its_margins_lie() -> None:
    """FGSM is the best attack on it: an image stands iff its margin is above ε·‖w‖₁."""
    net = toys.linear(2)
    images = toys.images(net, 2, n=40, spread=0.2)
    result = EpsilonCurve(largest=0.1, points=6, samples=2)(case(net, images, "linf:0.1"))
    reach = margins(net, images) / direction(net).abs().sum()
    expected = [float((reach > epsilon).double().mean()) for epsilon in result.arrays["epsilon"]]
    assert result.arrays["accuracy"].tolist() == expected
    assert expected[0] == 1.0
    assert expected[-1] < 0.5
    assert len(result.panels) == 12
    assert result.panels[0].title == f"ε 0: {int(images.y[0])} → {int(images.y[0])}"


def test_noise_on_a_linear_classifier_is_one_pattern_and_its_negative() -> None:
    """δ = ±ε·sign(w), so its cosines are ±1, and it misleads images of its class whose margin is below ε·‖w‖₁."""
    net = toys.linear(2)
    images = toys.images(net, 2, n=24, spread=0.1)
    result = NoiseTransfer()(case(net, images, "linf:0.02"))
    same = images.y[:, None] == images.y[None]
    assert result.arrays["cosine"] == pytest.approx(np.where(same, 1.0, -1.0), abs=1e-5)
    misled = (margins(net, images) < 0.02 * direction(net).abs().sum())[None] & same
    assert np.array_equal(result.arrays["transfer"], misled.numpy())
    assert bool((misled != same).any())
    assert result.facts["cosine_within_class"] == pytest.approx(1.0)
    assert result.facts["others"] == pytest.approx(float(misled[~torch.eye(24, dtype=torch.bool)].double().mean()))
    assert result.facts["own"] == pytest.approx(float(misled.diagonal().double().mean()))


def test_identical_noises_have_cosine_one_and_none_with_nothing() -> None:
    noise = torch.tensor([[3.0, 4.0], [3.0, 4.0], [-4.0, 3.0], [0.0, 0.0]]).view(4, 1, 1, 2)
    expected = torch.tensor([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
    assert torch.allclose(cosines(noise), expected)


def test_shuffled_noise_keeps_its_values_and_its_pixels_together() -> None:
    noise = torch.arange(2 * 3 * 16, dtype=torch.float32).view(2, 3, 4, 4)
    found = shuffled(noise, torch.tensor([5, 9]), seed=0)
    assert not torch.equal(found, noise)
    assert torch.equal(found.flatten(2).sort(2).values, noise.flatten(2))
    assert bool((found[:, 1] - found[:, 0] == 16).all())


def test_what_breaks_a_model_transfers_to_itself_wholly_and_to_another_as_far_as_their_weights_agree() -> None:
    """FGSM of a moves every image by ε·sign(w_a) against its label; b is misled where its own margin is used up."""
    first, second = toys.linear(2, seed=0), toys.linear(2, seed=3)
    images = toys.images(first, 2, n=60, spread=0.3)
    subjects = {"a": Subject(first, 2), "b": Subject(second, 2)}
    result = Transfer()(Case(subjects, images, parse_threat("linf:0.1")))
    step = -0.1 * torch.where(images.y == 1, 1.0, -1.0)[:, None] * direction(first).sign()
    twins = replace(images, x=(images.x.flatten(1) + step).clamp(0, 1).view_as(images.x))
    broken, right = margins(first, twins) < 0, margins(second, images) > 0
    eligible = broken & right
    misled = eligible & (margins(second, twins) < 0)
    assert result.arrays["eligible"][0].tolist() == [int(broken.sum()), int(eligible.sum())]
    assert result.arrays["misled"][0].tolist() == [int(broken.sum()), int(misled.sum())]
    assert 0 < int(misled.sum()) < int(eligible.sum())
    assert result.arrays["rate"].diagonal().tolist() == [1.0, 1.0]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_best_universal_perturbation_of_one_class_is_that_of_the_weights(norm: str) -> None:
    """Of a linear classifier: ε·sign(w) for L∞, ε·w/‖w‖ for L2; it fools where the margin is below ε·‖w‖ dual."""
    net = toys.linear(2)
    everything = toys.images(net, 2, n=200, spread=0.2)
    images = everything.take(everything.y == 0)
    epsilon = {"linf": 0.05, "l2": 0.2}[norm]
    posed = case(net, images, f"{norm}:{epsilon}", fitting=replace(images, split="train"))
    result = Universal(fit=40, batch=10, epochs=3)(posed)
    w = direction(net)
    best = epsilon * (w.sign() if norm == "linf" else w / w.norm())
    assert result.arrays["noise"].ravel() == pytest.approx(best.numpy(), abs=1e-4)
    dual = w.abs().sum() if norm == "linf" else w.norm()
    expected = float((margins(net, images) < epsilon * dual).double().mean())
    assert result.facts["fooled"]["held-out images"] == pytest.approx(expected, abs=0.011)
    assert 0.05 < expected < 0.95


def test_a_universal_perturbation_can_aim_at_a_class() -> None:
    net = toys.linear(3)
    images = toys.images(net, 3, n=60, spread=0.2)
    posed = case(net, images, "linf:0.3", fitting=images)
    assert set(Universal(fit=60, target=2)(posed).arrays["prediction"].tolist()) == {2}


def test_a_few_steps_reach_the_radius_too() -> None:
    net = toys.linear(2)
    images = toys.images(net, 2, n=20, spread=0.1)
    images = images.take(images.y == 0)
    noise = Universal(fit=20, epochs=2)(case(net, images, "linf:0.1", fitting=images)).arrays["noise"]
    assert np.abs(noise) == pytest.approx(0.1)


def test_the_limit_on_the_loss_leaves_out_what_is_won() -> None:
    """Where every loss is above β there is no gradient, and the perturbation stays zero."""
    net = toys.linear(2)
    images = toys.images(net, 2, n=10, spread=0.05)
    posed = case(net, images, "linf:0.1", fitting=images)
    assert not Universal(fit=10, clip=1e-9)(posed).arrays["noise"].any()


def test_noise_turns_its_own_image_and_the_matrix_is_what_the_net_says() -> None:
    net = toys.linear(4, seed=1)
    images = toys.images(net, 4, n=60, spread=0.3)
    source = int(images.y[0])
    aims = [label for label in range(4) if label != source][:2]
    study = TargetedMatrix(source=source, targets=",".join(map(str, aims)), weight=0.2)
    result = study(case(net, images, "linf:0.1"))
    assert result.arrays["own_prediction"].tolist() == aims
    with torch.no_grad():
        moved = [net((images.x + torch.from_numpy(noise)).clamp(0, 1)).argmax(1) for noise in result.arrays["noise"]]
    assert np.array_equal(result.arrays["prediction"], torch.stack(moved).numpy())
    for i, prediction in enumerate(moved):
        for label in range(4):
            own = images.y == label
            assert result.arrays["misled"][i, label] == pytest.approx(float((prediction != label)[own].double().mean()))
            hit = ((prediction == aims[i]) & (prediction != images.y))[own]
            assert result.arrays["reached"][i, label] == pytest.approx(float(hit.double().mean()))


def test_a_drawn_class_ends_in_the_corner_of_its_ball() -> None:
    """Of two classes: x + ε·sign(w), clipped, and p = σ(z₁ − z₀) there; for every kind of start."""
    net = toys.linear(2)
    images = toys.images(net, 2, n=12, spread=0.2)
    result = DrawnClass(target=1, steps=12, noises=5)(case(net, images, "linf:0.3"))
    real = images.take(images.y == 0)
    corners = {"real": real.x, "zeros": torch.zeros(1, *toys.SHAPE)}
    for name, start in corners.items():
        x = (start.flatten(1) + 0.3 * direction(net).sign()).clamp(0, 1)
        assert result.arrays[f"{name}_x"].reshape(len(x), -1) == pytest.approx(x.numpy(), abs=1e-6)
        logits = net(x).detach()
        confidence = torch.sigmoid(logits[:, 1] - logits[:, 0])
        assert result.arrays[f"{name}_confidence"] == pytest.approx(confidence.numpy(), abs=1e-5)
        assert np.array_equal(result.arrays[f"{name}_reached"], (confidence > 0.5).numpy())
    noise = result.arrays["noise_x"]
    assert noise.shape == (5, *toys.SHAPE)
    assert abs(float(noise.mean()) - 0.5 - 0.3 * float(direction(net).sign().mean())) < 0.02


def test_a_run_to_the_end_keeps_the_strongest_point_and_stops_at_no_success() -> None:
    net = toys.linear(2)
    images = toys.images(net, 2, n=6)
    bench = case(net, images, "linf:0.2").bench(Subject(net, 2))
    run = to_the_end(bench, images, PGD(steps=9, random_start=False), parse_threat("linf:0.2"), seed=0)
    once = to_the_end(bench, images, FGSM(), parse_threat("linf:0.2"), seed=0)
    assert torch.allclose(run.strongest, once.strongest, atol=1e-6)
    assert torch.equal(once.strongest, once.last)
    sign = torch.where(images.y == 1, -1.0, 1.0)[:, None] * direction(net).sign()
    assert torch.allclose(once.last.flatten(1), (images.x.flatten(1) + 0.2 * sign).clamp(0, 1), atol=1e-6)


@pytest.mark.parametrize(
    ("study", "sentence"),
    [
        (Transfer(), "name at least two"),
        (Universal(), "needs images to fit its perturbation to"),
        (TargetedMatrix(targets="1,x"), "no class numbers"),
        (TargetedMatrix(source=0, targets="0,1"), "source 0 is among the targets"),
        (TargetedMatrix(source=0, targets="7"), "target 7 is no class"),
        (DrawnClass(target=5), "target 5 is no class"),
        (NoiseTransfer(attack="fgms"), "did you mean 'fgsm'"),
        (EpsilonCurve(largest=3.0), "is above 1"),
    ],
)
def test_mistakes_are_one_sentence(study: Any, sentence: str) -> None:
    net = toys.linear(3)
    images = toys.images(net, 3, n=6)
    with pytest.raises(InputError, match=sentence) as raised:
        study(case(net, images, "linf:0.1"))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("study", [study for study in STUDIES if study is not Transfer])
def test_a_study_of_one_model_refuses_two(study: type[Any]) -> None:
    net = toys.linear(3)
    posed = case(net, toys.images(net, 3, n=9), "linf:0.1")
    several = replace(posed, subjects={"a": Subject(net, 3), "b": Subject(net, 3)})
    chosen = study(target=1) if study is DrawnClass else TargetedMatrix(0, "1") if study is TargetedMatrix else study()
    with pytest.raises(InputError, match="looks at one model, not at 2"):
        chosen(several)


@pytest.mark.parametrize(
    ("kind", "settings", "sentence"),
    [
        (EpsilonCurve, {"largest": -0.5}, "largest must be at least 0, not -0.5."),
        (EpsilonCurve, {"points": 1}, "points must be at least 2, not 1."),
        (EpsilonCurve, {"samples": -1}, "samples must be at least 0, not -1."),
        (Universal, {"epochs": 0}, "epochs must be at least 1, not 0."),
        (Universal, {"step_size": 0.0}, "step_size must be above 0, not 0."),
        (Universal, {"clip": -2.0}, "clip must be above 0, not -2."),
        (DrawnClass, {"steps": 0}, "steps must be at least 1, not 0."),
        (DrawnClass, {"deviation": -0.1}, "deviation must be at least 0, not -0.1."),
        (DrawnClass, {"mean": 1.5}, "mean must lie in [0, 1], as pixels do, not 1.5."),
    ],
)
def test_settings_out_of_range_are_named_with_their_value(
    kind: type[Any], settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError) as raised:
        kind(**settings)
    assert str(raised.value) == sentence
