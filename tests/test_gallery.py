"""The gallery of failures: which are shown, and that every number equals its source."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.numpy import load, save
from torch import Tensor, nn

from faultlight.data.images import Images
from faultlight.errors import InputError
from faultlight.evaluation.gallery import GalleryFact, build_gallery, choose, patch_grid
from faultlight.models.subject import Subject
from faultlight.views import listening, moved
from faultlight.views.moved import change_of, moved_maps, watched_layers
from faultlight.views.occlusion import Occlusion
from faultlight.views.projection import Projection
from faultlight.views.saliency import Saliency


def a_net() -> Subject:
    torch.manual_seed(7)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 3, 3, padding=1),
        nn.Flatten(),
        nn.Linear(48, 3),
    )
    return Subject(net.eval(), 3)


def failures(k: int = 4) -> tuple[Images, Tensor, list[GalleryFact]]:
    generator = torch.Generator().manual_seed(1)
    x, noise = torch.rand(2, k, 1, 8, 8, generator=generator)
    images = Images(x, torch.arange(k) % 3, torch.arange(100, 100 + k), ("a", "b", "c"))
    twins = (x + 0.2 * noise.sub(0.5).sign()).clamp(0, 1)
    facts = [GalleryFact(100 + i, i % 3, (i + 1) % 3, f"attack {i}", 0.1 * i, 0.5 + i, i == 2) for i in range(k)]
    return images, twins, facts


def built(k: int = 4) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    return build_gallery(a_net(), *failures(k))


def test_the_facts_stand_in_the_record_as_they_were_given() -> None:
    record, _ = built()
    images, _, facts = failures()
    for item, fact, label in zip(record["items"], facts, images.y.tolist(), strict=True):
        assert item["label"] == label
        names = ("id", "prediction", "twin_prediction", "broken_by", "distance", "margin", "fragile")
        assert {name: item[name] for name in names} == {name: getattr(fact, name) for name in names}


def test_the_pictures_are_the_pixels() -> None:
    _, arrays = built()
    images, twins, _ = failures()
    np.testing.assert_array_equal(arrays["x"], images.x.numpy())
    np.testing.assert_array_equal(arrays["twin"], twins.numpy())


def test_the_confidences_are_the_probabilities_of_the_net() -> None:
    record, _ = built()
    images, twins, _ = failures()
    for key, x in (("confidence", images.x), ("twin_confidence", twins)):
        expected = a_net()(x).softmax(1).detach().numpy()
        np.testing.assert_allclose([item[key] for item in record["items"]], expected, atol=1e-6)


@pytest.mark.parametrize("half", ["clean", "twin"])
def test_occlusion_and_saliency_equal_the_views_of_that_name(half: str) -> None:
    record, arrays = built()
    images, twins, _ = failures()
    shown = images if half == "clean" else Images(twins, images.y, images.ids, images.classes)
    occlusion = Occlusion(record["patch"], record["stride"], record["fill"])(a_net(), shown).arrays["probability"]
    np.testing.assert_allclose(arrays[f"occlusion_{half}"], occlusion, atol=1e-6)
    saliency = Saliency()(a_net(), shown).arrays["saliency"]
    np.testing.assert_allclose(arrays[f"saliency_{half}"], saliency, atol=1e-6)


def test_the_scales_are_the_greatest_values_drawn() -> None:
    record, arrays = built()
    scales = record["scales"]
    assert scales["occlusion"] == [0.0, 1.0]
    assert scales["delta"] == np.abs(arrays["twin"] - arrays["x"]).max()
    assert scales["saliency"] == max(arrays["saliency_clean"].max(), arrays["saliency_twin"].max())


def test_the_maps_that_moved_most_by_an_independent_reckoning() -> None:
    record, arrays = built()
    images, twins, _ = failures()
    net = a_net().module
    for row, item in enumerate(record["items"]):
        ranked = []
        for layer, depth in (("2", 3), ("4", 5)):
            with torch.no_grad():
                clean, twin = (net[:depth](x[row : row + 1])[0].double().numpy() for x in (images.x, twins))
            ordinary = math.sqrt(sum(float((a**2).sum()) for a in clean) / len(clean))
            for channel, (a, b) in enumerate(zip(clean, twin, strict=True)):
                ranked.append((math.sqrt(float(((b - a) ** 2).sum())) / ordinary, layer, channel, a, b))
        ranked.sort(key=lambda entry: -entry[0])
        assert [(one["layer"], one["channel"]) for one in item["moved"]] == [entry[1:3] for entry in ranked[:6]]
        np.testing.assert_allclose([one["change"] for one in item["moved"]], [e[0] for e in ranked[:6]], rtol=1e-4)
        for place, (_, _, _, a, b) in enumerate(ranked[:6]):
            scale = 8 // a.shape[0]
            np.testing.assert_allclose(
                arrays["moved_clean"][row, place], a.repeat(scale, 0).repeat(scale, 1), atol=1e-5
            )
            np.testing.assert_allclose(arrays["moved_twin"][row, place], b.repeat(scale, 0).repeat(scale, 1), atol=1e-5)


def test_the_shapes_are_those_the_report_reads() -> None:
    record, arrays = built()
    assert {name: (values.dtype, values.shape) for name, values in arrays.items()} == {
        "x": (np.float32, (4, 1, 8, 8)),
        "twin": (np.float32, (4, 1, 8, 8)),
        "occlusion_clean": (np.float32, (4, 7, 7)),
        "occlusion_twin": (np.float32, (4, 7, 7)),
        "saliency_clean": (np.float32, (4, 8, 8)),
        "saliency_twin": (np.float32, (4, 8, 8)),
        "moved_clean": (np.float32, (4, 6, 8, 8)),
        "moved_twin": (np.float32, (4, 6, 8, 8)),
        "projection_clean": (np.float32, (4, 6, 1, 8, 8)),
        "projection_twin": (np.float32, (4, 6, 1, 8, 8)),
    }
    assert (record["schema"], record["patch"], record["stride"], record["fill"]) == (1, 2, 1, 0.5)


@pytest.mark.parametrize("half", ["clean", "twin"])
def test_the_projections_equal_the_view_of_that_name(half: str) -> None:
    images, twins, _ = failures()
    record, arrays = built()
    seen = images if half == "clean" else replace(images, x=twins)
    for row, item in enumerate(record["items"]):
        for slot, entry in enumerate(item["moved"]):
            view = Projection(layer=entry["layer"], channel=entry["channel"], keep="channel")
            expected = view(a_net(), seen.take(torch.tensor([row]))).arrays["projection"][0]
            assert arrays[f"projection_{half}"][row, slot] == pytest.approx(expected, abs=1e-6)


def test_why_nothing_is_projected_is_said() -> None:
    """A bend that is no ReLU stands before every map."""
    images, twins, facts = failures()
    bent = nn.Sequential(nn.GELU(), nn.Conv2d(1, 2, 3), nn.GELU(), nn.Flatten(), nn.Linear(72, 3))
    record, arrays = build_gallery(Subject(bent, 3), images, twins, facts)
    assert "bends that are no ReLU (Gelu)" in record["no_projections"]
    assert not any(name.startswith("projection") for name in arrays)


@pytest.mark.parametrize("k", [0, 1, 4])
def test_record_and_arrays_survive_their_files(k: int) -> None:
    record, arrays = built(k)
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    again = load(save(arrays))
    assert {name: values.shape for name, values in again.items()} == {
        name: values.shape for name, values in arrays.items()
    }
    assert len(record["items"]) == k
    assert {len(values) for values in arrays.values()} == {k}


def test_the_size_of_the_batch_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    record, arrays = built()
    monkeypatch.setattr(listening, "ROWS_AT_ONCE", 4)
    monkeypatch.setattr(moved, "PIXELS_AT_ONCE", 3 * 64)
    parts, others = built()
    for name, values in arrays.items():
        np.testing.assert_allclose(others[name], values, atol=1e-5, err_msg=name)
    assert [[one["channel"] for one in item["moved"]] for item in parts["items"]] == [
        [one["channel"] for one in item["moved"]] for item in record["items"]
    ]


def test_a_net_without_maps_has_none_that_moved() -> None:
    torch.manual_seed(0)
    subject = Subject(nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 3)).eval(), 3)
    record, arrays = build_gallery(subject, *failures())
    assert [item["moved"] for item in record["items"]] == [[]] * 4
    assert arrays["moved_clean"].shape[:2] == (4, 0)
    assert load(save(arrays))["moved_twin"].shape[:2] == (4, 0)


class Rounding(nn.Module):
    """Logits that no gradient reaches."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :3].round()


