"""Occlusion: by hand, against a plain loop, and what it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from faultlight.data.images import Images
from faultlight.errors import InputError
from faultlight.models.subject import Subject
from faultlight.views import listening
from faultlight.views._layout import in_channels_last
from faultlight.views.occlusion import Occlusion, last_map_layer
from faultlight.views.sliding import Grid, _covered, _groups, slide


def some_images(x: Tensor, y: list[int], classes: int = 2) -> Images:
    ids = torch.arange(10, 10 + len(x))
    return Images(x, torch.tensor(y), ids, tuple(f"class {label}" for label in range(classes)))


def by_hand() -> tuple[Subject, Images]:
    """A 4×4 image whose quadrants hold 1, 2, 3 and 0 in all; logits (sum − 3.5, 0); two feature maps, x and −x."""
    conv = nn.Conv2d(1, 2, 1, bias=False)
    conv.weight.data = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)
    linear = nn.Linear(32, 2)
    linear.weight.data = torch.cat([torch.ones(1, 16), torch.zeros(1, 16)], 1).repeat(2, 1) * torch.tensor([[1.0], [0]])
    linear.bias.data = torch.tensor([-3.5, 0.0])
    net = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), linear)
    x = torch.tensor([[1.0, 0, 1, 0], [0, 0, 1, 0], [1, 1, 0, 0], [0, 1, 0, 0]]).view(1, 1, 4, 4)
    return Subject(net.eval(), 2), some_images(x, [0])


def sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def test_the_hand_computed_example() -> None:
    arrays = Occlusion(patch=2, stride=2, fill=0.0)(*by_hand()).arrays
    # Covering a quadrant takes its sum away from 6: 5, 4, 3 and 6 are left.
    expected = [[sigmoid(1.5), sigmoid(0.5)], [sigmoid(-0.5), sigmoid(2.5)]]
    np.testing.assert_allclose(arrays["probability"], [expected], rtol=1e-6)
    np.testing.assert_array_equal(arrays["prediction"], [[[0, 0], [1, 0]]])
    np.testing.assert_array_equal(arrays["activation"], [[[5, 4], [3, 6]]])
    np.testing.assert_array_equal(arrays["channel"], [0])
    np.testing.assert_allclose(arrays["clean_probability"], [sigmoid(2.5)], rtol=1e-6)
    np.testing.assert_array_equal(arrays["clean_prediction"], [0])
    np.testing.assert_array_equal(arrays["clean_activation"], [6])
    np.testing.assert_array_equal(arrays["top"], [0, 2])
    np.testing.assert_array_equal(arrays["left"], [0, 2])


def test_the_feature_map_of_the_hand_computed_example_before_its_activation() -> None:
    result = Occlusion(patch=2, stride=2, fill=0.0, layer="0", channel=1)(*by_hand())
    np.testing.assert_array_equal(result.arrays["activation"], [[[-5, -4], [-3, -6]]])
    assert result.facts["layer"] == "0"


def test_the_words_of_the_hand_computed_example() -> None:
    text = Occlusion(patch=2, stride=2, fill=0.0)(*by_hand()).text()
    assert "A patch of 2 × 2 pixels at 2 × 2 positions, 2 apart." in text
    assert "id 10 (class 0): probability 0.924, at its lowest 0.378 with the patch at row 2, column 0" in text
    assert "changes at 1 of 4 positions; feature map 1[0]" in text


def test_a_feature_map_that_is_zero_everywhere_is_said() -> None:
    text = Occlusion(patch=2, stride=2, fill=0.0, layer="1", channel=1)(*by_hand()).text()
    assert text.endswith("; feature map 1[1] is zero everywhere")


def random_net(classes: int = 3) -> Subject:
    torch.manual_seed(5)
    net = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 7 * 9, classes))
    return Subject(net.eval(), classes)


def random_images(n: int = 5) -> Images:
    generator = torch.Generator().manual_seed(3)
    return some_images(torch.rand(n, 2, 7, 9, generator=generator), [i % 3 for i in range(n)], 3)


def plain_loop(images: Images, subject: Subject, patch: int, stride: int, fill: float) -> dict[str, np.ndarray]:
    """One image and one position at a time, in numpy and float64, convolution and all."""
    conv, linear = subject.module[0], subject.module[3]
    kernel, bias = conv.weight.double().numpy(), conv.bias.double().numpy()
    weight, shift = linear.weight.double().numpy(), linear.bias.double().numpy()
    rows, columns = range(0, 7 - patch + 1, stride), range(0, 9 - patch + 1, stride)
    found: dict[str, np.ndarray] = {
        key: np.zeros((len(images), len(rows), len(columns))) for key in ("probability", "prediction", "total")
    }
    for n, x in enumerate(images.x.double().numpy()):
        for i, top in enumerate(rows):
            for j, left in enumerate(columns):
                covered = x.copy()
                covered[:, top : top + patch, left : left + patch] = fill
                padded = np.pad(covered, ((0, 0), (1, 1), (1, 1)))
                windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
                maps = np.tanh(np.einsum("chwij,kcij->khw", windows, kernel) + bias[:, None, None])
                logits = weight @ maps.reshape(-1) + shift
                exponentials = np.exp(logits - logits.max())
                found["probability"][n, i, j] = (exponentials / exponentials.sum())[int(images.y[n])]
                found["prediction"][n, i, j] = logits.argmax()
                found["total"][n, i, j] = maps[2].sum()
    return found


@pytest.mark.parametrize(("patch", "stride", "fill"), [(2, 3, 0.5), (7, 1, 1.0), (1, 4, 0.0)])
def test_every_position_equals_a_plain_loop(patch: int, stride: int, fill: float) -> None:
    subject, images = random_net(), random_images()
    arrays = Occlusion(patch, stride, fill, layer="1", channel=2)(subject, images).arrays
    expected = plain_loop(images, subject, patch, stride, fill)
    np.testing.assert_allclose(arrays["probability"], expected["probability"], atol=1e-6)
    np.testing.assert_array_equal(arrays["prediction"], expected["prediction"])
    np.testing.assert_allclose(arrays["activation"], expected["total"], atol=1e-4)


@pytest.mark.parametrize("rows", [1, 7, 40])
def test_the_size_of_the_batch_changes_nothing(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Occlusion(patch=2, stride=1)(random_net(), random_images()).arrays
    monkeypatch.setattr(listening, "ROWS_AT_ONCE", rows)
    parts = Occlusion(patch=2, stride=1)(random_net(), random_images()).arrays
    for name, values in whole.items():
        np.testing.assert_allclose(parts[name], values, atol=1e-4, err_msg=name)


class Counting(nn.Module):
    """Passes on what it is given and notes the sizes of the batches."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net
        self.sizes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        out: Tensor = self.net(x)
        return out


