"""What a view returns: the scales, the drawing, the files."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from faultlight.errors import InputError
from faultlight.views._draw import draw, shrink
from faultlight.views._mosaic import flat, mosaic
from faultlight.views._result import Panel, Scale, ViewResult, scale_of

UNSIGNED = Scale("unsigned", 0.0, 4.0)


def a_result(**changes: Any) -> ViewResult:
    values = np.arange(4, dtype=np.float32).reshape(2, 2)
    panels = (Panel("image", values / 4), Panel("a map", values, UNSIGNED))
    whole = ViewResult("toy", {"values": values, "file": np.array([7])}, "Two panels.", panels, facts={"patch": 2})
    return dataclasses.replace(whole, **changes)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def titles(figure: Figure) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]


def colour_bars(figure: Figure) -> list[list[str]]:
    bars = [axes for axes in figure.axes if not axes.get_title(loc="left")]
    return [[label.get_text() for label in axes.get_yticklabels()] for axes in bars]


def test_values_without_a_sign_get_a_scale_from_zero() -> None:
    assert scale_of(np.array([0.5, 2.0]), np.array([3.0])) == Scale("unsigned", 0.0, 3.0)


def test_one_negative_value_makes_the_scale_symmetric_about_zero() -> None:
    assert scale_of(np.array([0.5, 2.0]), np.array([-3.0])) == Scale("signed", -3.0, 3.0)
    assert scale_of(np.array([-1.0, 2.0])) == Scale("signed", -2.0, 2.0)


def test_what_is_not_drawn_does_not_stretch_the_scale() -> None:
    assert scale_of(np.array([np.nan, np.inf, 1.0])) == Scale("unsigned", 0.0, 1.0)
    assert scale_of(np.array([])) == Scale("unsigned", 0.0, 0.0)


def test_signed_panels_are_drawn_with_the_middle_of_the_map_at_zero() -> None:
    values = np.array([[-1.0, 0.25], [0.0, 4.0]])
    (image,) = draw([Panel("signed", values, scale_of(values))], 1, "").axes[0].images
    assert (image.norm.vmin, image.norm.vmax) == (-4.0, 4.0)
    assert image.norm(0.0) == 0.5
    red, _, blue, _ = image.cmap(image.norm(4.0))
    assert red > blue, "positive is red"


def test_panels_of_one_scale_share_the_colours_and_one_bar_with_its_numbers() -> None:
    small, large = np.array([[1.0]]), np.array([[4.0]])
    figure = draw([Panel("a", small, UNSIGNED), Panel("b", large, UNSIGNED)], 2, "")
    drawn = [axes.images[0].norm(1.0) for axes in figure.axes if axes.images]
    assert drawn == [0.25, 0.25]
    assert colour_bars(figure) == [["0", "4"]]


def test_panels_of_two_scales_have_a_bar_each() -> None:
    panels = [Panel("a", np.array([[1.0]]), UNSIGNED), Panel("b", np.array([[-1.0]]), Scale("signed", -2.0, 2.0))]
    assert colour_bars(draw(panels, 2, "")) == [["0", "4"], ["-2", "0", "2"]]


def test_each_row_of_panels_prints_its_scale() -> None:
    assert len(colour_bars(draw([Panel("a", np.array([[1.0]]), UNSIGNED)] * 4, 2, ""))) == 2


def test_an_image_is_shown_as_it_is() -> None:
    (image,) = draw([Panel("dim", np.array([[0.2, 0.3]]))], 1, "").axes[0].images
    assert (image.norm.vmin, image.norm.vmax) == (0, 1), "never stretched to its own range"


def test_an_all_zero_map_says_so() -> None:
    zero, other = np.zeros((3, 3)), np.eye(3)
    assert texts(draw([Panel("a", zero, scale_of(zero))], 1, "")) == ["all zero"]
    assert texts(draw([Panel("a", zero, UNSIGNED)], 1, "")) == ["all zero"]
    assert texts(draw([Panel("a", other, UNSIGNED)], 1, "")) == []


def test_predicted_classes_are_written_into_their_cells() -> None:
    classes = Scale("classes", names=("a", "b", "c"))
    assert texts(draw([Panel("predicted", np.array([[2, 0]]), classes)], 1, "")) == ["2", "0"]


def test_the_background_is_painted_so_that_a_dark_page_shows_the_same() -> None:
    assert a_result().figure().get_facecolor() == (1.0, 1.0, 1.0, 1.0)


def test_drawing_leaves_no_figure_in_the_global_state() -> None:
    a_result().figure()
    if "matplotlib.pyplot" in sys.modules:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []


def test_a_result_without_panels_is_drawn_as_its_words() -> None:
    figure = a_result(panels=(), words="one\ntwo").figure()
    assert [text.get_text() for text in figure.texts] == ["one\ntwo"]


@pytest.mark.parametrize("name", ["$x^{$", "</script>", "=cmd()", "\\frac{"])
def test_a_hostile_class_name_is_drawn_as_plain_text(name: str) -> None:
    result = a_result(panels=(Panel(name, np.eye(2)),))
    assert titles(result.figure()) == [name]
    assert ElementTree.fromstring(result._render("svg")).tag.endswith("svg"), "mathematics would have failed to parse"


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert a_result(words="class \x1b[31mred\nsecond").text() == "class \\x1b[31mred\nsecond"


def test_saving_writes_the_numbers_the_words_and_two_drawings(tmp_path: Path) -> None:
    paths = a_result().save(tmp_path / "new")
    assert [path.name for path in paths] == ["toy.npz", "toy.json", "toy.png", "toy.svg"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(path.name for path in paths)
    with np.load(paths[0]) as arrays:
        assert {name: arrays[name].tolist() for name in arrays} == {"values": [[0, 1], [2, 3]], "file": [7]}
    record = json.loads(paths[1].read_text(encoding="utf-8"))
    assert record == {"schema": 1, "view": "toy", "text": "Two panels.", "facts": {"patch": 2}}
    assert paths[2].read_bytes().startswith(b"\x89PNG")
    assert ElementTree.fromstring(paths[3].read_bytes()).tag.endswith("svg")


def test_saving_twice_writes_the_same_bytes(tmp_path: Path) -> None:
    first, second = (a_result().save(tmp_path / folder) for folder in ("a", "b"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "toy.npz").mkdir()
    with pytest.raises(InputError, match=r"toy\.npz could not be written"):
        a_result().save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["toy.npz"], "nothing half-written is left"


def test_a_notebook_gets_the_png() -> None:
    assert a_result()._repr_png_().startswith(b"\x89PNG")


def test_a_drawing_names_its_parts() -> None:
    assert titles(a_result().figure()) == ["image", "a map"]
    assert re.search(rb"<image", a_result()._render("svg"))


def test_a_large_map_is_thinned_to_the_strongest_of_each_block() -> None:
    values = np.array([[1.0, -5.0, 0.0], [2.0, 3.0, 0.5], [0.0, np.nan, -0.5]])
    assert shrink(values, limit=2).tolist() == [[-5.0, 0.5], [0.0, -0.5]]
    assert shrink(values, limit=3) is values


def test_maps_are_laid_side_by_side_with_a_line_between() -> None:
    maps = np.array([[[1, 2]], [[3, 4]], [[5, 6]]], dtype=np.float32)
    nan = np.nan
    expected = [[1, 2, nan, 3, 4], [nan] * 5, [5, 6, nan, nan, nan]]
    np.testing.assert_array_equal(mosaic(maps, 2), expected)


def test_any_layer_output_becomes_a_flat_picture() -> None:
    assert flat(np.arange(10.0)).shape == (1, 10)
    np.testing.assert_array_equal(flat(np.arange(34.0))[5], [30, 31, 32, 33, np.nan, np.nan])
    assert flat(np.zeros((3, 5))).shape == (3, 5)
    assert flat(np.ones((5, 2, 3))).shape == (5, 11), "two rows of three maps of 2 × 3, one line between"
    assert flat(np.ones((9, 2, 2)), most_maps=4).shape == (5, 5)
    assert flat(np.arange(3.0).reshape(3, 1, 1)).tolist() == [[0, 1, 2]]
