"""Whether a net ties the same part of different images together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int8, Int64
from numpy.typing import NDArray
from torch import Tensor

from faultlight import rng
from faultlight.data.images import Images
from faultlight.errors import InputError
from faultlight.models.subject import Subject
from faultlight.settings import check_settings
from faultlight.views._chart import Curve, Dots, ends_of
from faultlight.views._input import check_input, picture, with_label
from faultlight.views._result import BLANK, Panel, ViewResult
from faultlight.views.activations import all_outputs
from faultlight.views.listening import leaves_of, module_named
from faultlight.views.sliding import Grid

# Covered images drawn: so many images by so many parts.
MOST_IMAGES, MOST_PARTS = 4, 3
# Convolutions by tiles let a pixel change the last bits of features that do not depend on it.
_ROUNDING = 1e-6

# First row and first column of the patch: parts × images × 2.
Corners = Int64[Tensor, "parts n 2"]


@dataclass(frozen=True)
class Correspondence:
    """The same part covered in several images: do the features of a layer change by the same signs?

    With ε_i = f(x_i) − f(x̃_i), x̃_i the image with the part covered: H_ij is the share of features in which sign(ε_i)
    differs from sign(ε_j), and Δ_l = Σ over i ≠ j of H_ij. Shown is the mean of H over the pairs i < j, which is
    Δ_l / (n (n − 1)), with its standard deviation, beside the same for boxes at random places, another in each image.
    A lower mean for the part than for random boxes says that the layer ties the parts together.

    Where a part lies at the same place in every image, the features that do not see that place change in none of them,
    and agree for that reason: read the layers whose fields cover most of the image, or give corners of your own. A
    change below 1e-6 of the layer's largest activation is rounding and has the sign 0.

    Arrays (layers in the order of `facts["layers"]`): `distance` and `deviation` (layers, parts), over the pairs;
    `random_distance` and `random_deviation` (layers, draws); `corners` (parts, n, 2) and `random_corners` (draws, n,
    2), first row and column of each box; `x` (n, c, h, w) and `y` (n,).

    Args:
        patch: side of the square box in pixels; a quarter of the shorter side when left out.
        label: only images of this class; all when left out.
        layer: only this layer; every layer when left out.
        corners: for each part, each image's (first row, first column) of the box; when left out, the parts are the
            places of a grid of boxes side by side, the same in every image.
        random: how many draws of random boxes.
        fill: the pixel value of the box, in [0, 1].
        seed: of the random boxes.

    Raises:
        InputError: fewer than two images (of the class), a box outside of the image, a number out of range, an unknown
            layer, or activations that are NaN or infinite.

    Source: Zeiler and Fergus 2014, "Visualizing and understanding convolutional networks", section 4.3 and table 1.
    Departures: H is divided by the number of features; the parts are places, where the paper's are eyes and noses.
    """

    patch: int | None = None
    label: int | None = None
    layer: str | None = None
    corners: tuple[tuple[tuple[int, int], ...], ...] = ()
    random: int = 10
    fill: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        check_settings(self)

    def __call__(self, subject: Subject, images: Images) -> ViewResult:
        """Return the distances of every layer for every part."""
        check_input(subject, images)
        images = with_label(images, self.label)
        if len(images) < 2:
            raise InputError(f"signs are compared between images, and there is {len(images)}; give at least 2.")
        grid = self._grid(images)
        placed, drawn = self._corners(images, grid), _drawn(images, grid, self.random, self.seed)
        modules = list(leaves_of(subject)) if self.layer is None else [module_named(subject, self.layer)]
        clean = all_outputs(subject, images, modules, self.layer)
        mean, deviation, still = self._distances(subject, images, clean, modules, torch.cat([placed, drawn]))
        parts = len(placed)
        arrays = {
            "distance": mean[:, :parts],
            "deviation": deviation[:, :parts],
            "random_distance": mean[:, parts:],
            "random_deviation": deviation[:, parts:],
        }
        arrays = {name: values.float() for name, values in arrays.items()}
        arrays |= {"corners": placed, "random_corners": drawn, "x": images.x.cpu(), "y": images.y.cpu()}
        numbers = {name: values.numpy() for name, values in arrays.items()}
        facts = {"layers": list(clean), "patch": grid.patch, "fill": self.fill, "ids": images.ids.tolist()}
        panels = _drawing(images, numbers, grid.patch, self.fill, list(clean))
        words = _words(numbers, list(clean), len(images), grid.patch) + _said_of(still, list(clean))
        return ViewResult("correspondence", numbers, words, panels, _columns(numbers), facts=facts)

    def _grid(self, images: Images) -> Grid:
        if self.random < 1 or not (math.isfinite(self.fill) and 0 <= self.fill <= 1):
            raise InputError(f"random must be at least 1 and fill in [0, 1], not {self.random} and {self.fill}.")
        height, width = images.shape[1:]
        patch = max(1, min(height, width) // 4) if self.patch is None else self.patch
        return Grid(height, width, patch, max(1, patch))

    def _corners(self, images: Images, grid: Grid) -> Corners:
        if not self.corners:
            return torch.tensor(grid.corners)[:, None].repeat(1, len(images), 1)
        if {len(part) for part in self.corners} != {len(images)}:
            raise InputError(
                f"each part needs a corner for each of the {len(images)} images, not "
                f"{', '.join(str(len(part)) for part in self.corners)}."
            )
        corners = torch.tensor(self.corners)
        room = torch.tensor([grid.height - grid.patch, grid.width - grid.patch])
        if bool((corners < 0).any() or (corners > room).any()):
            raise InputError(
                f"some corner puts the box of {grid.patch} × {grid.patch} outside of the image; choose rows in 0 … "
                f"{int(room[0])} and columns in 0 … {int(room[1])}."
            )
        return corners

    def _distances(
        self, subject: Subject, images: Images, clean: dict[str, Tensor], modules: list[str], corners: Corners
    ) -> tuple[Float64[Tensor, "layers parts"], Float64[Tensor, "layers parts"], list[str]]:
        """Return mean and deviation over the pairs, layer by layer and part by part, and the layers no box changes."""
        means, deviations = [], []
        still = set(clean)
        for part in corners:
            hidden = all_outputs(
                subject, covered(images, part, self._grid(images).patch, self.fill), modules, self.layer
            )
            signs = {name: changes(clean[name], hidden[name]) for name in clean}
            still -= {name for name, sign in signs.items() if sign.any()}
            pairs = [sign_distances(sign) for sign in signs.values()]
            means.append(torch.stack([pair.mean() for pair in pairs]))
            deviations.append(torch.stack([pair.std(correction=0) for pair in pairs]))
        return torch.stack(means, 1), torch.stack(deviations, 1), [name for name in clean if name in still]


def covered(images: Images, corners: Int64[Tensor, "n 2"], patch: int, fill: float) -> Images:
    """Return images with a square box of the fill at each one's own corner."""
    x = images.x.clone()
    for row, (top, left) in enumerate(corners.tolist()):
        x[row, :, top : top + patch, left : left + patch] = fill
    return Images(x, images.y, images.ids, images.classes, images.name)


