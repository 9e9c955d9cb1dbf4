"""CIFAR-10, in the "python version" that its publisher offers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from faultlight.data.arrays import from_bytes, images_of
from faultlight.data.batches import Batch, read_batch
from faultlight.data.images import Images
from faultlight.data.places import locate
from faultlight.data.source import Download, Published, Request
from faultlight.data.splits import positions
from faultlight.errors import InputError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

CIFAR10 = Published(
    "cifar10",
    images=60_000,
    places=("cifar-10-batches-py", "cifar10/cifar-10-batches-py", "cifar10", "CIFAR10/cifar-10-batches-py", ""),
    downloads=(
        Download(
            "cifar-10-python.tar.gz",
            ("https://www.cs.toronto.edu/~kriz",),
            "c58f30108f718f92721af3b95e74349a",
            170_498_071,
        ),
    ),
    unpacked=2**28,
    md5=(
        ("data_batch_1", "c99cafc152244af753f735de768cd75f"),
        ("data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec"),
        ("data_batch_3", "54ebc095f3ab1f0389bbae665268c751"),
        ("data_batch_4", "634d18415352ddfa80567beed471001a"),
        ("data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb"),
        ("test_batch", "40351d587109b95175f43aff81a1287e"),
    ),
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
)


@dataclass(frozen=True)
class Cifar10:
    """Ten kinds of animals and vehicles, 32×32 colour, 60,000 images (Krizhevsky 2009).

    A local copy is known by its content: five batches and a test batch of 10,000 images each, 5,000 training and
    1,000 test images a class, in whatever order. The pickles are read without running their code.

    Args:
        held_out: number of the 50,000 training images drawn for validation.
        batch: number of images in each batch.
        published: where it comes from, and its checksums.
    """

    held_out: int = 10_000
    batch: int = 10_000
    published: Published = CIFAR10

    def holds(self, path: Path) -> bool:
        """Return whether a folder holds all six batches."""
        return all((path / name).is_file() for name, _ in self.published.md5)

    def splits(self, request: Request) -> tuple[str, ...]:
        """Return all three splits."""
        del request
        return ("train", "validation", "test")

    def load(self, request: Request) -> Images:
        """Return a split; ids are positions in the five training batches together, or in the test batch."""
        folder = locate(self, request)
        test = request.split == "test"
        names = ("test_batch",) if test else tuple(f"data_batch_{number}" for number in range(1, 6))
        batches = [self._read(folder / name) for name in names]
        labels = np.concatenate([each.labels for each in batches])
        _check_classes(folder, labels)
        pixels = np.concatenate([each.values for each in batches]).reshape(-1, 3, 32, 32)
        total = len(labels)
        ids = np.arange(total) if test else positions(request.split, total, None, self.held_out, request.split_seed)
        return images_of(from_bytes(pixels[ids]), labels[ids], ids.astype(np.int64), CLASSES, request)

    def _read(self, path: Path) -> Batch:
        batch = read_batch(path, len(CLASSES))
        if len(batch.labels) != self.batch:
            raise InputError(
                f"{str(path)!r} holds {len(batch.labels):,} images: expected {self.batch:,}; "
                "fetch it again with `faultlight data fetch cifar10`."
            )
        return batch


def _check_classes(folder: Path, labels: np.ndarray) -> None:
    counts = np.bincount(labels, minlength=len(CLASSES))
    if len(set(counts.tolist())) != 1:
        raise InputError(
            f"{str(folder)!r} is not CIFAR-10: expected {len(labels) // len(CLASSES):,} images of each class, "
            f"found {', '.join(map(str, counts))}."
        )
