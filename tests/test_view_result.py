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
from matplotlib.image import AxesImage

from faultlight.errors import InputError
from faultlight.views._chart import Chart, Curve, Dots
from faultlight.views._draw import draw, shrink
from faultlight.views._mosaic import banded, flat, mosaic
from faultlight.views._result import BLANK, Panel, Scale, ViewResult, scale_of

UNSIGNED = Scale("unsigned", 0.0, 4.0)


def a_result(**changes: Any) -> ViewResult:
    values = np.arange(4, dtype=np.float32).reshape(2, 2)
    panels = (Panel("image", values / 4), Panel("a map", values, UNSIGNED))
    whole = ViewResult("toy", {"values": values, "file": np.array([7])}, "Two panels.", panels, facts={"patch": 2})
    return dataclasses.replace(whole, **changes)


def test_its_repr_is_names_and_shapes() -> None:
    assert repr(a_result()) == "<view 'toy': values 2×2, file 1>"
    assert repr(a_result(arrays={"accuracy": np.array(1.0)}, kind="study")) == "<study 'toy': accuracy scalar>"


def test_a_notebook_shows_the_picture_and_the_words() -> None:
    shown = a_result(words="class <b>")._repr_html_()
    assert shown.startswith('<img alt="toy" src="data:image/png;base64,iVBOR')
    assert shown.endswith("<pre>class &lt;b&gt;</pre>")
    assert a_result(panels=())._repr_html_() == "<pre>Two panels.</pre>"


def texts(figure: Figure, role: str) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts if text.get_label() == role]


def pictures(figure: Figure, role: str = "panel") -> list[AxesImage]:
    return [image for image in figure.axes[0].images if image.get_label() == role]


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
    (image,) = pictures(draw([Panel("signed", values, scale_of(values))], 1, ""))
    assert (image.norm.vmin, image.norm.vmax) == (-4.0, 4.0)
    assert image.norm(0.0) == 0.5
    red, _, blue, _ = image.cmap(image.norm(4.0))
    assert red > blue, "positive is red"


def test_panels_of_one_scale_share_the_colours_and_one_bar_with_its_numbers() -> None:
    small, large = np.array([[1.0]]), np.array([[4.0]])
    figure = draw([Panel("a", small, UNSIGNED), Panel("b", large, UNSIGNED)], 2, "")
    assert [image.norm(1.0) for image in pictures(figure)] == [0.25, 0.25]
    assert len(pictures(figure, "scale")) == 1
    assert texts(figure, "end") == ["0", "4"]


def test_panels_of_two_scales_have_a_bar_each() -> None:
    panels = [Panel("a", np.array([[1.0]]), UNSIGNED), Panel("b", np.array([[-1.0]]), Scale("signed", -2.0, 2.0))]
    figure = draw(panels, 2, "")
    assert texts(figure, "end") == ["0", "4", "−2", "0", "2"]
    for bar, panel in zip(pictures(figure, "scale"), pictures(figure), strict=True):
        assert (bar.norm.vmin, bar.norm.vmax, bar.cmap.name) == (panel.norm.vmin, panel.norm.vmax, panel.cmap.name)
        assert (bar.get_array()[0, 0], bar.get_array()[-1, 0]) == (bar.norm.vmax, bar.norm.vmin), (
            "the top is the high end"
        )


def test_each_row_of_panels_prints_its_scale() -> None:
    figure = draw([Panel("a", np.array([[1.0]]), UNSIGNED)] * 4, 2, "")
    assert texts(figure, "end") == ["0", "4"] * 2


def test_a_panel_keeps_its_shape_and_stays_in_its_cell() -> None:
    figure = draw([Panel("wide", np.ones((2, 4)), UNSIGNED), Panel("tall", np.ones((3, 1)), UNSIGNED)], 2, "", side=2.0)
    (left, right, bottom, top), (left2, right2, bottom2, top2) = (image.get_extent() for image in pictures(figure))
    assert (right - left, top - bottom) == pytest.approx((2.0, 1.0))
    assert (right2 - left2, top2 - bottom2) == pytest.approx((2 / 3, 2.0))
    width, height = figure.get_size_inches()
    assert top == top2
    assert right < left2
    assert left > 0
    assert right2 < width
    assert bottom2 > -height
    assert top < 0


def test_the_first_row_of_an_array_is_drawn_above() -> None:
    figure = draw([Panel("a", np.array([[1.0], [0.0]]))], 1, "")
    figure.canvas.draw()
    drawn = np.asarray(figure.canvas.buffer_rgba())
    left, right, bottom, top = pictures(figure)[0].get_extent()
    column = int((left + right) / 2 * figure.dpi)
    upper, lower = (int(-y * figure.dpi) for y in (top - 0.3, bottom + 0.3))
    assert drawn[upper, column, 0] == 255
    assert drawn[lower, column, 0] == 0


def test_an_image_is_shown_as_it_is() -> None:
    (image,) = pictures(draw([Panel("dim", np.array([[0.2, 0.3]]))], 1, ""))
    assert (image.norm.vmin, image.norm.vmax) == (0, 1), "never stretched to its own range"


def test_an_all_zero_map_says_so() -> None:
    zero, other = np.zeros((3, 3)), np.eye(3)
    assert texts(draw([Panel("a", zero, scale_of(zero))], 1, ""), "note") == ["all zero"]
    assert texts(draw([Panel("a", zero, UNSIGNED)], 1, ""), "note") == ["all zero"]
    assert texts(draw([Panel("a", other, UNSIGNED)], 1, ""), "note") == []


