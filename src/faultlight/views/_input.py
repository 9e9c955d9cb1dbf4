"""What every view asks of its input, and how it shows some of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from faultlight.data.images import Images, check_images
from faultlight.errors import InputError
from faultlight.models.subject import Subject


def check_input(subject: Subject, images: Images) -> None:
    """Refuse images that the subject cannot be asked about.

    Raises:
        InputError: no images, bad pixels or labels, or labels beyond the subject's classes.
    """
    check_images(images)
    if int(images.y.max()) >= subject.classes:
        raise InputError(
            f"{images.name!r} has the label {int(images.y.max())} where the model {subject.name!r} has "
            f"{subject.classes} classes (0 … {subject.classes - 1}); choose other data or change its last layer."
        )


def check_finite(values: Tensor, ids: Tensor, what: str) -> None:
    """Refuse numbers that are NaN or infinite, naming what they are and on which images.

    Args:
        values: one row an image, shape (n, …).
        ids: the images' ids, shape (n,).
        what: what the values are, in the plural, as a sentence begins.

    Raises:
        InputError: some value is not finite.
    """
    bad = ids[~torch.isfinite(values.reshape(len(values), -1)).all(1).cpu()]
    if len(bad):
        shown = ", ".join(str(int(i)) for i in bad[:10]) + (", …" if len(bad) > 10 else "")
        raise InputError(
            f"{what} hold NaN or infinity on {len(bad)} images (ids {shown}); repair the model or leave them out."
        )


def with_label(images: Images, label: int | None) -> Images:
    """Return the images of one class, or all of them where no class is named.

    Raises:
        InputError: there is no such class, or none of the images belongs to it.
    """
    if label is None:
        return images
    if not 0 <= label < len(images.classes):
        raise InputError(
            f"the label {label} is no class of {images.name!r}; choose one of 0 … {len(images.classes) - 1}."
        )
    found = images.take(images.y == label)
    if not len(found):
        present = ", ".join(str(one) for one in sorted(set(images.y.tolist())))
        raise InputError(
            f"none of the {len(images)} images is of class {label}; take more images, or one of the classes {present}."
        )
    return found


def picture(pixels: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Return an image (c, h, w) as it is drawn: (h, w, 3) for RGB, otherwise (h, w), the mean over the channels."""
    pixels = pixels.detach().cpu().float()
    drawn = pixels.permute(1, 2, 0) if len(pixels) == 3 else pixels.mean(0)
    return drawn.numpy()


def listing(lines: Sequence[str], limit: int = 20) -> str:
    """Return lines as a text of at most `limit` lines, saying how many were left out."""
    rest = [f"… and {len(lines) - limit} more, in the arrays"] if len(lines) > limit else []
    return "\n".join([*lines[:limit], *rest])