def test_a_net_without_a_gradient_has_zero_saliency() -> None:
    record, arrays = build_gallery(Subject(Rounding().eval(), 3), *failures())
    assert record["scales"]["saliency"] == 0.0
    assert not arrays["saliency_clean"].any()


class Root(nn.Module):
    """Its gradient is infinite where a pixel is 0."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :3].sqrt()


def test_an_infinite_gradient_does_not_stretch_the_scale() -> None:
    images, twins, facts = failures()
    images.x[0, 0, 0, 0] = 0
    record, arrays = build_gallery(Subject(Root().eval(), 3), images, twins, facts)
    assert np.isinf(arrays["saliency_clean"]).sum() == 1
    json.dumps(record, allow_nan=False)
    finite = np.concatenate([arrays[f"saliency_{half}"].ravel() for half in ("clean", "twin")])
    assert record["scales"]["saliency"] == finite[np.isfinite(finite)].max()


def test_what_is_not_one_for_one_is_refused() -> None:
    images, twins, facts = failures()
    with pytest.raises(InputError, match="one for one"):
        build_gallery(a_net(), images, twins[:3], facts)
    with pytest.raises(InputError, match="one for one"):
        build_gallery(a_net(), images, twins, facts[:3])
    with pytest.raises(InputError, match=r"name the images \[103, 102, 101, 100\]"):
        build_gallery(a_net(), images, twins, facts[::-1])


def test_the_change_of_a_map_by_hand() -> None:
    clean = torch.tensor([[[[3.0, 0]], [[0, 4]]]])
    twin = torch.tensor([[[[0.0, 4]], [[0, 4]]]])
    # The maps measure 3 and 4, so √((9 + 16) / 2) ordinarily; the first moved by √(9 + 16), the second not at all.
    assert change_of(clean, twin).tolist() == [[pytest.approx(5 / math.sqrt(12.5)), 0.0]]


def test_the_change_does_not_depend_on_the_units_of_a_layer() -> None:
    clean, twin = torch.rand(2, 3, 4, 5, 5)
    torch.testing.assert_close(change_of(clean, twin), change_of(1000 * clean, 1000 * twin))


def test_a_silent_layer_has_not_moved() -> None:
    assert change_of(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 3)).tolist() == [[0.0, 0.0]]


def test_a_twin_that_equals_its_image_moved_nothing() -> None:
    images, _, facts = failures()
    record, arrays = build_gallery(a_net(), images, images.x, facts)
    assert {one["change"] for item in record["items"] for one in item["moved"]} == {0.0}
    assert record["scales"]["delta"] == 0.0
    np.testing.assert_array_equal(arrays["moved_clean"], arrays["moved_twin"])


def test_equal_changes_keep_the_order_of_the_layers() -> None:
    images, _, facts = failures()
    record, _ = build_gallery(a_net(), images, images.x, facts)
    ranked = [(one["layer"], one["channel"]) for one in record["items"][0]["moved"]]
    assert ranked == [("2", 0), ("2", 1), ("2", 2), ("2", 3), ("4", 0), ("4", 1)]


def test_a_convolution_that_an_activation_follows_is_not_watched_twice() -> None:
    assert watched_layers(a_net(), failures()[0].x) == ["2", "4"]


class Functional(nn.Module):
    """Activations as functions, and one activation module called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.bend = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3), nn.Tanh()
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        inside = self.bend(self.bend(F.relu(self.first(x))))
        logits: Tensor = self.head(self.pool(F.relu(self.second(inside))).flatten(1))
        return logits


