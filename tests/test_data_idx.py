"""IDX files: read exactly, and refused with what was expected and what was found."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from data_files import digits_like, idx_bytes, write_idx_folder
from faultlight.data.idx import find_idx, read_idx
from faultlight.data.load import load_data
from faultlight.errors import InputError

# Two images of 2×3 pixels: 0 1 2 / 3 4 5 and 250 251 252 / 253 254 255.
TWO = bytes((0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 3)) + bytes((*range(6), *range(250, 256)))


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("content", [TWO, gzip.compress(TWO)], ids=["plain", "gzip"])
def test_reads_hand_built_bytes_by_content_whatever_the_name(tmp_path: Path, content: bytes) -> None:
    found = read_idx(write(tmp_path / "images", content), 3)
    assert found.values.tolist() == [[[0, 1, 2], [3, 4, 5]], [[250, 251, 252], [253, 254, 255]]]
    assert found.md5 == hashlib.md5(TWO).hexdigest()


@pytest.mark.parametrize(
    ("content", "expected", "found"),
    [
        (b"\0\0\x0d\x03" + TWO[4:], "0x00000803", "0x00000d03"),  # floats
        (b"\0\0\x08\x01" + TWO[4:], "0x00000803", "0x00000801"),  # labels where images are due
        (b"<!DOCTYPE html><html></html>", "0x00000803", "web page"),
        (b"", "0x00000803", "found 0x"),
        (TWO[:-1], "expected 12 bytes", "found 11"),
        (TWO + b"\0", "expected 12 bytes", "found more than 12"),
        (TWO[:9], "ends within its header", "9 bytes"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "above the cap", "announces"),
    ],
)
def test_says_what_was_expected_and_found(tmp_path: Path, content: bytes, expected: str, found: str) -> None:
    path = write(tmp_path / "images", content)
    with pytest.raises(InputError) as error:
        read_idx(path, 3)
    assert expected in str(error.value)
    assert found in str(error.value)
    assert str(path) in str(error.value)


def test_truncated_gzip_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "images.gz", gzip.compress(TWO)[:-9])
    with pytest.raises(InputError, match="could not be read"):
        read_idx(path, 3)


def test_decompression_bomb_is_read_no_further_than_announced(tmp_path: Path) -> None:
    # Its end is garbage, which whoever reads that far stumbles over.
    path = write(tmp_path / "images.gz", gzip.compress(TWO + bytes(2**24))[:-20] + b"garbage")
    with pytest.raises((OSError, EOFError, zlib.error)):
        gzip.decompress(path.read_bytes())
    with pytest.raises(InputError, match="found more than 12"):
        read_idx(path, 3)


@pytest.mark.parametrize("name", ["a-idx3-ubyte", "a-idx3-ubyte.gz", "a.idx3-ubyte", "a.idx3-ubyte.gz"])
def test_finds_every_spelling(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, b"")
    assert find_idx(tmp_path, "a-idx3-ubyte") == tmp_path / name


def test_folder_of_idx_files_is_a_data_set(tmp_path: Path) -> None:
    folder = write_idx_folder(tmp_path / "own", train=24, test=12)
    images = load_data(str(folder), "test")
    pixels, labels = digits_like(12, seed=2)
    assert torch.equal(images.x, torch.from_numpy(pixels[:, None]).float() / 255)
    assert images.y.tolist() == labels.tolist()
    assert images.ids.tolist() == list(range(12))
    train, validation = load_data(str(folder), "train"), load_data(str(folder), "validation")
    assert len(validation) == 2  # one in ten of 24
    assert sorted([*train.ids.tolist(), *validation.ids.tolist()]) == list(range(24))
    everything = load_data(str(folder), "train+validation")
    assert torch.equal(everything.x[train.ids], train.x)


def test_counts_of_images_and_labels_must_agree(tmp_path: Path) -> None:
    folder = write_idx_folder(tmp_path / "own", test=12)
    write(folder / "t10k-labels-idx1-ubyte", idx_bytes(np.zeros(11)))
    with pytest.raises(InputError, match="12 t10k images but 11 labels"):
        load_data(str(folder), "test")


def test_absent_part_is_named(tmp_path: Path) -> None:
    folder = write_idx_folder(tmp_path / "own")
    (folder / "train-images-idx3-ubyte").unlink()
    with pytest.raises(InputError, match="has no train-images-idx3-ubyte"):
        load_data(str(folder), "train")


def test_another_set_under_mnists_names_is_not_mnist(tmp_path: Path) -> None:
    write_idx_folder(tmp_path / "mnist")
    with pytest.raises(InputError, match="expected the MD5 2646ac647ad5339dbf082846283269ea"):
        load_data("mnist", "test", folder=tmp_path)
    with pytest.raises(InputError, match="is not the published train-images-idx3-ubyte"):
        load_data("mnist", "train", folder=tmp_path)
