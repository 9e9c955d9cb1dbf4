"""Embeddings: hand-computed distances, maps with known answers, nets that forget exactly what they learned."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

import toys
from faultlight.data.images import Images
from faultlight.errors import InputError
from faultlight.models import zoo
from faultlight.models.subject import Subject
from faultlight.views import _maps
from faultlight.views._draw import draw
from faultlight.views._features import MEASURES, distances, feature_layer, features
from faultlight.views._initial import forgotten, learned
from faultlight.views._maps import nearest, pca_map, reduce, trustworthiness, tsne_map, usable_perplexity
from faultlight.views._scatter import Scatter
from faultlight.views.embedding import Embedding

SETTINGS: dict[str, Any] = {"perplexity": 3.0}


def some_images(n: int = 24, classes: int = 3) -> Images:
    x = torch.rand(n, 2, 6, 6, generator=torch.Generator().manual_seed(1))
    names = tuple(f"class {label}" for label in range(classes))
    return Images(x, torch.arange(n) % classes, torch.arange(50, 50 + n), names, "toys")


def some_net() -> Subject:
    return Subject(toys.convolutional(3), 3)


def some_values(n: int = 20, f: int = 7) -> NDArray[np.float32]:
    return np.random.default_rng(3).normal(size=(n, f)).astype(np.float32)


# Distances


def test_hand_computed_distances() -> None:
    values = np.array([[1, 0], [0, 1], [1, 1]], np.float32)
    found = distances(values, np.array([0, 0, 1]), 2)
    np.testing.assert_allclose(found.mean["mse"], [[1.0, 0.5], [0.5, np.nan]])
    np.testing.assert_allclose(found.mean["cosine"], [[1.0, 1 - 0.5**0.5], [1 - 0.5**0.5, np.nan]])
    p = np.e / (np.e + 1)
    crossed = -p * np.log(1 - p) - (1 - p) * np.log(p)
    entropy = -p * np.log(p) - (1 - p) * np.log(1 - p)
    np.testing.assert_allclose(found.mean["cross_entropy"][0, 0], crossed)
    np.testing.assert_allclose(found.mean["cross_entropy"][1, 0], -0.5 * np.log(p * (1 - p)))
    np.testing.assert_allclose(found.mean["kl"][0, 0], crossed - entropy)
    assert found.own["cross_entropy"] == pytest.approx((2 * entropy + np.log(2)) / 3)
    assert found.own["kl"] == pytest.approx(0, abs=1e-12)
    assert found.counts.tolist() == [2, 1]


def test_distances_are_means_over_all_pairs_of_different_images() -> None:
    values, label = some_values() * 3, np.arange(20) % 3
    found = distances(values, label, 4)
    wide = values.astype(np.float64)
    p = np.exp(wide) / np.exp(wide).sum(1, keepdims=True)
    unit = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    pairs = {
        "mse": ((wide[:, None] - wide) ** 2).mean(2),
        "cosine": 1 - unit @ unit.T,
        "cross_entropy": -p @ np.log(p).T,
        "kl": (p[:, None] * np.log(p[:, None] / p)).sum(2),
    }
    same, other = label[:, None] == label, ~np.eye(20, dtype=bool)
    for measure in MEASURES:
        for a, b in np.ndindex(3, 3):
            both = (label[:, None] == a) & (label == b) & other
            assert found.mean[measure][a, b] == pytest.approx(pairs[measure][both].mean(), rel=1e-9)
        assert np.isnan(found.mean[measure][3]).all()
        assert found.within(measure) == pytest.approx(pairs[measure][same & other].mean())
        assert found.between(measure) == pytest.approx(pairs[measure][~same].mean())
        assert found.within(measure, 1) == found.mean[measure][1, 1]
        both_ways = (pairs[measure][np.ix_(label == 0, label == 2)].mean(), pairs[measure].T[label == 0][:, label == 2])
        assert found.between(measure, (0, 2)) == pytest.approx((both_ways[0] + both_ways[1].mean()) / 2)


def test_large_features_keep_their_digits_and_a_zero_vector_is_far_from_all() -> None:
    far = distances(some_values() + 1e4, np.zeros(20, np.int64), 1)
    near = distances((some_values() + np.float32(1e4)) - np.float32(1e4), np.zeros(20, np.int64), 1)
    assert far.mean["mse"][0, 0] == pytest.approx(near.mean["mse"][0, 0], rel=1e-6)
    assert np.isfinite(far.mean["cross_entropy"]).all()
    zero = distances(np.array([[0, 0], [1, 0]], np.float32), np.array([0, 0]), 1)
    assert zero.mean["cosine"][0, 0] == 1


# Maps


def test_principal_components_are_the_eigenvectors_of_the_covariance() -> None:
    values = some_values()
    reduced = reduce(values)
    centred = values.astype(np.float64) - values.mean(0, dtype=np.float64)
    eigenvalues, vectors = np.linalg.eigh(centred.T @ centred)
    expected = centred @ vectors[:, ::-1]
    signs = np.sign((expected * reduced.values).sum(0))
    np.testing.assert_allclose(reduced.values, expected * signs, atol=1e-9)
    np.testing.assert_allclose(reduced.explained, eigenvalues[::-1] / eigenvalues.sum())


def test_a_plane_maps_onto_itself_and_is_trusted_wholly() -> None:
    plane = some_values(30, 2)
    one = pca_map(reduce(plane), plane)
    assert one.trust == 1
    between = np.linalg.norm(plane[:, None].astype(np.float64) - plane, axis=2)
    np.testing.assert_allclose(np.linalg.norm(one.points[:, None] - one.points, axis=2), between, atol=1e-9)


def test_trustworthiness_against_its_definition() -> None:
    values, points = some_values(25), some_values(25, 2).astype(np.float64)
    n, k = 25, _maps.NEIGHBOURS
    far = np.linalg.norm(values[:, None].astype(np.float64) - values, axis=2)
    rank = far.argsort(1).argsort(1)
    on_map = np.linalg.norm(points[:, None] - points, axis=2).argsort(1)[:, 1 : k + 1]
    penalty = sum(max(0, rank[i, j] - k) for i in range(n) for j in on_map[i])
    expected = 1 - 2 / (n * k * (2 * n - 3 * k - 1)) * penalty
    assert trustworthiness(values, points) == pytest.approx(expected)
    assert trustworthiness(points, points) == 1


def test_one_feature_still_has_a_plane() -> None:
    values = some_values(10, 1)
    points = pca_map(reduce(values), values).points
    assert not points[:, 1].any()
    np.testing.assert_allclose(np.abs(points[:, 0]), np.abs(values[:, 0] - values.mean()), atol=1e-6)


@pytest.mark.parametrize("maker", ["openTSNE", "scikit-learn"])
def test_tsne_keeps_separate_clusters_separate(maker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    choose(maker, monkeypatch)
    values = some_values(30, 4) + 40 * np.eye(4, dtype=np.float32)[np.arange(30) % 3]
    one = tsne_map(reduce(values), values, 5.0)
    assert one.method == f"t-SNE ({maker})"
    assert one.trust > 0.9
    closest = np.linalg.norm(one.points[:, None] - one.points, axis=2).argsort(1)[:, 1]
    assert (closest % 3 == np.arange(30) % 3).all()
    again = tsne_map(reduce(values), values, 5.0)
    np.testing.assert_array_equal(one.points, again.points)


@pytest.mark.parametrize("maker", ["PCA", "openTSNE", "scikit-learn"])
def test_a_point_placed_on_itself_lands_on_itself(maker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    choose(maker, monkeypatch)
    values = some_values(30)
    reduced = reduce(values)
    one = pca_map(reduced, values) if maker == "PCA" else tsne_map(reduced, values, 5.0)
    np.testing.assert_allclose(one.place(values[[4, 9]]), one.points[[4, 9]], atol=1e-5)
    nudged = one.place(values[[4, 9]] * np.float32(1.02))
    width = np.ptp(one.points, axis=0).max()
    assert np.abs(nudged - one.points[[4, 9]]).max() < 0.3 * width
    assert (nudged != one.points[[4, 9]]).all()


def test_scikit_learns_map_places_a_new_point_among_its_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    choose("scikit-learn", monkeypatch)
    values = some_values(30)
    one = tsne_map(reduce(values), values, 5.0)
    assert one.placement == "nearest neighbours"
    new = (values[2] + values[3]) / 2
    far = np.linalg.norm(values.astype(np.float64) - new, axis=1)
    order = far.argsort()[: _maps.NEIGHBOURS]
    weight = far[order] ** -2
    np.testing.assert_allclose(one.place(new[None])[0], weight @ one.points[order] / weight.sum(), rtol=1e-4)


def test_projection_is_linear() -> None:
    values = some_values(30)
    one = pca_map(reduce(values), values)
    middle = one.place((values[[2]] + values[[3]]) / 2)
    np.testing.assert_allclose(middle[0], (one.points[2] + one.points[3]) / 2, atol=1e-6)


def test_the_nearest_are_the_nearest() -> None:
    old = np.array([[0.0], [1.0], [5.0]])
    distance, index = nearest(np.array([[4.0], [0.9]]), old, 2)
    assert index.tolist() == [[2, 1], [1, 0]]
    np.testing.assert_allclose(distance, [[1, 3], [0.1, 0.9]])
    assert nearest(np.array([[4.0]]), old, 9)[1].shape == (1, 3)


def test_too_few_images_for_a_perplexity() -> None:
    assert usable_perplexity(None, 1000) == 30
    assert usable_perplexity(None, 31) == 10
    assert usable_perplexity(10, 31) == 10
    with pytest.raises(
        InputError, match="perplexity 30 of t-SNE needs at least 91 images, and there are 40; take more"
    ):
        usable_perplexity(30, 40)
    with pytest.raises(InputError, match=r"perplexity 0.5 of t-SNE needs to be a value in 1 … 13"):
        usable_perplexity(0.5, 40)
    with pytest.raises(InputError, match="at least 7 images, and there are 4; take more, such as --n 500"):
        usable_perplexity(None, 4)


# Forgetting


# Its constructor writes over some of the draws, which nobody could know from the net.
@pytest.mark.parametrize("name", sorted({*zoo.names()} - {"fast-cifar"}))
def test_a_net_of_the_zoo_forgets_to_the_very_weights_it_began_with(name: str) -> None:
    options = {"width": 4} if "width" in zoo.options(name) else {}
    shape = (1, 8, 8) if name == "digits-cnn" else (1, 32, 32)
    began = zoo.build(name, 10, shape, seed=7, **options)
    trained = Subject(began, 10)
    # A threshold's place is kept with the weights, but training never moves it.
    learnt = {key: value for key, value in trained.module.state_dict().items() if not key.endswith("threshold.start")}
    for value in learnt.values():
        if value.is_floating_point():
            value.add_(torch.rand_like(value))
    forgot = forgotten(trained, seed=7).module.state_dict()
    for key, value in began.state_dict().items():
        assert torch.equal(forgot[key], value), key
    first = next(iter(learnt))
    assert not torch.equal(learnt[first], began.state_dict()[first])


class Own(nn.Module):
    """A module with a parameter of its own and no way to draw it."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(5 + torch.randn(4000, generator=torch.Generator().manual_seed(0)))
        self.last = nn.Linear(72, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x.flatten(1)) * self.scale.mean()