def test_what_is_watched_in_a_net_of_functions() -> None:
    subject = Subject(Functional().eval(), 3)
    # `first` is left out: what follows it is its own picture, bent; `second` stands for itself.
    assert watched_layers(subject, failures()[0].x) == ["bend", "bend#2", "second"]
    names, maps = moved_maps(subject, failures()[0].x, failures()[1], m=3)
    assert [len(entry) for entry in names] == [3] * 4
    assert maps["moved_clean"].shape == (4, 3, 6, 6)


def test_large_maps_are_thinned_to_numbers_the_net_computed() -> None:
    conv = nn.Conv2d(1, 1, 1, bias=False)
    conv.weight.data.fill_(1.0)
    subject = Subject(nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2)).eval(), 2)
    x = torch.rand(1, 1, 64, 64)
    _, maps = moved_maps(subject, x, x, m=6)
    assert torch.equal(maps["moved_clean"][0, 0], x[0, 0, ::2, ::2])


@pytest.mark.parametrize("side", [*range(1, 70), 96, 224, 299])
def test_the_patch_ends_flush_and_gives_a_map_of_about_ten(side: int) -> None:
    grid = patch_grid(side, side)
    assert grid.never_covered == (0, 0)
    assert 1 <= grid.patch <= side
    assert len(grid.top) <= 14
    if side >= 12:
        assert len(grid.top) >= 7


@pytest.mark.parametrize(("side", "expected"), [(8, (2, 1, 7)), (28, (8, 2, 11)), (32, (8, 3, 9))])
def test_the_patch_of_the_usual_sizes(side: int, expected: tuple[int, int, int]) -> None:
    grid = patch_grid(side, side)
    assert (grid.patch, grid.stride, len(grid.top)) == expected


def test_few_failures_are_all_shown() -> None:
    assert choose([0.1] * 3, ["pgd"] * 3, [2, 1, 2]) == [0, 1, 2]
    assert choose([], [], []) == []


def test_classes_take_turns_by_the_lowest_id() -> None:
    labels = [0, 0, 0, 0, 1, 1, 2]
    assert choose([0.1] * 7, ["pgd"] * 7, labels, k=3) == [0, 4, 6]
    assert choose([0.1] * 7, ["pgd"] * 7, labels, k=5) == [0, 1, 4, 5, 6]
    assert choose([0.1] * 7, ["pgd"] * 7, labels, k=6) == [0, 1, 2, 4, 5, 6]


def test_attacks_take_turns_within_a_class() -> None:
    attacks = ["fgsm", "fgsm", "fgsm", "pgd", "pgd"]
    assert choose([0.1] * 5, attacks, [0] * 5, k=2) == [0, 3]
    assert choose([0.1] * 5, attacks, [0] * 5, k=4) == [0, 1, 3, 4]


def test_what_was_not_broken_is_not_shown() -> None:
    assert choose([math.nan, 0.1, math.inf], ["pgd"] * 3, [0, 0, 0]) == [1]
