"""CIFAR-10's pickled batches: read exactly, without running anything that a file asks for."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_files import batch_bytes
from faultlight.cli import main
from faultlight.data.batches import read_batch, read_pickle
from faultlight.data.formats.cifar10 import Cifar10
from faultlight.data.source import Request
from faultlight.errors import InputError

VALUES = (np.arange(4 * 3072) % 251).astype(np.uint8).reshape(4, 3072)
LABELS = [3, 0, 9, 3]


class Evil:
    """Unpickled in the ordinary way, it makes a folder."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.canary),)


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_reads_hand_built_python_2_pickle(tmp_path: Path) -> None:
    batch = read_batch(write(tmp_path / "batch", batch_bytes(VALUES, LABELS)), 10)
    assert np.array_equal(batch.values, VALUES)
    assert batch.labels.tolist() == LABELS
    assert batch.labels.dtype == np.int64


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("key", [str, str.encode], ids=["text", "bytes"])
def test_reads_what_python_3_pickles(tmp_path: Path, protocol: int, order: Any, key: Any) -> None:
    content = {key("data"): np.array(VALUES, order=order), key("labels"): LABELS, key("filenames"): ["a.png"]}
    batch = read_batch(write(tmp_path / "batch", pickle.dumps(content, protocol)), 10)
    assert np.array_equal(batch.values, VALUES)
    assert batch.labels.tolist() == LABELS


@pytest.mark.parametrize("protocol", range(6))
def test_foreign_global_is_refused_and_nothing_runs(tmp_path: Path, protocol: int) -> None:
    content = pickle.dumps({b"data": Evil(tmp_path / "canary"), b"labels": LABELS}, protocol)
    with pytest.raises(InputError, match=r"foreign global '(posix|nt)\.mkdir'.*nothing was executed"):
        read_batch(write(tmp_path / "batch", content), 10)
    assert not (tmp_path / "canary").exists()
    pickle.loads(content)  # the same bytes do run code where nobody looks
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"(S'canary'\nios\nmkdir\n.",  # INST
        b"(cos\nmkdir\nS'canary'\no.",  # OBJ
        b'cbuiltins\neval\n(S\'__import__("os").mkdir("canary")\'\ntR.',
        b"cnumpy.core.multiarray\nscalar\n.",
        b"cnumpy\nload\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x16ndarray.__init__.mkdirs\x93.",  # a path of attributes
        b"Pmkdir canary\n.",  # a persistent id
        b"\x82\x01.",  # an extension code
        b"c_codecs\nencode\n(S'canary'\nS'rot13'\ntR.",  # a codec that no batch needs
        b"cnumpy\nndarray\n(I9\ntR.",  # an array without its bytes
        b"cnumpy.core.multiarray\n_reconstruct\n}S'x'\nI1\nsb.",  # an attempt to change an admitted global
        b"cnumpy.core.multiarray\n_reconstruct\n(N}S'_role'\nS'encode'\nstb.",
        b"cnumpy.core.multiarray\n_reconstruct\n(tR(I1\n(I2\nt(S'a'\ntI0\nS'bb'\ntb.",  # no dtype
        b"\x80\x02r\xff\xff\xff\x7f.",  # a memo index of two thousand million
        b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7f.",  # a byte array of 2**63 - 1 bytes
        b"<!DOCTYPE html><html></html>",
        b"",
        b"\x80",
    ],
)
def test_hostile_or_damaged_pickles_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "batch", content)
    with pytest.raises(InputError, match="batch"):
        read_pickle(path)
    assert not (tmp_path / "canary").exists()


def test_web_page_is_called_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="web page"):
        read_pickle(write(tmp_path / "batch", b"<html>moved</html>"))