def test_only_the_named_layers_forget_and_draw_the_same_as_when_all_do() -> None:
    subject = some_net()
    assert learned(subject) == ["0", "4", "6"]
    whole, last = forgotten(subject, 3).module, forgotten(subject, 3, ["6"]).module
    assert torch.equal(last[6].weight, whole[6].weight)
    assert torch.equal(last[0].weight, subject.module[0].weight)
    assert not torch.equal(last[6].weight, subject.module[6].weight)
    own = forgotten(Subject(Own(), 3)).module.scale
    assert float(own.mean()) == pytest.approx(5, abs=0.1)
    assert float(own.std()) == pytest.approx(1, abs=0.1)
    assert not torch.equal(own, Own().scale)


def test_the_global_generator_does_not_move() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    forgotten(some_net(), 9)
    assert torch.equal(torch.rand(3), expected)


# The view


def test_the_view_gives_the_features_of_the_layer_and_its_maps() -> None:
    subject, images = some_net(), some_images()
    result = Embedding(**SETTINGS)(subject, images)
    assert result.facts["layer"] == "5"
    inside = subject.module[:6](images.x).numpy()
    np.testing.assert_allclose(result.arrays["features"], inside, atol=1e-6)
    np.testing.assert_allclose(result.arrays["pca"], reduce(inside).values[:, :2], atol=1e-4)
    assert result.arrays["tsne"].shape == (24, 2)
    expected = distances(inside, images.y.numpy(), 3)
    np.testing.assert_allclose(result.arrays["kl"], expected.mean["kl"], atol=1e-6)
    assert "is its entropy, here" in result.text()
    scatters = [panel for panel in result.panels if isinstance(panel, Scatter)]
    assert [panel.title.partition(",")[0] for panel in scatters] == ["PCA", result.facts["maps"][1]]