def test_predicted_classes_are_written_into_their_cells() -> None:
    classes = Scale("classes", names=("a", "b", "c"))
    assert texts(draw([Panel("predicted", np.array([[2, 0]]), classes)], 1, ""), "cell") == ["2", "0"]


def test_the_background_is_painted_so_that_a_dark_page_shows_the_same() -> None:
    assert a_result().figure().get_facecolor() == (1.0, 1.0, 1.0, 1.0)


def test_drawing_leaves_no_figure_in_the_global_state() -> None:
    a_result().figure()
    if "matplotlib.pyplot" in sys.modules:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []


def test_a_result_without_panels_is_drawn_as_its_words() -> None:
    figure = a_result(panels=(), words="one\ntwo").figure()
    assert texts(figure, "words") == ["one\ntwo"]


@pytest.mark.parametrize("name", ["$x^{$", "</script>", "=cmd()", "\\frac{"])
def test_a_hostile_class_name_is_drawn_as_plain_text(name: str) -> None:
    result = a_result(panels=(Panel(name, np.eye(2)),))
    assert texts(result.figure(), "title") == [name]
    assert ElementTree.fromstring(result._drawings("svg")["svg"]).tag.endswith("svg"), (
        "mathematics would have failed to parse"
    )


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
    assert texts(a_result().figure(), "title") == ["image", "a map"]
    assert re.search(rb"<image", a_result()._drawings("svg")["svg"])


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


def test_a_wide_matrix_is_read_in_bands() -> None:
    nan = np.nan
    np.testing.assert_array_equal(
        banded(np.arange(10.0)[None]), [[0, 1, 2, 3, 4], [nan] * 5, [5, 6, 7, 8, 9]], "round(√(10 / 2)) = 2 bands"
    )
    np.testing.assert_array_equal(banded(np.arange(9.0)[None])[2], [5, 6, 7, 8, nan])
    assert banded(np.ones((3, 5))).shape == (3, 5)


def test_an_empty_cell_has_no_frame() -> None:
    figure = draw([Panel("a", np.eye(2)), BLANK], 2, "")
    assert len(pictures(figure)) == 1
    assert [patch.get_label() for patch in figure.axes[0].patches] == [""], "the frame of the first panel"


def test_rows_are_as_high_as_what_they_hold() -> None:
    strips = draw([Panel("a", np.ones((1, 10)), Scale("image")), Panel("b", np.ones((1, 10)))], 1, "", side=2.0)
    squares = draw([Panel("a", np.ones((10, 10))), Panel("b", np.ones((10, 10)))], 1, "", side=2.0)
    assert squares.get_size_inches()[1] - strips.get_size_inches()[1] == pytest.approx(2 * 1.8)


def test_keys_and_ends_of_an_axis_stand_outside_of_a_chart() -> None:
    chart = Chart("t", np.arange(3.0), (Curve("first", np.ones(3)), Curve("second", np.zeros(3))), 0.0, 1.0)
    axes = draw([chart], 1, "", side=2.0).axes[0]
    (frame,) = [patch for patch in axes.patches if patch.get_label() == "chart"]
    left, bottom = frame.get_xy()
    assert [text.get_text() for text in axes.texts if text.get_label() == "key"] == ["first", "second"]
    assert all(text.get_position()[1] < bottom for text in axes.texts if text.get_label() == "key")
    assert all(x < left or y < bottom for x, y in (t.get_position() for t in axes.texts if t.get_label() == "end"))


def test_every_place_of_the_dots_has_its_name_and_a_matrix_stands_in_line() -> None:
    names, values = ("conv", "fully_connected", "out"), np.array([0.5, np.nan, 1.0])
    dots = Dots("t", names, (Curve("left", values), Curve("nothing", values * np.nan)), levels=(("clean", 0.75),))
    matrix = Panel("m", np.array([[1.0, np.nan, 2.0]]), UNSIGNED, ("a",), names, "no images", wide=True)
    figure = draw([dots, matrix], 1, "")
    axes = figure.axes[0]
    assert texts(figure, "name") == [*names, "a", *names]
    assert texts(figure, "key") == ["left", "clean", "no images"]
    (line,) = (line for line in axes.lines if line.get_label() == "dots left")
    (frame,) = (patch for patch in axes.patches if patch.get_label() == "dots")
    left, right, _, _ = pictures(figure)[0].get_extent()
    np.testing.assert_allclose(line.get_xdata(), left + (right - left) * np.array([1, 3, 5]) / 6)
    np.testing.assert_allclose((line.get_ydata() - frame.get_y()) / frame.get_height(), values)
    hatched, swatch = (patch for patch in axes.patches if patch.get_label() == "absent")
    assert hatched.get_x() == pytest.approx(left + (right - left) / 3)
    assert swatch.get_y() < pictures(figure)[0].get_extent()[2]


def test_of_too_many_names_every_kth_is_written_and_the_drawing_says_so() -> None:
    names = tuple(f"layer{i}" for i in range(200))
    figure = draw([Dots("t", names, (Curve("a", np.ones(200)),))], 1, "")
    assert texts(figure, "name") == list(names[::3])
    assert texts(figure, "note") == ["every 3rd name is written"]


def test_a_caption_stands_below() -> None:
    figure = a_result(caption="One scale.").figure()
    (caption,) = (text for text in figure.axes[0].texts if text.get_label() == "caption")
    assert caption.get_text() == "One scale."
    assert caption.get_position()[1] < min(picture.get_extent()[2] for picture in pictures(figure))