def test_a_data_set_with_a_foreign_global_is_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_small_set(tmp_path / "small", list(range(10)))
    write(folder / "data_batch_1", pickle.dumps({b"data": Evil(tmp_path / "canary")}, 2))
    assert main(["data", "check", str(folder)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert "mkdir" in printed.err
    assert not (tmp_path / "canary").exists()


def test_object_arrays_and_wrong_types_are_refused(tmp_path: Path) -> None:
    floats = pickle.dumps({"data": VALUES.astype(np.float32), "labels": LABELS}, 4)
    with pytest.raises(InputError, match="an array of 'f4', expected unsigned bytes"):
        read_batch(write(tmp_path / "batch", floats), 10)
    objects = pickle.dumps({"data": np.array([None, 1], dtype=object), "labels": LABELS}, 4)
    with pytest.raises(InputError, match="an array of 'O8', expected unsigned bytes"):
        read_batch(write(tmp_path / "batch", objects), 10)


@pytest.mark.parametrize(
    ("values", "labels", "message"),
    [
        (VALUES, LABELS[:3], "holds 4 images but 3 labels: expected 4"),
        (VALUES[:, :100], LABELS, r"expected \(n, 3072\) bytes, found \(4, 100\)"),
        (VALUES, [3, 0, 10, 3], r"holds the label 10: expected 0 … 9"),
        (VALUES, [3, 0, -1, 3], r"holds the label -1: expected 0 … 9"),
    ],
)
def test_counts_and_labels_are_checked(tmp_path: Path, values: np.ndarray, labels: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_batch(write(tmp_path / "batch", batch_bytes(values, labels)), 10)


def test_array_whose_bytes_do_not_fill_its_shape_is_refused(tmp_path: Path) -> None:
    content = batch_bytes(VALUES, LABELS).replace(b"J\x04\0\0\0J", b"J\x05\0\0\0J", 1)
    with pytest.raises(InputError, match="cannot reshape"):
        read_batch(write(tmp_path / "batch", content), 10)


def test_absent_keys_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no 'labels'"):
        read_batch(write(tmp_path / "batch", pickle.dumps({"data": VALUES})), 10)
    with pytest.raises(InputError, match="holds a list where a batch is a dict"):
        read_batch(write(tmp_path / "batch", pickle.dumps([1])), 10)


def write_small_set(folder: Path, labels: list[int]) -> Path:
    folder.mkdir()
    for number in range(6):
        values = np.full((10, 3072), number, dtype=np.uint8)
        values[:, 1024:] += 100  # green and blue
        name = f"data_batch_{number}" if number else "test_batch"
        (folder / name).write_bytes(batch_bytes(values, labels))
    return folder


def test_set_of_small_batches(tmp_path: Path) -> None:
    source = Cifar10(held_out=10, batch=10)
    path = str(write_small_set(tmp_path / "small", list(range(10))))
    test = source.load(Request(path, "test"))
    assert test.x.shape == (10, 3, 32, 32)
    assert torch.equal(test.x[0, :, 0, 0], torch.tensor([0.0, 100 / 255, 100 / 255]))
    train, validation = source.load(Request(path, "train")), source.load(Request(path, "validation"))
    assert (len(train), len(validation)) == (40, 10)
    assert sorted([*train.ids.tolist(), *validation.ids.tolist()]) == list(range(50))
    batch_of = (train.x[:, 0, 0, 0] * 255).round().int().tolist()
    assert batch_of == [1 + position // 10 for position in train.ids.tolist()]


def test_set_must_have_the_right_counts(tmp_path: Path) -> None:
    path = str(write_small_set(tmp_path / "small", list(range(10))))
    with pytest.raises(InputError, match=r"holds 10 images: expected 10,000"):
        Cifar10().load(Request(path))
    uneven = str(write_small_set(tmp_path / "uneven", [0, 0, *range(2, 10)]))
    with pytest.raises(InputError, match=r"expected 1 images of each class, found 2, 0, 1"):
        Cifar10(batch=10).load(Request(uneven))
    (tmp_path / "small" / "data_batch_3").unlink()
    with pytest.raises(InputError, match=r"data_batch_3' could not be read"):
        Cifar10(batch=10).load(Request(path, "train"))
