"""Faithfulness: the best order of a linear net is known, and so is a map that ignores the model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import toys
from faultlight.data.images import Images
from faultlight.errors import InputError
from faultlight.models.subject import Subject
from faultlight.views._attribute import Question, attribute
from faultlight.views._deletion import Controls, Curves, area, controls, curves, standing
from faultlight.views._forgetting import cascade, in_order, rank_correlation, weights_key
from faultlight.views._initial import forgotten
from faultlight.views.attribution import asked
from faultlight.views.faithfulness import Faithfulness

SHAPE = (2, 6, 6)


def some_images(n: int = 6) -> Images:
    x = torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(1))
    return Images(x, torch.arange(n) % 2, torch.arange(50, 50 + n), ("a", "b"), "toys")


def opposed() -> Subject:
    """A linear net of two classes with opposite logits, so that the probability rises with the class's own logit."""
    net = toys.linear(2, shape=SHAPE)
    with torch.no_grad():
        net[1].weight[1], net[1].bias[1] = -net[1].weight[0], -net[1].bias[0]
    return Subject(net, 2)


def question(subject: Subject, images: Images, **settings: Any) -> Question:
    chosen = {"target": None, "absent": "grey", "steps": 8, "layer": None, "seed": 0} | settings
    return asked(subject, images, **chosen)


# Curves


