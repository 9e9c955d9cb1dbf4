"""Correspondence: by hand, and for nets whose features know or do not know what lies under the box."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from faultlight.data.images import Images
from faultlight.errors import InputError
from faultlight.models.subject import Subject
from faultlight.views.correspondence import Correspondence, changes, sign_distances


def some_images(n: int = 4, seed: int = 1) -> Images:
    x = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    return Images(x, torch.arange(n) % 2, torch.arange(7, 7 + n), ("even", "odd", "none"))


def net(*layers: nn.Module) -> Subject:
    torch.manual_seed(4)
    return Subject(nn.Sequential(*layers).eval(), 3)


def test_the_hand_computed_share_of_signs_that_differ() -> None:
    signs = torch.tensor([[1, 0, -1, 1], [1, 1, -1, -1], [0, 0, 0, 0]], dtype=torch.int8)
    # Rows 0 and 1 differ in places 1 and 3; 0 and 2 in 0, 2 and 3; 1 and 2 in all.
    assert sign_distances(signs).tolist() == [0.5, 0.75, 1.0]


def test_layers_that_nothing_changes_are_said() -> None:
    zero = nn.Conv2d(1, 2, 3)
    nn.init.zeros_(zero.weight)
    silent = net(zero, nn.ReLU(), nn.Flatten(), nn.Linear(72, 3))
    assert "No box in any image changes a feature of any layer" in Correspondence()(silent, some_images()).text()
    mixed = net(nn.Conv2d(1, 2, 3), nn.Threshold(100, 0), nn.Flatten(), nn.Linear(72, 3))
    assert "No box in any image changes a feature of 1, 2, 3:" in Correspondence()(mixed, some_images()).text()
    alive = net(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3))
    assert "No box" not in Correspondence()(alive, some_images()).text()


def test_rounding_has_no_sign() -> None:
    before = torch.tensor([[2.0, 2.0, -1.0, 0.5]])
    after = before + torch.tensor([[1e-6, -1e-3, 1e-3, 0.0]])
    assert changes(before, after).tolist() == [[0, 1, -1, 0]]


def test_two_pixels_covered_by_hand() -> None:
    """Identity features: covering with 0.5 raises dark pixels and lowers bright ones."""
    x = torch.zeros(2, 1, 2, 2)
    x[0, 0, 0], x[1, 0, 0] = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 1.0])
    images = Images(x, torch.tensor([0, 1]), torch.arange(2), ("a", "b", "c"))
    subject = net(nn.Identity(), nn.Flatten(), nn.Linear(4, 3))
    arrays = Correspondence(patch=1, layer="0", random=1)(subject, images).arrays
    # Corner (0, 0): signs − and +; (0, 1): + and +; the lower corners: − and −. One of four features can differ.
    np.testing.assert_allclose(arrays["distance"], [[0.25, 0, 0, 0]])
    np.testing.assert_array_equal(arrays["corners"][:, 0], [[0, 0], [0, 1], [1, 0], [1, 1]])


def plain(images: Images, subject: Subject, corners: np.ndarray, patch: int) -> tuple[float, float]:
    """The same with loops: mean and deviation over the pairs of the output of layer "1"."""
    signs = []
    for x, (top, left) in zip(images.x, corners, strict=True):
        hidden = x.clone()
        hidden[:, top : top + patch, left : left + patch] = 0.5
        with torch.no_grad():
            signs.append(np.sign((subject.module[:2](x[None]) - subject.module[:2](hidden[None])).numpy().round(5)))
    shares = [float((one != other).mean()) for one, other in combinations(signs, 2)]
    return float(np.mean(shares)), float(np.std(shares))


def test_every_part_and_draw_equals_plain_loops() -> None:
    subject, images = net(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(192, 3)), some_images()
    arrays = Correspondence(patch=3, layer="1", random=3)(subject, images).arrays
    for kind in ("", "random_"):
        for part, corners in enumerate(arrays[f"{kind}corners"]):
            mean, deviation = plain(images, subject, corners, 3)
            assert arrays[f"{kind}distance"][0, part] == pytest.approx(mean, abs=1e-6)
            assert arrays[f"{kind}deviation"][0, part] == pytest.approx(deviation, abs=1e-6)


class Brightness(nn.Module):
    """One feature: the sum of the pixels."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).sum(1, keepdim=True)


