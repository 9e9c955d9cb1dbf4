"""Class folders: every kind of picture becomes the pixels it shows, and what cannot is named."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data_files import png_bytes
from faultlight.data.load import find_source, load_data
from faultlight.data.pictures import read_picture
from faultlight.data.source import Request
from faultlight.errors import InputError


def save(path: Path, picture: Image.Image, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **options)
    return path


def picture(mode: str, values: Iterable[Any], size: tuple[int, int] = (2, 1)) -> Image.Image:
    made = Image.new(mode, size)
    made.putdata(list(values))
    return made


def grey(path: Path, level: int, size: tuple[int, int] = (3, 2)) -> Path:
    return save(path, Image.new("L", size, level))


def laid_on_white(value: int, alpha: int) -> float:
    return value / 255 * alpha / 255 + 1 - alpha / 255


def palette(**options: Any) -> Image.Image:
    made = Image.new("P", (2, 1))
    made.putpalette([10, 20, 30, 200, 100, 0])
    made.putdata([1, 0])
    made.info.update(options)
    return made


KINDS = [
    ("1.png", picture("1", [0, 255]), [[0.0, 1.0]]),
    ("L.png", picture("L", [7, 200]), [[7 / 255, 200 / 255]]),
    ("L.bmp", picture("L", [7, 200]), [[7 / 255, 200 / 255]]),
    ("L.pgm", picture("L", [7, 200]), [[7 / 255, 200 / 255]]),
    ("LA.png", picture("LA", [(7, 255), (200, 51)]), [[7 / 255, laid_on_white(200, 51)]]),
    ("I16.png", picture("I;16", [1, 65_534]), [[1 / 65_535, 65_534 / 65_535]]),
    ("I16.tif", picture("I;16", [257, 4_000]), [[257 / 65_535, 4_000 / 65_535]]),
    ("RGB.png", picture("RGB", [(1, 2, 3), (255, 0, 9)]), [[1 / 255, 1], [2 / 255, 0], [3 / 255, 9 / 255]]),
    ("RGB.webp", picture("RGB", [(1, 2, 3), (255, 0, 9)]), [[1 / 255, 1], [2 / 255, 0], [3 / 255, 9 / 255]]),
    (
        "RGBA.png",
        picture("RGBA", [(1, 2, 3, 0), (255, 0, 100, 102)]),
        [[1, 1], [1, laid_on_white(0, 102)], [1, laid_on_white(100, 102)]],
    ),
    ("P.png", palette(), [[200 / 255, 10 / 255], [100 / 255, 20 / 255], [0, 30 / 255]]),
    ("P-transparent.png", palette(transparency=0), [[200 / 255, 1], [100 / 255, 1], [0, 1]]),
    ("P.gif", palette(), [[200 / 255, 10 / 255], [100 / 255, 20 / 255], [0, 30 / 255]]),
    ("CMYK.tif", picture("CMYK", [(255, 0, 0, 0), (0, 0, 0, 255)]), [[0, 0], [1, 0], [1, 0]]),
    ("CMYK-half.tif", picture("CMYK", [(0, 255, 0, 51), (0, 0, 0, 0)]), [[204 / 255, 1], [0, 1], [204 / 255, 1]]),
    ("YCbCr.tif", picture("YCbCr", [(128, 128, 128), (255, 128, 128)]), [[128 / 255, 1]] * 3),
]


@pytest.mark.parametrize(("name", "made", "expected"), KINDS, ids=[name for name, _, _ in KINDS])
def test_pixels_of_every_kind(tmp_path: Path, name: str, made: Image.Image, expected: list[list[float]]) -> None:
    options: dict[str, Any] = {"lossless": True} if name.endswith("webp") else {}
    path = save(tmp_path / "class" / name, made, **options)
    images = load_data(str(tmp_path))
    assert images.x.shape == (1, len(expected), 1, 2)
    assert images.x[0, :, 0].numpy() == pytest.approx(np.array(expected), abs=1e-6)
    assert path.is_file()


def test_grey_of_16_bits_written_by_hand(tmp_path: Path) -> None:
    rows = b"".join(b"\0" + struct.pack(">HH", *row) for row in ((0, 1), (32_768, 65_535)))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(png_bytes(2, 2, 16, 0, rows))
    expected = np.array([[0, 1 / 65_535], [32_768 / 65_535, 1]])
    assert load_data(str(tmp_path)).x[0, 0].numpy() == pytest.approx(expected, abs=1e-7)


def test_colour_of_16_bits_keeps_its_upper_8(tmp_path: Path) -> None:
    row = b"\0" + struct.pack(">HHH", 0x12FF, 0xABCD, 0xFFFF)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(png_bytes(1, 1, 16, 2, row))
    found = load_data(str(tmp_path)).x.flatten().tolist()
    assert found == pytest.approx([0x12 / 255, 0xAB / 255, 1])
    assert found == pytest.approx([0x12FF / 65_535, 0xABCD / 65_535, 1], abs=1 / 255)


def test_cmyk_jpeg_as_photo_programs_write_it(tmp_path: Path) -> None:
    save(tmp_path / "a" / "x.jpg", Image.new("CMYK", (8, 8), (0, 255, 255, 0)), quality=100)
    x = load_data(str(tmp_path)).x[0]
    assert x[0].min() > 0.98
    assert x[1:].max() < 0.02


def test_one_colour_picture_makes_the_set_colour(tmp_path: Path) -> None:
    save(tmp_path / "a" / "1.png", picture("L", [10, 20]))
    save(tmp_path / "a" / "2.png", picture("RGB", [(1, 2, 3), (4, 5, 6)]))
    images = load_data(str(tmp_path))
    assert images.x.shape == (2, 3, 1, 2)
    assert (images.x[0] * 255).round().tolist() == [[[10, 20]]] * 3
    assert torch.equal(images.x[:1], load_data(str(tmp_path), n=1).x)  # however few are read


@pytest.mark.parametrize(
    ("name", "made", "message"),
    [
        ("I.tif", picture("I", [0, 70_000]), "no agreed range"),
        ("F.tif", picture("F", [0.0, 0.5]), "no agreed range"),
    ],
)
def test_kinds_without_an_agreed_range_are_named(tmp_path: Path, name: str, made: Image.Image, message: str) -> None:
    path = save(tmp_path / "a" / name, made)
    with pytest.raises(InputError, match=message) as error:
        load_data(str(tmp_path))
    assert str(path) in str(error.value)


def test_grey_of_16_bits_with_a_transparent_value_is_named(tmp_path: Path) -> None:
    save(tmp_path / "a" / "x.png", picture("I;16", [1, 2]), transparency=1)
    with pytest.raises(InputError, match="16 bits with a transparent value"):
        load_data(str(tmp_path))


def numbered(root: Path, count: int = 6) -> Path:
    for number in range(count):
        grey(root / "ab"[number % 2] / f"{number:03d}.png", 10 * number)
    return root


def test_file_order_labels_and_ids(tmp_path: Path) -> None:
    images = load_data(str(numbered(tmp_path)))
    assert images.classes == ("a", "b")
    assert (images.x[:, 0, 0, 0] * 255).round().tolist() == [0, 10, 20, 30, 40, 50]
    assert images.y.tolist() == [0, 1, 0, 1, 0, 1]
    assert images.ids.tolist() == [0, 1, 2, 3, 4, 5]
    assert torch.equal(load_data(str(tmp_path), n=3).x, images.x[:3])


def test_splits_by_folder(tmp_path: Path) -> None:
    numbered(tmp_path / "train", 20)
    numbered(tmp_path / "test", 3)
    grey(tmp_path / "test" / "c" / "9.png", 9)
    name = str(tmp_path)
    train, validation = load_data(name, "train"), load_data(name, "validation")
    assert train.classes == ("a", "b", "c")  # labels agree between splits
    assert len(validation) == 2
    assert sorted([*train.ids.tolist(), *validation.ids.tolist()]) == list(range(20))
    assert (validation.x[:, 0, 0, 0] * 255).round().tolist() == [10 * i for i in validation.ids.tolist()]
    assert load_data(name, "test").y.tolist() == [0, 1, 0, 2]
    numbered(tmp_path / "val", 2)
    assert load_data(name, "validation").ids.tolist() == [20, 21]
    assert len(load_data(name, "train")) == 20
    assert len(load_data(name, "train+validation")) == 22


def test_a_single_training_picture_cannot_be_held_out_too(tmp_path: Path) -> None:
    for split in ("train", "test"):
        grey(tmp_path / split / "cat" / "one.png", 7)
    for resize in (None, (2, 2)):
        with pytest.raises(InputError, match="has a single training image, which cannot be both learnt from and held"):
            load_data(str(tmp_path), "train", resize=resize)
    assert len(load_data(str(tmp_path), "train+validation")) == 1
    grey(tmp_path / "validation" / "cat" / "two.png", 9)
    assert len(load_data(str(tmp_path), "train")) == 1


def test_without_train_and_test_everything_is_test(tmp_path: Path) -> None:
    name = str(numbered(tmp_path))
    assert find_source(name).splits(Request(name)) == ("test",)
    with pytest.raises(InputError, match=r"has no train split \(it has: test\)"):
        load_data(name, "train")
    with pytest.raises(InputError, match="has no validation split"):
        load_data(name, "validation")


def truncated(path: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    save(path, Image.fromarray(noise))
    path.write_bytes(path.read_bytes()[:3000])
    return path


@pytest.mark.parametrize("name", ["003.png", "003.jpg", "003.gif", "003.bmp"])
def test_truncated_picture_is_named_and_skipped_only_when_asked(tmp_path: Path, name: str) -> None:
    for number in (1, 2, 4):
        save(tmp_path / "a" / f"{number:03d}.png", Image.new("RGB", (64, 64), (number, 0, 0)))
    path = truncated(tmp_path / "a" / name)
    with pytest.raises(InputError, match="--skip-bad") as error:
        load_data(str(tmp_path))
    assert str(path) in str(error.value)
    images = load_data(str(tmp_path), skip_bad=True)
    assert images.ids.tolist() == [0, 1, 3]
    assert (images.x[:, 0, 0, 0] * 255).round().tolist() == [1, 2, 4]
    (note,) = images.notes
    assert note.startswith("1 of 4 pictures were skipped: ")
    assert str(path) in note


def test_what_is_no_picture_is_named_and_counted(tmp_path: Path) -> None:
    numbered(tmp_path)
    for name, content in (("002.jpg", b"<html>gone</html>"), ("000.jpg", b"")):
        (tmp_path / "b" / name).write_bytes(content)
    with pytest.raises(InputError, match="is no picture"):
        load_data(str(tmp_path))
    images = load_data(str(tmp_path), n=3, skip_bad=True)
    assert images.ids.tolist() == [1, 2, 4]
    assert images.notes[0].startswith("2 of 8 pictures were skipped: ")


def test_all_bad_is_an_error_even_when_bad_ones_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(b"")
    with pytest.raises(InputError, match="holds no picture that can be read"):
        load_data(str(tmp_path), skip_bad=True)


def test_other_and_hidden_files_are_left_aside(tmp_path: Path) -> None:
    numbered(tmp_path)
    for name in ("Thumbs.db", "notes.txt", ".hidden.png", "._a.png"):
        (tmp_path / "a" / name).write_bytes(b"x")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "readme.png").write_bytes(b"x")
    images = load_data(str(tmp_path))
    assert len(images) == 6
    assert images.classes == ("a", "b")
    assert images.notes == ()


def test_class_without_a_picture_keeps_its_label_and_is_noted(tmp_path: Path) -> None:
    numbered(tmp_path)
    (tmp_path / "aa").mkdir()
    images = load_data(str(tmp_path))
    assert images.classes == ("a", "aa", "b")
    assert images.y.tolist() == [0, 2] * 3
    assert any("without a picture" in note and "aa" in note for note in images.notes)


def test_sizes_must_agree_unless_one_is_asked_for(tmp_path: Path) -> None:
    numbered(tmp_path)
    grey(tmp_path / "a" / "odd.png", 7, size=(5, 4))
    with pytest.raises(InputError, match=r"1 of the 7 pictures .* are not 2×3 .*: 'a/odd.png' 4×5; give --resize 2x3"):
        load_data(str(tmp_path))
    images = load_data(str(tmp_path), resize=(4, 6))
    assert images.x.shape == (7, 1, 4, 6)
    assert (images.x[-1] * 255).allclose(torch.tensor(7.0))


def test_shrinking_averages(tmp_path: Path) -> None:
    path = save(tmp_path / "x.png", picture("L", [0, 0, 255, 255] * 4, size=(4, 4)))
    # Bilinear with its support widened by 2 weighs the four columns 3 3 1 1 over 8 on the left: here 3/7 3/7 1/7.
    assert read_picture(path, 1, (1, 2))[0] == pytest.approx(np.array([[1 / 7, 6 / 7]]), abs=1e-6)


@pytest.mark.parametrize("side", [8_500, 100_000])
def test_image_bomb_is_refused_before_it_is_decoded(tmp_path: Path, side: int) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(png_bytes(side, side, 8, 0, b"\0" * 100))
    with pytest.raises(InputError, match=r"more than the cap of 67,108,864.*image bomb"):
        load_data(str(tmp_path))


def test_text_bomb_in_a_picture_is_refused(tmp_path: Path) -> None:
    whole = png_bytes(1, 1, 8, 0, b"\0\0")
    text = b"zTXtcomment\0\0" + zlib.compress(bytes(50 * 2**20), 9)
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(whole[:33] + chunk + whole[33:])
    with pytest.raises(InputError, match=r"x\.png"):
        load_data(str(tmp_path))


def test_more_than_memory_holds_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbered(tmp_path)
    monkeypatch.setattr("faultlight.data.formats.folder.MOST_BYTES", 4 * 6 * 5)
    with pytest.raises(InputError, match="take fewer with --n"):
        load_data(str(tmp_path))
    assert len(load_data(str(tmp_path), n=5)) == 5


def test_formats_that_run_other_programs_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    with pytest.raises(InputError, match="is no picture"):
        load_data(str(tmp_path))


HOSTILE = ["<script>alert(1)<", "=cmd()", "\x1b[31mred", "\u202egnp", "a\nb", "' OR 1=1 --", "[bold]x", "%41"]


def test_hostile_names_are_data(tmp_path: Path) -> None:
    for name in HOSTILE:
        grey(tmp_path / name / f"{name}.png", 1)
    images = load_data(str(tmp_path))
    assert set(images.classes) == set(HOSTILE)
    (tmp_path / HOSTILE[2] / "\x1b[2J.png").write_bytes(b"")
    with pytest.raises(InputError) as error:
        load_data(str(tmp_path))
    assert "\x1b" not in str(error.value)
    assert "\\x1b[2J.png" in str(error.value)
    (note,) = load_data(str(tmp_path), skip_bad=True).notes
    assert "\x1b" not in note


@pytest.mark.skipif(os.name == "nt", reason="file names are text on Windows")
def test_names_that_are_not_utf_8_can_be_written_to_records(tmp_path: Path) -> None:
    grey(tmp_path / os.fsdecode(b"caf\xe9") / "x.png", 1)
    grey(tmp_path / "café" / "x.png", 1)
    classes = load_data(str(tmp_path)).classes
    assert set(classes) == {"café", "caf\\xe9"}
    assert all(name.encode() for name in classes)