def test_one_row_a_position_in_batches_that_stay_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "ROWS_AT_ONCE", 8)
    subject = Subject(Counting(random_net().module).eval(), 3)
    images, grid = random_images(), Grid(7, 9, 3, 2)
    slide(subject, images.x, images.y, grid, 0.5)
    sizes = subject.module.sizes
    assert sum(sizes) == 5 * 12, "probability, prediction and feature map come from one pass"
    assert max(sizes) <= 4 * 8


def test_the_images_are_not_written_to() -> None:
    images = random_images()
    before = images.x.clone()
    Occlusion(patch=3, stride=1)(random_net(), images)
    assert torch.equal(images.x, before)


def test_the_strongest_map_is_chosen_for_each_image() -> None:
    subject, images = random_net(), random_images()
    arrays = Occlusion(patch=3, stride=2)(subject, images).arrays
    with torch.no_grad():
        totals = subject.module[:2](images.x).sum((2, 3))
    np.testing.assert_array_equal(arrays["channel"], totals.argmax(1).numpy())
    np.testing.assert_allclose(arrays["clean_activation"], totals.amax(1).numpy(), rtol=1e-5)


@pytest.mark.parametrize(("side", "patch", "stride"), [(32, 12, 4), (28, 10, 3), (8, 3, 1), (1, 1, 1)])
def test_the_patch_follows_the_size_of_the_image(side: int, patch: int, stride: int) -> None:
    grid = Occlusion()._grid(side, side)
    assert (grid.patch, grid.stride) == (patch, stride)


def test_the_text_says_what_no_position_covers() -> None:
    assert Grid(7, 9, 3, 4).never_covered == (0, 2)
    assert "The last 0 rows and 2 columns are never covered." in Occlusion(3, 4)(random_net(), random_images()).text()
    assert "never covered" not in Occlusion(3, 2)(random_net(), random_images()).text()


def test_a_net_without_maps_is_followed_without_a_feature_map() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(126, 3))
    result = Occlusion(patch=3, stride=2)(Subject(net.eval(), 3), random_images())
    assert "activation" not in result.arrays
    assert "no layer with maps" in result.text()
    assert len(result.panels) == 3 * 5


def test_the_last_map_layer_is_the_last_with_more_than_one_position() -> None:
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    assert last_map_layer(Subject(net.eval(), 3), random_images().x) == "1"


def test_the_drawing_holds_four_panels_an_image_and_shares_its_scales() -> None:
    result = Occlusion(patch=3, stride=2)(random_net(), random_images())
    assert len(result.panels) == 4 * 5
    largest = result.arrays["probability"].max()
    assert {(panel.scale.low, panel.scale.high) for panel in result.panels[1::4]} == {(0.0, float(largest))}
    assert len({panel.scale for panel in result.panels[3::4]}) == 1
    result.figure()


def test_a_patch_larger_than_the_image_is_refused() -> None:
    with pytest.raises(InputError, match="patch of 8 pixels is larger than the image of 7 × 9; choose at most 7"):
        Occlusion(patch=8)(random_net(), random_images())