def test_a_feature_that_every_part_lowers_agrees_wherever_the_part_is() -> None:
    images = some_images()
    images.x.clamp_(min=0.1)
    result = Correspondence(fill=0.0)(net(Brightness(), nn.Linear(1, 3)), images)
    assert not result.arrays["distance"].any()
    assert not result.arrays["random_distance"].any()
    assert result.facts["layers"] == ["0", "1"]


def test_parts_of_ones_own_follow_each_image() -> None:
    """The part is a bright dot, elsewhere in each image; features are the count of bright pixels and the image."""
    x = torch.full((3, 1, 8, 8), 0.5)
    places = ((0, 0), (3, 5), (7, 7))
    for row, (top, left) in enumerate(places):
        x[row, 0, top, left] = 1
    images = Images(x, torch.arange(3), torch.arange(3), ("a", "b", "c"))
    arrays = Correspondence(patch=1, corners=(places,), random=8)(net(Brightness(), nn.Linear(1, 3)), images).arrays
    np.testing.assert_array_equal(arrays["corners"], [places])
    assert arrays["distance"].shape == (2, 1)
    assert not arrays["distance"].any()
    other = Correspondence(patch=1, corners=(((0, 0), (0, 0), (7, 7)),))(net(Brightness(), nn.Linear(1, 3)), images)
    assert other.arrays["distance"][0, 0] == pytest.approx(2 / 3)


def test_random_boxes_depend_on_the_seed_and_the_ids_alone() -> None:
    subject, images = net(nn.Flatten(), nn.Linear(64, 3)), some_images()
    once = Correspondence()(subject, images).arrays["random_corners"]
    np.testing.assert_array_equal(Correspondence()(subject, images.first(2)).arrays["random_corners"], once[:, :2])
    assert (Correspondence(seed=1)(subject, images).arrays["random_corners"] != once).any()
    assert once.min() >= 0
    assert once.max() <= 6


def test_a_class_without_images_is_refused() -> None:
    subject, images = net(nn.Flatten(), nn.Linear(64, 3)), some_images()
    assert Correspondence(label=1)(subject, images).facts["ids"] == [8, 10]
    with pytest.raises(
        InputError, match="none of the 4 images is of class 2; take more images, or one of the classes 0"
    ):
        Correspondence(label=2)(subject, images)
    with pytest.raises(InputError, match="label 3 is no class"):
        Correspondence(label=3)(subject, images)
    with pytest.raises(InputError, match="there is 1; give at least 2"):
        Correspondence()(subject, images.first(1))


@pytest.mark.parametrize(
    ("view", "words"),
    [
        (Correspondence(layer="fc"), "has no layer 'fc'"),
        (Correspondence(patch=9), "larger than the image"),
        (Correspondence(random=0), "random must be at least 1"),
        (Correspondence(fill=2.0), r"fill in \[0, 1\]"),
        (Correspondence(corners=(((0, 0),),)), "a corner for each of the 4 images, not 1"),
        (Correspondence(corners=(((0, 7), (0, 0), (0, 0), (0, 0)),)), "outside of the image; choose rows in 0 … 6"),
    ],
)
def test_bad_settings_are_refused(view: Correspondence, words: str) -> None:
    with pytest.raises(InputError, match=words):
        view(net(nn.Flatten(), nn.Linear(64, 3)), some_images())


class Root(nn.Module):
    """NaN where a pixel is below 0.2."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - 0.2).sqrt()


def test_nan_is_named_with_its_layer() -> None:
    images = some_images()
    images.x.clamp_(min=0.3)
    images.x[2, 0, 0, 0] = 0.1
    with pytest.raises(InputError, match=r"layer '0' hold NaN or infinity on 1 images \(ids 9\)"):
        Correspondence()(net(Root(), nn.Flatten(), nn.Linear(64, 3)), images)


def test_the_drawing_and_the_words() -> None:
    result = Correspondence()(net(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3)), some_images())
    lines = result.text().splitlines()
    assert lines[0].startswith("Share of features whose signs differ between two of 4 images, when a box of 2 × 2")
    assert [line.split()[0] for line in lines[2:]] == ["0", "1", "2", "3"]
    result.figure()
