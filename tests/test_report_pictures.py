"""Arrays to pictures: every pixel where the colour map puts it, 0 in the middle of a signed map."""

from __future__ import annotations

import base64
import io

import matplotlib
import numpy as np
import pytest
from PIL import Image

from faultlight.report.pictures import (
    DIVERGING,
    SEQUENTIAL,
    Picture,
    Scale,
    amplification,
    heat,
    noise,
    photo,
    shared_scale,
)


def pixels(picture: Picture) -> np.ndarray:
    content = base64.b64decode(picture.uri.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def colour(name: str, level: int) -> list[int]:
    place = level / 255 if name == SEQUENTIAL else 0.1 + 0.8 * level / 255
    return [int(part) for part in matplotlib.colormaps[name](place, bytes=True)[:3]]


def test_a_grey_photo_comes_back_to_the_last_bit() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    drawn = pixels(photo((levels / np.float32(255)).astype(np.float32)))
    np.testing.assert_array_equal(drawn[..., 0], levels[0])


def test_a_colour_photo_comes_back_to_the_last_bit() -> None:
    levels = np.random.default_rng(0).integers(0, 256, (3, 5, 7), dtype=np.uint8)
    drawn = pixels(photo((levels / np.float32(255)).astype(np.float32)))
    np.testing.assert_array_equal(np.moveaxis(drawn, -1, 0), levels)


def test_an_unsigned_map_runs_from_the_first_colour_to_the_last() -> None:
    drawn = pixels(heat(np.array([[0.0, 1.0, 2.0]], dtype=np.float32), Scale(0.0, 2.0, signed=False)))
    assert drawn.tolist() == [[colour(SEQUENTIAL, 0), colour(SEQUENTIAL, 128), colour(SEQUENTIAL, 255)]]


def test_a_signed_map_is_symmetric_about_zero() -> None:
    drawn = pixels(heat(np.array([[-2.0, 0.0, 2.0]], dtype=np.float32), Scale(-2.0, 2.0, signed=True)))
    assert drawn.tolist() == [[colour(DIVERGING, 0), colour(DIVERGING, 128), colour(DIVERGING, 255)]]
    assert min(drawn[0, 1]) > 240, "the middle of the map is not neutral"


def test_what_lies_beyond_the_scale_takes_its_end_colour() -> None:
    drawn = pixels(heat(np.array([[-5.0, 9.0]], dtype=np.float32), Scale(0.0, 1.0, signed=False)))
    assert drawn.tolist() == [[colour(SEQUENTIAL, 0), colour(SEQUENTIAL, 255)]]


def test_a_map_of_zeros_says_so() -> None:
    assert heat(np.zeros((2, 2), dtype=np.float32), Scale(0.0, 0.0, signed=False)).zero
    assert not heat(np.full((2, 2), 1e-30, dtype=np.float32), Scale(0.0, 1.0, signed=False)).zero
    assert noise(np.zeros((3, 2, 2), dtype=np.float32), 0.0).zero


def test_compared_arrays_share_one_scale() -> None:
    positive, larger = np.array([0.5, 1.0], dtype=np.float32), np.array([3.0], dtype=np.float32)
    assert shared_scale(positive, larger) == Scale(0.0, 3.0, signed=False)
    assert shared_scale(positive, -larger) == Scale(-3.0, 3.0, signed=True)
    assert shared_scale() == Scale(0.0, 0.0, signed=False)


def test_noise_in_colour_is_drawn_about_mid_grey_by_the_printed_factor() -> None:
    largest = 8 / 255
    delta = np.zeros((3, 1, 3), dtype=np.float32)
    delta[:, 0, 0], delta[:, 0, 1] = largest, -largest
    drawn = pixels(noise(delta, largest))
    assert amplification(largest) == pytest.approx(255 / 16)
    assert drawn[0].tolist() == [[255] * 3, [0] * 3, [128] * 3]


def test_noise_of_one_channel_is_a_signed_map() -> None:
    delta = np.array([[[-0.1, 0.0, 0.1]]], dtype=np.float32)
    assert pixels(noise(delta, 0.1))[0].tolist() == [colour(DIVERGING, level) for level in (0, 128, 255)]


def test_a_picture_carries_no_colour_it_does_not_use() -> None:
    few = heat(np.eye(8, dtype=np.float32), Scale(0.0, 1.0, signed=False))
    assert len(few.uri) < 250