@pytest.mark.parametrize(
    ("view", "words"),
    [
        (Occlusion(patch=0), "at least 1 pixel"),
        (Occlusion(stride=0), "at least 1 pixel"),
        (Occlusion(fill=1.5), r"choose one in \[0, 1\]"),
        (Occlusion(layer="O"), "known: 0, 1, 2, 3"),
        (Occlusion(layer="1", channel=4), "no channel 4; choose one of 0 … 3"),
    ],
)
def test_settings_out_of_range_are_refused(view: Occlusion, words: str) -> None:
    with pytest.raises(InputError, match=words):
        view(random_net(), random_images())


def test_a_fill_that_is_no_number_is_refused() -> None:
    with pytest.raises(InputError, match="fill cannot be nan; it must be a finite number"):
        Occlusion(fill=float("nan"))


def test_no_images_are_refused() -> None:
    with pytest.raises(InputError, match="no images"):
        Occlusion()(random_net(), random_images().first(0))


class Breaking(nn.Module):
    """Gives NaN as soon as a pixel is exactly 1."""

    def forward(self, x: Tensor) -> Tensor:
        logits = x.flatten(1)[:, :3]
        return torch.where((x == 1).flatten(1).any(1, keepdim=True), torch.nan, logits)


def test_a_net_that_gives_nan_under_the_patch_is_named() -> None:
    with pytest.raises(
        InputError, match=r"probabilities under the patch hold NaN or infinity on 5 images \(ids 10, 11"
    ):
        Occlusion(patch=3, stride=2, fill=1.0)(Subject(Breaking().eval(), 3), random_images())


class Viewing(nn.Module):
    """Reads its maps as vectors where they lie, which only the contiguous layout allows, and is fast in the other."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.conv, self.head = nn.Conv2d(2, 3, 3), nn.Linear(105, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.conv(x).view(len(x), -1))
        return logits


def test_a_copy_in_channels_last_gives_the_same_logits() -> None:
    subject, x = random_net(), random_images().x
    twin = in_channels_last(subject, x)
    assert twin is not subject
    assert twin.module[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert not subject.module[0].weight.is_contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        torch.testing.assert_close(twin(x), subject(x), rtol=1e-5, atol=1e-6)


def test_a_net_that_needs_another_layout_keeps_it() -> None:
    subject, images = Subject(Viewing().eval(), 3), random_images()
    assert in_channels_last(subject, images.x) is subject
    arrays = Occlusion(patch=3, stride=2)(subject, images).arrays
    covered = images.x[2:3].clone()
    covered[:, :, 2:5, 4:7] = 0.5
    with torch.no_grad():
        expected = subject(covered).softmax(1)[0, 2]
    assert arrays["probability"][2, 1, 2] == pytest.approx(float(expected), abs=1e-6)


class Noisy(nn.Module):
    """Another answer at each call."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).mean((2, 3)) + torch.rand(len(x), 3)


def test_a_random_net_is_asked_itself() -> None:
    subject = Subject(Noisy().eval(), 3)
    assert in_channels_last(subject, random_images().x) is subject


class Writing(nn.Module):
    """Writes to the pixels that it is given."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x.sub_(0.25).mul_(2))
        return out


class Reading(nn.Module):
    """The same net without writing."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net((x - 0.25) * 2)
        return out


@pytest.mark.parametrize("rows", [3, 128])
def test_a_net_that_writes_to_its_input_gets_fresh_pixels_each_time(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "ROWS_AT_ONCE", rows)
    images, grid = random_images(), Grid(7, 9, 3, 2)
    found = slide(Subject(Writing(random_net().module).eval(), 3), images.x, images.y, grid, 0.5)
    expected = slide(Subject(Reading(random_net().module).eval(), 3), images.x, images.y, grid, 0.5)
    torch.testing.assert_close(found.probability, expected.probability)
    assert torch.equal(images.x, random_images().x)


@pytest.mark.parametrize("most", [1, 2, 4, 7, 15, 60, 100])
def test_batches_hold_every_image_under_every_position_once(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    images, grid = random_images(), Grid(7, 9, 3, 2)
    rows, pixels = zip(
        *((r, p.clone()) for r, p in _covered(images.x, grid, 0.5, _groups(5, 12, most), torch.channels_last)),
        strict=True,
    )
    assert max(map(len, rows)) <= most
    assert len(torch.cat(rows)) == 60
    uncovered = images.x[torch.cat(rows)]
    changed = (torch.cat(pixels) != uncovered).any(1)
    assert (changed.flatten(1).sum(1) == 9).all()
    first = changed.flatten(1).to(torch.int8).argmax(1)
    seen = {(int(row), divmod(int(place), 9)) for row, place in zip(torch.cat(rows), first, strict=True)}
    assert seen == {(row, corner) for row in range(5) for corner in grid.corners}
