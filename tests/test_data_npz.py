"""NumPy archives: bytes, floats, layouts and names; nothing pickled, nothing out of range."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from faultlight.data.load import find_source, load_data
from faultlight.data.source import Request
from faultlight.errors import InputError

BYTES = np.arange(6 * 3 * 4 * 5, dtype=np.uint8).reshape(6, 3, 4, 5)
LABELS = np.array([0, 1, 2, 2, 1, 0])


def save(path: Path, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return str(path)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return tmp_path / "set.npz"


def test_bytes_become_fractions_of_255(archive: Path) -> None:
    images = load_data(save(archive, x=BYTES, y=LABELS))
    assert torch.equal(images.x, torch.from_numpy(BYTES).float() / 255)
    assert images.y.tolist() == LABELS.tolist()
    assert images.ids.tolist() == list(range(6))
    assert images.classes == ("0", "1", "2")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_are_taken_as_they_are(archive: Path, dtype: Any) -> None:
    values = (BYTES / 256).astype(dtype)
    assert torch.equal(load_data(save(archive, images=values, labels=LABELS)).x, torch.from_numpy(values).float())


def test_channels_may_come_last_or_not_at_all(archive: Path) -> None:
    last = load_data(save(archive, x=BYTES.transpose(0, 2, 3, 1), y=LABELS))
    assert torch.equal(last.x, torch.from_numpy(BYTES).float() / 255)
    grey = load_data(save(archive, x=BYTES[:, 0], y=LABELS[:, None].astype(np.uint8)))
    assert torch.equal(grey.x, torch.from_numpy(BYTES[:, :1]).float() / 255)
    assert grey.y.tolist() == LABELS.tolist()


def test_arrays_stored_by_column_keep_their_meaning(archive: Path) -> None:
    images = load_data(save(archive, x=np.asfortranarray(BYTES), y=LABELS))
    assert torch.equal(images.x, torch.from_numpy(BYTES).float() / 255)


def test_splits_by_name(archive: Path) -> None:
    name = save(
        archive, x_train=BYTES, y_train=LABELS, x_val=BYTES[:2], y_val=LABELS[:2], x_test=BYTES[5:], y_test=LABELS[5:]
    )
    assert find_source(name).splits(Request(name)) == ("train", "validation", "test")
    assert load_data(name, "test").x.shape[0] == 1
    assert load_data(name, "train").ids.tolist() == [0, 1, 2, 3, 4, 5]
    assert load_data(name, "validation").ids.tolist() == [6, 7]
    everything = load_data(name, "train+validation")
    assert everything.ids.tolist() == list(range(8))
    assert torch.equal(everything.x[6:], load_data(name, "validation").x)
    assert load_data(name, "test").classes == ("0", "1", "2")  # though the test split shows one


def test_validation_is_drawn_where_it_has_no_arrays(archive: Path) -> None:
    name = save(archive, train_images=BYTES, train_labels=LABELS)
    train, validation = load_data(name, "train"), load_data(name, "validation")
    assert len(validation) == 1
    assert sorted([*train.ids.tolist(), *validation.ids.tolist()]) == list(range(6))
    assert find_source(name).splits(Request(name)) == ("train", "validation")
    with pytest.raises(InputError, match="has no test split"):
        load_data(name, "test")


def test_without_a_division_everything_is_test(archive: Path) -> None:
    name = save(archive, x=BYTES, y=LABELS)
    assert find_source(name).splits(Request(name)) == ("test",)
    with pytest.raises(InputError, match="has no train split"):
        load_data(name, "train")


def test_class_names_are_kept_as_they_are(archive: Path) -> None:
    names = ["</script>", "=cmd()", "\x1b[31mred"]
    assert load_data(save(archive, x=BYTES, y=LABELS, classes=np.array(names))).classes == tuple(names)
    assert load_data(save(archive, x=BYTES, y=LABELS, class_names=np.array([b"a", b"b", b"\xff"]))).classes == (
        "a",
        "b",
        "\\xff",
    )
    with pytest.raises(InputError, match="names a class twice"):
        load_data(save(archive, x=BYTES, y=LABELS, classes=np.array(["a", "a", "b"])))


@pytest.mark.parametrize("key", ["x", "y", "classes"])
def test_object_arrays_are_refused(archive: Path, key: str) -> None:
    arrays = {"x": BYTES, "y": LABELS, "classes": np.array(["a", "b", "c"])}
    arrays[key] = np.array([None, {}, "c"], dtype=object)
    with pytest.raises(InputError, match=rf"'{key}' of .* holds Python objects"):
        load_data(save(archive, **arrays))


def test_nan_and_infinity_are_named_by_id(archive: Path) -> None:
    values = (BYTES / 255).astype(np.float32)
    values[1, 0, 0, 0], values[4, 2, 3, 4] = np.nan, np.inf
    with pytest.raises(InputError, match=r"2 images .*NaN or infinity \(ids 1, 4\)"):
        load_data(save(archive, x=values, y=LABELS))


def test_ranges_other_than_0_to_1_are_shown_with_the_remedy(archive: Path) -> None:
    with pytest.raises(InputError, match=r"from 0 to 255 where \[0, 1\] is due; divide by 255"):
        load_data(save(archive, x=BYTES.astype(np.float32), y=LABELS))
    with pytest.raises(InputError, match=r"from -0\.5 to 0\.5 .*undo the normalisation"):
        load_data(save(archive, x=(BYTES / 255 - 0.5).astype(np.float32), y=LABELS))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": BYTES}, "due are x and y"),
        ({"x": BYTES, "y": LABELS[:5]}, r"shape \(6, 3, 4, 5\): expected 5 images"),
        ({"x": BYTES[:, 0, 0], "y": LABELS}, r"shape \(6, 5\): expected 6 images"),
        ({"x": BYTES[:, :2], "y": LABELS}, "tells no channels"),
        ({"x": BYTES[:, :, :, :3], "y": LABELS}, "tells no channels"),
        ({"x": BYTES.astype(np.int64), "y": LABELS}, "has type int64; save bytes"),
        ({"x": BYTES, "y": LABELS.astype(float)}, "type float64; labels are whole numbers"),
        ({"x": BYTES, "y": np.eye(6, dtype=int)}, r"shape \(6, 6\)"),
        ({"x": BYTES, "y": LABELS, "classes": np.array([1, 2, 3])}, "save a list of texts"),
        ({"x": BYTES, "y": LABELS, "classes": np.array(["a", "b"])}, "label 2 .* is outside 0 … 1"),
        ({"x": BYTES, "y": LABELS - 1}, "label -1"),
    ],
)
def test_what_does_not_fit_is_said(archive: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_data(save(archive, **arrays))


def npy(shape: str, body: bytes) -> bytes:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


def zipped(path: Path, **members: bytes) -> str:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members.items():
            opened.writestr(f"{name}.npy", content)
    return str(path)


def test_shape_that_the_bytes_do_not_fill_is_refused(archive: Path) -> None:
    labels = io.BytesIO()
    np.save(labels, LABELS)
    name = zipped(archive, x=npy("(1000000, 1000, 1000)", bytes(12)), y=labels.getvalue())
    with pytest.raises(InputError, match=r"expected 1,000,000,000,000 bytes, found 12"):
        load_data(name)


def test_bomb_is_refused_before_it_is_unpacked(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("faultlight.data.npz_file.MOST_BYTES", 100_000)
    name = zipped(archive, x=npy("(100, 40, 50)", bytes(200_000)), y=b"")
    assert archive.stat().st_size < 1_000
    with pytest.raises(InputError, match=r"unpacks to 200,\d+ bytes, above the cap of 100,000"):
        load_data(name)


@pytest.mark.parametrize("content", [b"<!DOCTYPE html>", b"", b"PK\x03\x04"])
def test_no_archive(archive: Path, content: bytes) -> None:
    archive.write_bytes(content)
    with pytest.raises(InputError, match=r"is no \.npz archive"):
        load_data(str(archive))


def test_truncated_archive_and_damaged_members(archive: Path) -> None:
    content = Path(save(archive, x=BYTES, y=LABELS)).read_bytes()
    archive.write_bytes(content[:-30])
    with pytest.raises(InputError, match=r"is no \.npz archive"):
        load_data(str(archive))
    start = content.index(BYTES.tobytes()[:100])
    archive.write_bytes(content[:start] + b"\xaa" * 50 + content[start + 50 :])
    with pytest.raises(InputError, match="is damaged"):
        load_data(str(archive))
    with pytest.raises(InputError, match="is damaged"):
        load_data(zipped(archive, x=b"no numpy array", y=b""))