def changes(before: Float32[Tensor, "n ..."], after: Float32[Tensor, "n ..."]) -> Int8[Tensor, "n f"]:
    """Return the signs of before − after, 0 for what rounding alone may have changed."""
    change = (before - after).flatten(1)
    return change.sign().where(change.abs() > _ROUNDING * before.abs().max(), 0).to(torch.int8)


def sign_distances(signs: Int8[Tensor, "n f"]) -> Float64[Tensor, " pairs"]:
    """Return for every pair of rows i < j the share of places in which their signs (−1, 0 or 1) differ."""
    alike = torch.zeros(len(signs), len(signs))
    for sign in (-1, 0, 1):
        same = (signs == sign).float()
        alike += same @ same.T
    above = torch.ones(len(signs), len(signs), dtype=torch.bool).triu(1)
    return 1 - alike[above].double() / signs.shape[1]


def _drawn(images: Images, grid: Grid, draws: int, seed: int) -> Corners:
    """Return random corners, a function of the seed, the image's id and the draw alone."""
    room = torch.tensor([grid.height - grid.patch + 1, grid.width - grid.patch + 1])
    ids, key = images.ids.cpu(), rng.key(seed, "correspondence")
    parts = [rng.uniform(key, ids, torch.full_like(ids, draw), (2,)) for draw in range(draws)]
    return (torch.stack(parts) * room).long()


def _words(arrays: dict[str, NDArray[Any]], layers: list[str], n: int, patch: int) -> str:
    parts, draws = arrays["distance"].shape[1], arrays["random_distance"].shape[1]
    lines = [
        f"Share of features whose signs differ between two of {n} images, when a box of {patch} × {patch} is covered:",
        f"at the same part ({parts} parts), and at random places ({draws} draws); mean ± deviation over the pairs.",
    ]
    wide = max(map(len, layers))
    for row, layer in enumerate(layers):
        cells = [
            f"{arrays[name][row].mean():.3f} ± {arrays[other][row].mean():.3f}"
            for name, other in (("distance", "deviation"), ("random_distance", "random_deviation"))
        ]
        lines.append(f"{layer.ljust(wide)}  same {cells[0]}  random {cells[1]}")
    return "\n".join(lines)


def _said_of(still: list[str], layers: list[str]) -> str:
    """Return a sentence about layers in which nothing changes, whatever is covered."""
    if not still:
        return ""
    where = "any layer" if len(still) == len(layers) else ", ".join(still)
    return f"\nNo box in any image changes a feature of {where}: a distance of 0 there ties nothing together."


def _drawing(
    images: Images, arrays: dict[str, NDArray[Any]], patch: int, fill: float, layers: list[str]
) -> tuple[Panel | Dots, ...]:
    same, other = arrays["distance"].mean(1), arrays["random_distance"].mean(1)
    curves = (Curve("same part", same), Curve("random boxes", other))
    random, corners = torch.from_numpy(arrays["random_corners"]), torch.from_numpy(arrays["corners"])
    chosen = np.linspace(0, len(corners) - 1, _columns(arrays) - 1).astype(int)
    title = "share of signs that differ between two images, layer by layer"
    panels: list[Panel | Dots] = [Dots(title, tuple(layers), curves, *ends_of(same, other))]
    for draw in range(min(_columns(arrays), len(random))):
        seen = covered(images, random[draw], patch, fill)
        panels.append(Panel(f"a random box in image {int(images.ids[0])}", picture(seen.x[0])))
    panels += [BLANK] * (1 + _columns(arrays) - len(panels))
    parts = {part: covered(images, corners[part], patch, fill) for part in chosen}
    for row in range(min(MOST_IMAGES, len(images))):
        title = f"image {int(images.ids[row])}: {images.classes[int(images.y[row])]}"
        panels.append(Panel(title, picture(images.x[row])))
        panels += [Panel(f"part {part} covered", picture(seen.x[row])) for part, seen in parts.items()]
    return tuple(panels)


def _columns(arrays: dict[str, NDArray[Any]]) -> int:
    return 1 + min(MOST_PARTS, len(arrays["corners"]))
