"""`load_data`: one door for every format; the figures of the real sets."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from faultlight.data import formats
from faultlight.data.describe import channel_statistics
from faultlight.data.formats.cifar10 import CIFAR10
from faultlight.data.formats.mnist import MNIST
from faultlight.data.idx import find_idx, open_plain
from faultlight.data.load import find_source, load_data, sources
from faultlight.data.source import Request, Source, parse_size
from faultlight.errors import InputError


def test_every_file_of_the_folder_is_a_format() -> None:
    files = [path.stem for path in Path(formats.__path__[0]).glob("[!_]*.py")]
    assert sorted(sources()) == sorted(files)
    assert len(files) == 6
    assert all(isinstance(source, Source) for source in sources().values())


def test_digits_are_scikit_learns_over_16() -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = load_data("digits", "test")
    assert torch.equal(images.x[:, 0], torch.from_numpy(digits.images[1437:]).float() / 16)
    assert images.y.tolist() == digits.target[1437:].tolist()
    assert images.ids.tolist() == list(range(1437, 1797))
    assert images.classes == tuple("0123456789")
    assert (images.name, images.split, images.notes) == ("digits", "test", ())


def test_digits_splits_are_complete_and_apart() -> None:
    parts = [load_data("digits", split) for split in ("train", "validation", "test")]
    assert [len(part) for part in parts] == [1257, 180, 360]
    assert sorted(position for part in parts for position in part.ids.tolist()) == list(range(1797))
    both = load_data("digits", "train+validation")
    assert torch.equal(both.x[parts[0].ids], parts[0].x)
    other = load_data("digits", "validation", split_seed=1)
    assert other.ids.tolist() != parts[1].ids.tolist()


def test_first_n_and_what_is_noted_of_them() -> None:
    whole = load_data("digits")
    first = load_data("digits", n=7)
    assert torch.equal(first.x, whole.x[:7])
    assert first.notes == ()
    assert load_data("digits", n=1000).notes == ("1,000 images were asked for; the test split of 'digits' has 360.",)
    assert len(set(whole.y[:20].tolist())) == 9
    assert load_data("digits", n=20).notes == ("the first 20 images show 9 of 10 classes.",)


def test_what_is_unknown_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"named 'mnits'; did you mean 'mnist'\? known: cifar10, digits, mnist"):
        load_data("mnits")
    with pytest.raises(InputError, match=r"no split named 'tset'; did you mean 'test'\?"):
        load_data("digits", "tset")
    with pytest.raises(InputError, match="must be at least 1, not 0"):
        load_data("digits", n=0)
    with pytest.raises(InputError, match=r"nothing at .* can be read as images; known: .*class folders"):
        load_data(str(tmp_path))


def test_a_name_wins_over_a_folder_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    assert len(load_data("digits")) == 360


@pytest.mark.parametrize(("text", "size"), [("32", (32, 32)), ("24x48", (24, 48)), ("24×48", (24, 48))])
def test_sizes_are_parsed(text: str, size: tuple[int, int]) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "0x4", "-3", "3x4x5", "big"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="write it like 32x32"):
        parse_size(text)


def test_channel_statistics_against_numpy() -> None:
    x = torch.rand(5000, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    mean, std = channel_statistics(x)
    assert mean == pytest.approx(x.double().numpy().mean((0, 2, 3)).tolist(), rel=1e-12)
    assert std == pytest.approx(x.double().numpy().std((0, 2, 3)).tolist(), rel=1e-12)


def test_real_mnist(real_data: Path) -> None:
    source = find_source("mnist")
    assert source.splits(Request("mnist")) == ("train", "validation", "test")
    test, validation = load_data("mnist", "test"), load_data("mnist", "validation")
    assert (len(test), len(validation), test.x.shape[1:]) == (10_000, 5_000, (1, 28, 28))
    assert test.y[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert torch.bincount(test.y).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    train = load_data("mnist", "train")
    assert sorted([*train.ids.tolist(), *validation.ids.tolist()]) == list(range(60_000))
    mean, std = channel_statistics(torch.cat([train.x, validation.x]))
    assert mean == pytest.approx([0.1307], abs=5e-5)
    assert std == pytest.approx([0.3081], abs=5e-5)


def test_real_mnist_has_the_published_content(real_data: Path) -> None:
    for name, expected in MNIST.md5:
        path = find_idx(real_data / "mnist", name)
        assert path is not None
        with open_plain(path) as stream:
            assert hashlib.md5(stream.read()).hexdigest() == expected


def test_real_cifar10(real_data: Path) -> None:
    whole = load_data("cifar10", "train+validation")
    assert whole.x.shape == (50_000, 3, 32, 32)
    assert torch.bincount(whole.y).tolist() == [5_000] * 10
    mean, std = channel_statistics(whole.x)
    assert mean == pytest.approx([0.4914, 0.4822, 0.4465], abs=5e-5)
    assert std == pytest.approx([0.2470, 0.2435, 0.2616], abs=5e-5)
    assert (CIFAR10.mean, CIFAR10.std) == ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    validation = load_data("cifar10", "validation")
    assert torch.equal(whole.x[validation.ids], validation.x)
    assert len(validation) == 10_000
    train = load_data("cifar10", "train")
    assert len(train) == 40_000
    assert np.intersect1d(train.ids.numpy(), validation.ids.numpy()).size == 0


def test_real_cifar10_test_split_is_the_file(real_data: Path) -> None:
    test = load_data("cifar10", "test")
    assert torch.bincount(test.y).tolist() == [1_000] * 10
    assert test.ids.tolist() == list(range(10_000))
    assert test.classes[:3] == ("airplane", "automobile", "bird")
