"""Projections on windows of the images: a unit that sees little of an image needs no more of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from faultlight.data.images import Images
from faultlight.errors import InputError
from faultlight.models.subject import Subject
from faultlight.views._field import Field
from faultlight.views._project import Backward, Units, project

# Windows of more than this share of an image save less than they cost; so do windows for a handful of units.
LARGEST_SHARE, FEWEST = 0.6, 32
# Units on which windows and whole images are compared, and how far projections may lie apart, of the largest.
SAMPLE, TOLERANCE = 8, 1e-4


@dataclass(frozen=True)
class Windows:
    """Where a window is cut out of the image of each unit.

    Args:
        top: its first row, shape (r,).
        left: its first column, shape (r,).
        height: rows of every window.
        width: columns of every window.
        position: the unit's place in the maps of the window, shape (r,).
    """

    top: Int64[Tensor, " r"]
    left: Int64[Tensor, " r"]
    height: int
    width: int
    position: Int64[Tensor, " r"]

    def take(self, rows: Int64[Tensor, " k"]) -> Windows:
        """Return the windows of some of the units."""
        return replace(self, top=self.top[rows], left=self.left[rows], position=self.position[rows])


def project_units(
    subject: Subject, images: Images, layer: str, units: Units, fields: tuple[Field, Field], backward: Backward
) -> Float32[Tensor, "r c h w"]:
    """Return what `project` does, from windows of the images where the units see little and that gives the same.

    A window holds the receptive field and begins at a multiple of the layer's stride, so that each unit in it stands on
    the same pixels; its false borders lie outside of what the unit sees. A sample of the units, the outermost among
    them, is projected both ways first; a net that takes no smaller images, or answers otherwise, is given whole ones.

    Args:
        subject: the model.
        images: the images that the units are seen on.
        layer: the layer's name.
        units: what is kept, one position each.
        fields: the layer's receptive fields, by rows and by columns.
        backward: how the signal goes back.
    """
    windows = windows_of(images.shape, fields, units)
    if windows is None or not _agree(subject, images, layer, units, windows, backward):
        return project(subject, images, layer, units, backward)
    return _through(subject, images, layer, units, windows, backward)


def windows_of(shape: tuple[int, int, int], fields: tuple[Field, Field], units: Units) -> Windows | None:
    """Return the windows of some units, or None where they would save nothing."""
    rows, columns = fields
    if len(units) < FEWEST or units.position.min() < 0 or units.channel.min() < 0:
        return None
    row, column = units.position // len(columns.first), units.position % len(columns.first)
    (top, height), (left, width) = _along(rows, row, shape[1]), _along(columns, column, shape[2])
    if height * width > LARGEST_SHARE * shape[1] * shape[2]:
        return None
    # The maps of a window are as wide as its pixels leave of the image's own.
    across = len(columns.first) - (shape[2] - width) // columns.stride
    position = (row - top // rows.stride) * across + column - left // columns.stride
    return Windows(top, left, height, width, position)


def _along(field: Field, place: Tensor, side: int) -> tuple[Tensor, int]:
    """Return where windows begin along an axis, and how long they are: as much shorter than the side as strides go."""
    stride = field.stride
    length = side - max(0, side - field.size - stride + 1) // stride * stride
    return (field.first[place] // stride * stride).clamp(max=side - length), length


def _agree(subject: Subject, images: Images, layer: str, units: Units, windows: Windows, backward: Backward) -> bool:
    outermost = [int(extreme(edge)) for edge in (windows.top, windows.left) for extreme in (torch.argmin, torch.argmax)]
    sample = torch.tensor(sorted({*outermost, *range(0, len(units), -(-len(units) // SAMPLE))}))
    whole = project(subject, images, layer, units.take(sample), backward)
    try:
        found = _through(subject, images, layer, units.take(sample), windows.take(sample), backward)
    except (InputError, IndexError):
        return False
    return float((whole - found).abs().max()) <= TOLERANCE * float(whole.abs().max())


def _through(
    subject: Subject, images: Images, layer: str, units: Units, windows: Windows, backward: Backward
) -> Tensor:
    down, across = torch.arange(windows.height)[:, None], torch.arange(windows.width)
    rows, columns = windows.top[:, None, None] + down, windows.left[:, None, None] + across
    of = images.take(units.image)
    row = torch.arange(len(units))
    place = row[:, None, None], slice(None), rows, columns
    part = replace(of, x=of.x[place].permute(0, 3, 1, 2))
    inside = project(subject, part, layer, Units(row, units.channel, windows.position), backward)
    projections = torch.zeros(len(units), *images.shape)
    projections[place] = inside.permute(0, 2, 3, 1)
    return projections