def test_before_training_and_after_stand_side_by_side(tmp_path: Path) -> None:
    subject, images = some_net(), some_images()
    result = Embedding(before="initial", first=0, second=2, seed=11, **SETTINGS)(subject, images)
    early = forgotten(subject, 11)
    np.testing.assert_allclose(result.arrays["before_features"], early.module[:6](images.x).numpy(), atol=1e-6)
    assert "within class 0  within class 2" in result.text()
    save_file(early.module.state_dict(), tmp_path / "early.safetensors")
    by_file = Embedding(before=str(tmp_path / "early.safetensors"), **SETTINGS)(subject, images)
    np.testing.assert_array_equal(by_file.arrays["before_features"], result.arrays["before_features"])
    assert "early.safetensors: trustworthiness" in by_file.text()


def test_twins_have_paths_and_an_unchanged_one_has_none() -> None:
    subject, images = some_net(), some_images()
    twins = images.x.clone()
    twins[::2] = 1 - twins[::2]
    result = Embedding(**SETTINGS)(subject, images, twins=twins)
    for name in ("pca", "tsne"):
        moved = np.linalg.norm(result.arrays[f"twin_{name}"] - result.arrays[name], axis=1)
        assert (moved[::2] > 1e-3).all()
        assert moved[1::2].max() < 1e-4
    scatter = result.panels[0]
    assert isinstance(scatter, Scatter)
    assert len(scatter.paths) >= 12
    axes = draw(result.panels[:1], 1, "").axes[0]
    assert sum(line.get_label() == "path" for line in axes.lines) == len(scatter.paths)
    with pytest.raises(InputError, match="give one each"):
        Embedding(**SETTINGS)(subject, images, twins=twins[:3])


