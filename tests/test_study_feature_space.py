"""The study of a layer's features: which net is before, whose neighbours are nearest, where twins go."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import toys
from faultlight.data.images import Images
from faultlight.errors import InputError
from faultlight.models.subject import Subject
from faultlight.studies._case import Case
from faultlight.studies.feature_space import FeatureSpace
from faultlight.threat import parse_threat
from faultlight.views._initial import forgotten
from faultlight.views._scatter import Scatter
from faultlight.views.embedding import Embedding

SETTINGS: dict[str, Any] = {"first": 0, "second": 1, "perplexity": 3.0}


def case(*nets: int, **more: Any) -> Case:
    subjects = {f"net {seed}": Subject(toys.convolutional(3, seed), 3, f"net {seed}") for seed in nets or (0,)}
    return Case(subjects, images(), parse_threat("linf:0.1"), **more)


def images(n: int = 24, seed: int = 1) -> Images:
    net = toys.convolutional(3)
    return toys.images(net, 3, n, (2, 6, 6), spread=0.5, seed=seed)


def test_one_net_is_compared_with_its_initial_weights_of_the_studys_seed() -> None:
    one = case(seed=5)
    result = FeatureSpace(**SETTINGS)(one)
    subject = one.subjects["net 0"]
    early = forgotten(subject, 5).module[:6](one.images.x).numpy()
    np.testing.assert_allclose(result.arrays["before_features"], early, atol=1e-6)
    view = Embedding(before="initial", seed=5, **SETTINGS)(subject, one.images)
    np.testing.assert_allclose(result.arrays["kl"], view.arrays["kl"])
    assert result.kind == "study"
    assert sum(isinstance(panel, Scatter) for panel in result.panels) == 4


def test_of_two_nets_the_first_is_before() -> None:
    one = case(3, 0)
    result = FeatureSpace(attack=None, **SETTINGS)(one)
    first, second = (subject.module[:6](one.images.x).numpy() for subject in one.subjects.values())
    np.testing.assert_allclose(result.arrays["before_features"], first, atol=1e-6)
    np.testing.assert_allclose(result.arrays["features"], second, atol=1e-6)
    assert "net 3: trustworthiness" in result.text()
    assert "twin_pca" not in result.arrays
    assert "broken" not in result.arrays


def test_the_nearest_training_images_are_those_of_least_distance() -> None:
    fitting = replace(images(30, seed=2), split="train")
    one = case(fitting=fitting)
    result = FeatureSpace(neighbours=4, **SETTINGS)(one)
    module = one.subjects["net 0"].module
    far = np.linalg.norm(module[:6](one.images.x).numpy()[:, None] - module[:6](fitting.x).numpy(), axis=2)
    np.testing.assert_array_equal(result.arrays["neighbour"], fitting.ids.numpy()[far.argsort(1)[:, :4]])
    np.testing.assert_allclose(result.arrays["neighbour_distance"], np.sort(far, 1)[:, :4], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(result.arrays["neighbour_label"], fitting.y.numpy()[far.argsort(1)[:, :4]])
    assert result.arrays["twin_neighbour"].shape == (24, 4)
    assert "The nearest of 30 training images has the image's own class on" in result.text()


def test_an_image_is_its_own_nearest_training_image() -> None:
    one = case(fitting=images())
    result = FeatureSpace(attack=None, neighbours=1, **SETTINGS)(one)
    np.testing.assert_array_equal(result.arrays["neighbour"][:, 0], one.images.ids.numpy())
    assert result.arrays["neighbour_distance"].max() < 1e-4
    assert "has the image's own class on 100.0 % of them" in result.text()
    assert len(result.panels) == 4 + 4 * 4
    result.figure()


def test_a_path_belongs_to_every_image_that_the_attack_moved() -> None:
    result = FeatureSpace(**SETTINGS)(case(fitting=images(30, seed=2)))
    broken = result.arrays["broken"]
    moved = np.linalg.norm(result.arrays["twin_pca"] - result.arrays["pca"], axis=1)
    assert broken.any()
    assert (moved[broken] > 1e-3).all()
    assert moved[~broken].max(initial=0) < 1e-3
    assert f"breaks {broken.sum()} of 24 images that are classified correctly" in result.text()
    titles = [panel.title for panel in result.panels]
    assert sum(title.startswith("twin of image") for title in titles) == min(2, int(broken.sum()))


@pytest.mark.parametrize(
    ("study", "given", "sentence"),
    [
        (FeatureSpace(**SETTINGS), case(0, 1, 2), "not 3; name at most two"),
        (FeatureSpace(), case(), "label 6 is no class of 'toys'; choose one of 0 … 2"),
        (FeatureSpace(attack="fgms", **SETTINGS), case(), "no attack named 'fgms'; did you mean 'fgsm'"),
        (FeatureSpace(layer="cnov", **SETTINGS), case(), "has no layer 'cnov'"),
        (FeatureSpace(neighbours=0, **SETTINGS), case(fitting=images(9)), "0 neighbours are none; choose at least 1"),
    ],
)
def test_mistakes_are_one_sentence(study: FeatureSpace, given: Case, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        study(given)


def test_the_same_seed_gives_the_same_study() -> None:
    one, same = (FeatureSpace(**SETTINGS)(case(seed=2)).arrays for _ in range(2))
    for name, values in one.items():
        np.testing.assert_array_equal(values, same[name], err_msg=name)