def test_curves_by_hand() -> None:
    """z₁ − z₀ = 8 x₀₀ + 4 x₀₁ + 2 x₁₀ + x₁₁ − 7.5 on one image of four pixels."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[0.0, 0, 0, 0], [8, 4, 2, 1]]))
        net[1].bias.copy_(torch.tensor([0.0, -7.5]))
    image = Images(torch.ones(1, 1, 2, 2), torch.tensor([1]), torch.tensor([3]), ("a", "b"))
    subject = Subject(net, 2)
    found = curves(subject, question(subject, image, absent="black"), torch.tensor([[[3.0, 9.0], [-1.0, 0.0]]]), 4)

    def sigmoid(z: list[float]) -> list[float]:
        return [1 / (1 + np.exp(-each)) for each in z]

    np.testing.assert_allclose(found.deletion[0], sigmoid([7.5, 3.5, -4.5, -5.5, -7.5]), rtol=1e-5)
    np.testing.assert_allclose(found.insertion[0], sigmoid([-7.5, -3.5, 4.5, 5.5, 7.5]), rtol=1e-5)
    np.testing.assert_allclose(area(np.array([[1, 0, 0, 0, 1]], np.float32)), [0.25])
    np.testing.assert_allclose(area(np.array([[0.0, 1.0]], np.float32)), [0.5])


def test_the_true_contributions_are_the_best_order_of_a_linear_net() -> None:
    subject, images = opposed(), some_images()
    ask = question(subject, images)
    worth = attribute("integrated-gradients", subject, ask).sum(1)
    best = curves(subject, ask, worth, 36)
    generator = torch.Generator().manual_seed(3)
    others = [torch.rand(worth.shape, generator=generator) for _ in range(20)]
    others += [-worth, worth.abs(), worth + 0.02 * others[0]]
    for other in others:
        found = curves(subject, ask, other, 36)
        # At every share, not only in the area.
        assert (found.deletion >= best.deletion - 1e-6).all()
        assert (found.insertion <= best.insertion + 1e-6).all()
        assert (found.areas()[0] >= best.areas()[0] - 1e-6).all()


def test_curves_start_and_end_where_nothing_and_all_is_replaced() -> None:
    subject, images = opposed(), some_images()
    ask = question(subject, images)
    found = curves(subject, ask, torch.rand(6, 6, 6), 5)
    whole, nothing = (subject(x).softmax(1).gather(1, images.y[:, None])[:, 0] for x in (images.x, ask.absent))
    for curve, ends in ((found.deletion, (whole, nothing)), (found.insertion, (nothing, whole))):
        np.testing.assert_allclose(curve[:, [0, -1]], torch.stack(ends, 1).numpy(), atol=1e-6)


def test_random_orders_belong_to_the_image_and_the_seed() -> None:
    subject, images = opposed(), some_images()
    found = controls(subject, question(subject, images), 6, 3)
    some = controls(subject, question(subject, images.take(torch.tensor([4, 1]))), 6, 3)
    np.testing.assert_allclose(some.random_areas[0], found.random_areas[0][[4, 1]], atol=1e-6)
    other = controls(subject, question(subject, images, seed=1), 6, 3)
    assert (other.random_areas[0] != found.random_areas[0]).all()
    bright = (images.x - 0.5).abs().amax(1)
    np.testing.assert_array_equal(
        found.intensity.deletion, curves(subject, question(subject, images), bright, 6).deletion
    )


def test_standing_counts_the_images_on_which_all_random_orders_are_beaten() -> None:
    low, high = np.zeros((3, 2), np.float32), np.ones((3, 2), np.float32)
    random = np.array([[0.5, 0.2], [0.1, 0.0], [0.4, 0.3]], np.float32)
    against = Controls(Curves(high, low), (random, 1 - random), Curves(high / 2, high / 2))
    found = standing(Curves(low + np.float32(0.1), high - np.float32(0.1)), against)
    assert found.better == (2, 2)
    assert found.deletion == pytest.approx((0.1, 0.25))
    by_chance = stats.binom.pmf(2, 3, 1 / 3) + stats.binom.pmf(3, 3, 1 / 3)
    assert found.chance == pytest.approx((by_chance, by_chance))
    assert not found.plain
    assert standing(Curves(high / 2, high / 2), against).plain


# Forgetting


def test_rank_correlation_is_spearmans() -> None:
    generator = np.random.default_rng(0)
    one, other = generator.normal(size=(2, 3, 4, 5))
    one[0] = np.round(one[0])
    expected = [stats.spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(one, other, strict=True)]
    np.testing.assert_allclose(rank_correlation(one, other), expected)
    np.testing.assert_allclose(rank_correlation(one, one * 3 + 1), 1)
    np.testing.assert_allclose(rank_correlation(one, -one), -1)
    assert np.isnan(rank_correlation(one, np.zeros_like(one))).all()


def test_layers_forget_from_the_logits_down_in_the_order_of_the_calls() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = nn.Linear(5, 2), nn.Linear(72, 5)
            self.unused = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.first(x.flatten(1)))

    subject, images = Subject(Backwards().eval(), 2), some_images()
    assert in_order(subject, images.x[:1]) == ["unused", "first", "last"]
    seen = []

    def explain(other: Subject) -> torch.Tensor:
        seen.append({key: value.clone() for key, value in other.module.state_dict().items()})
        return attribute("gradient", other, question(other, images))[:, 0]

    found = cascade(subject, images.x, explain, stages=8, seed=4)
    assert found.layers == (("last",), ("first",), ("unused",))
    whole = forgotten(subject, weights_key(4)).module.state_dict()
    for stage, gone in enumerate([(), ("last",), ("last", "first"), ("last", "first", "unused")]):
        for key, value in seen[stage].items():
            changed = key.partition(".")[0] in gone
            assert torch.equal(value, whole[key] if changed else subject.module.state_dict()[key])
    assert cascade(subject, images.x, explain, stages=2, seed=4).layers == (("last", "first"), ("unused",))


def test_a_map_that_ignores_the_model_stays_as_it_was_and_is_flagged() -> None:
    subject = Subject(toys.convolutional(2), 2)
    result = Faithfulness(method="intensity", points=6, orders=4)(subject, some_images())
    np.testing.assert_allclose(result.arrays["signed"], 1)
    np.testing.assert_array_equal(result.arrays["unlearned_map"], result.arrays["map"])
    assert result.facts["verdicts"]["learned"] is False
    assert "hardly depends on what the net learned (ρ = 1.00)" in result.text()


def test_the_gradient_of_a_linear_net_is_gone_when_its_weights_are() -> None:
    subject, images = Subject(toys.linear(2, shape=(1, 20, 20)), 2), some_images()
    wide = replace(images, x=torch.rand(6, 1, 20, 20, generator=torch.Generator().manual_seed(2)))
    result = Faithfulness(method="gradient-x-input", points=4, orders=4)(subject, wide)
    assert result.arrays["signed"].shape == (1, 6)
    assert abs(result.arrays["signed"].mean()) < 0.1
    assert result.facts["verdicts"]["learned"] is True
    assert "The map depends on what the net learned" in result.text()


# The view


def test_the_true_contributions_beat_random_orders_and_noise_does_not() -> None:
    subject, images = opposed(), some_images()
    result = Faithfulness(method="integrated-gradients", absent="grey", points=12, orders=9, steps=4)(subject, images)
    assert result.facts["verdicts"] == {"deletion": True, "insertion": True, "learned": True}
    assert "it beats all 9 random orders on 6 of 6 images: better than random." in result.text()
    for name in ("deletion", "insertion", "random_deletion", "intensity_insertion"):
        assert result.arrays[name].shape == (6, 13)
    np.testing.assert_allclose(result.arrays["deletion_area"], area(result.arrays["deletion"]))
    share = result.arrays["share"]
    np.testing.assert_allclose(
        result.arrays["insertion_area"], np.trapezoid(result.arrays["insertion"], share, axis=1), rtol=1e-5
    )
    assert result.arrays["random_insertion_area"].shape == (6, 9)
    backwards = Faithfulness(method="integrated-gradients", target=1, absent="grey", points=12, steps=4)
    assert backwards(subject, images.take(images.y == 1)).facts["verdicts"]["deletion"]
    result.figure()


def test_a_map_that_is_zero_everywhere_says_so() -> None:
    net = toys.convolutional(2)
    with torch.no_grad():
        net[6].weight.zero_()
    result = Faithfulness(method="gradient", points=3, orders=2)(Subject(net, 2), some_images())
    assert "The map is zero everywhere on 6 of 6 images." in result.text()
    assert "A map is constant on every image" in result.text()
    assert result.facts["verdicts"]["deletion"] is False


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"method": "gradcam"}, "no attribution method 'gradcam'; did you mean 'grad-cam'"),
        ({"points": 0}, "a curve of 0 points has no area; choose at least 1"),
        ({"orders": 0}, "0 random orders are no control; choose at least 1"),
        ({"stages": 0}, "0 stages are nothing to forget in; choose at least 1 stage"),
        ({"target": 7}, "the target 7 is no class of the model"),
    ],
)
def test_mistakes_are_one_sentence(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as caught:
        Faithfulness(**settings)(opposed(), some_images())
    assert "\n" not in str(caught.value)


def test_a_net_without_weights_has_nothing_to_forget() -> None:
    class Sums(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(2).sum(2)

    with pytest.raises(InputError, match="has no weights, so there is nothing to forget in"):
        Faithfulness(method="gradient", points=2, orders=1)(Subject(Sums(), 2), some_images())


def test_probabilities_that_are_not_numbers_are_named() -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(72, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(x.flatten(1)) / (x.flatten(1).amax(1, keepdim=True) > 0)

    with pytest.raises(InputError, match="class probabilities with pixels taken away hold NaN or infinity on 6 images"):
        Faithfulness(method="gradient", points=2, orders=1)(Subject(Broken().eval(), 2), some_images())