@pytest.mark.parametrize("maker", ["openTSNE", "scikit-learn"])
def test_how_twins_are_placed_is_said_where_it_is_no_way_of_the_maps_own(
    maker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(maker, monkeypatch)
    subject, images = Subject(toys.convolutional(3), 3), some_images()
    said = "On the t-SNE map they lie at the weighted mean of their nearest images' places"
    assert said not in Embedding(**SETTINGS)(subject, images).text()
    placed = Embedding(**SETTINGS)(subject, images, twins=1 - images.x).text()
    assert (said in placed) == (maker == "scikit-learn")


def test_a_scatter_keeps_its_proportions_and_stays_inside() -> None:
    points = np.array([[0.0, 0.0], [10.0, 5.0], [np.nan, 1.0]])
    fitted, _ = Scatter("map", points, np.array([0, 1, 1]), ("a", "b")).fitted(2.0)
    np.testing.assert_allclose(fitted[:2], [[0.08, 0.54], [1.92, 1.46]])
    lone, _ = Scatter("map", points[:1], np.array([0]), ("a", "b")).fitted(2.0)
    np.testing.assert_allclose(lone, [[1.0, 1.0]])


# Faults


def test_features_that_never_vary_are_said_to() -> None:
    net = toys.convolutional(3)
    with torch.no_grad():
        net[4].weight.zero_()
        net[4].bias.fill_(-1)
    result = Embedding(**SETTINGS)(Subject(net, 3), some_images())
    assert "The features are the same for all images; nothing to map." in result.text().splitlines()
    assert not {"nan", "New points", "openTSNE", "-"} & {word.strip(",.") for word in result.text().split()}
    assert not result.arrays["kl"].any()
    assert not result.arrays["mse"].any()
    assert [panel.title for panel in result.panels[:1]] == ["PCA, nothing to map"]
    assert np.isnan(result.arrays["trustworthiness"]).all()
    assert not result.arrays["tsne"].any()
    result.figure()


class Broken(nn.Module):
    """NaN for bright images."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :3].where(x.flatten(1)[:, :1] < 0.9, torch.nan)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"layer": "cnov"}, "has no layer 'cnov'; "),
        ({"layer": "relu"}, "known: 0, 1, 2"),
        ({"first": 1}, "set both first and second"),
        ({"first": 1, "second": 1}, "set both first and second"),
        ({"first": 1, "second": 9}, "label 9 is no class of 'toys'; choose one of 0 … 3"),
        ({"first": 1, "second": 3}, "of class 3 there are 0 images where distances within it need 2"),
        ({"perplexity": 30.0}, "needs at least 91 images, and there are 24"),
        ({"before": "none.safetensors"}, "none.safetensors"),
    ],
)
def test_mistakes_are_one_sentence(settings: dict[str, Any], sentence: str) -> None:
    images = Images(some_images().x, some_images().y, some_images().ids, ("a", "b", "c", "d"), "toys")
    subject = Subject(toys.convolutional(4), 4)
    with pytest.raises(InputError, match=sentence) as caught:
        Embedding(**settings)(subject, images)
    assert "\n" not in str(caught.value)


def test_activations_that_are_not_numbers_are_named() -> None:
    images = some_images()
    images.x[:, 0, 0, 0] = 0.1
    images.x[3, 0, 0, 0] = 0.95
    with pytest.raises(InputError, match=r"activations of the layer 'Broken' hold NaN .* on 1 images \(ids 53\)"):
        features(Subject(Broken().eval(), 3), images, "Broken")


def test_the_default_layer_is_what_the_logits_are_made_from() -> None:
    subject, images = some_net(), some_images()
    assert feature_layer(subject, images.x, None) == "5"
    assert feature_layer(subject, images.x, "0") == "0"
    assert feature_layer(Subject(nn.Sequential(nn.Flatten(), nn.Linear(72, 3)).eval(), 3), images.x, None) == "0"


def choose(maker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have maps made by openTSNE, or as if it were not there."""
    if maker == "openTSNE":
        pytest.importorskip("openTSNE")
    elif maker == "scikit-learn":
        find = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openTSNE" else find(name))
