"""MNIST."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from faultlight.data.formats.idx import load_idx
from faultlight.data.idx import find_idx
from faultlight.data.images import Images
from faultlight.data.places import locate
from faultlight.data.source import Download, Published, Request

_MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist", "https://storage.googleapis.com/cvdf-datasets/mnist")

MNIST = Published(
    "mnist",
    images=70_000,
    places=("mnist", "MNIST/raw", "MNIST", ""),
    downloads=(
        Download("train-images-idx3-ubyte.gz", _MIRRORS, "f68b3c2dcbeaaa9fbdd348bbdeb94873", 9_912_422),
        Download("train-labels-idx1-ubyte.gz", _MIRRORS, "d53e105ee54ea40749a09fcbcd1e9432", 28_881),
        Download("t10k-images-idx3-ubyte.gz", _MIRRORS, "9fb629c4189551a2d022fa330f9573f3", 1_648_877),
        Download("t10k-labels-idx1-ubyte.gz", _MIRRORS, "ec29112dd5afa0611ce80d1b7f02629c", 4_542),
    ),
    md5=(
        ("train-images-idx3-ubyte", "6bbc9ace898e44ae57da46a324031adb"),
        ("train-labels-idx1-ubyte", "a25bea736e30d166cdddb491f175f624"),
        ("t10k-images-idx3-ubyte", "2646ac647ad5339dbf082846283269ea"),
        ("t10k-labels-idx1-ubyte", "27ae3e4e09519cfbb04c329615203637"),
    ),
    mean=(0.1307,),
    std=(0.3081,),
)


@dataclass(frozen=True)
class Mnist:
    """Handwritten digits 0–9, 28×28 grey, 70,000 images (LeCun, Cortes and Burges 1998).

    A local copy is known by the MD5 of its uncompressed files, so it may be compressed in any way or not at all.

    Args:
        held_out: number of the 60,000 training images drawn for validation.
        published: where it comes from, and its checksums.
    """

    held_out: int = 5_000
    published: Published = MNIST

    def holds(self, path: Path) -> bool:
        """Return whether a folder holds all four files."""
        return all(find_idx(path, name) for name, _ in self.published.md5)

    def splits(self, request: Request) -> tuple[str, ...]:
        """Return all three splits."""
        del request
        return ("train", "validation", "test")

    def load(self, request: Request) -> Images:
        """Return a split; ids are positions in the training or the test file."""
        return load_idx(locate(self, request), request, held_out=self.held_out, known=dict(self.published.md5))
