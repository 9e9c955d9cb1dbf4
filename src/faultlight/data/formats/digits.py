"""The handwritten digits that scikit-learn carries: always there, offline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from faultlight.data.arrays import images_of
from faultlight.data.images import Images
from faultlight.data.source import Published, Request
from faultlight.data.splits import positions

DIGITS = Published("digits", images=1_797)


@dataclass(frozen=True)
class Digits:
    """Handwritten digits 0–9, 8×8 grey, 1,797 images, inside scikit-learn (Alpaydin and Kaynak 1998).

    Pixels are counts 0 … 16 over 16. The last 360 images in file order are the test split; of the 1,437 before, 180
    are validation, by seed. Neighbours in the file resemble each other, so the end of the file is a harder and more
    honest test than a random draw (a support vector machine scores 95.8 % on it, about 99 % on a draw).

    Args:
        test: number of images at the end of the file that are the test split.
        held_out: number of images drawn from the rest for validation.
    """

    test: int = 360
    held_out: int = 180
    published: Published = DIGITS

    def holds(self, path: Path) -> bool:
        """Return False: this set is asked for by name."""
        del path
        return False

    def splits(self, request: Request) -> tuple[str, ...]:
        """Return all three splits."""
        del request
        return ("train", "validation", "test")

    def load(self, request: Request) -> Images:
        """Return a split; ids are positions among all 1,797 images."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        total = len(digits.target)
        if request.split == "test":
            ids = np.arange(total - self.test, total, dtype=np.int64)
        else:
            ids = positions(request.split, total - self.test, None, self.held_out, request.split_seed)
        x = torch.from_numpy(digits.images[ids, None].astype(np.float32)).div_(16)
        return images_of(x, digits.target[ids], ids, tuple("0123456789"), request)
