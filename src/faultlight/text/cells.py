"""Cells that keep track of something, found by correlation and confirmed on text they were not found on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from faultlight import rng
from faultlight.errors import InputError
from faultlight.text.features import features

_SHORTEST = 200
# A feature that marks fewer characters than this in a half has too little to correlate with.
_RAREST = 20


@dataclass(frozen=True)
class CellFinding:
    """The cell that goes best with a feature.

    Args:
        feature: what it goes with.
        layer: from 0.
        cell: from 0.
        found: Pearson's correlation on the first half of the text, where the cell was chosen.
        confirmed: the same cell's correlation on the second half.
        significant: whether |confirmed| passes the bound for chance, with the same sign.
    """

    feature: str
    layer: int
    cell: int
    found: float
    confirmed: float
    significant: bool


@dataclass(frozen=True)
class CellSearch:
    """What was found, and how easily chance would have found as much.

    Args:
        findings: the best cell of each feature, by |confirmed|, the highest first.
        bound: the |correlation| that chance passes anywhere, over all cells and features, in one search of twenty.
        tests: how many pairs of cell and feature were looked at.
        shifts: how many shifted copies of the features the bound was taken from.
        absent: features that the text shows too rarely, or all the time, to say anything.
        characters: of each half.
    """

    findings: tuple[CellFinding, ...]
    bound: float
    tests: int
    shifts: int
    absent: tuple[str, ...]
    characters: int


def find_cells(
    states: Float[Tensor, "layers t hidden"], text: str, *, shifts: int = 99, seed: int = 0, skip: int = 50
) -> CellSearch:
    """Return for each feature of a text the cell whose state goes with it best.

    The cell is the one with the largest |r| on the first half of the text; what counts is its r on the second. Both
    cells and features are slow, so neighbouring characters are no independent draws, and the usual p-value would be
    far too small. Chance is therefore measured: the features are shifted in time, around the end, by at least a tenth
    of the half, which leaves their own slowness as it is and breaks their bond with the cells. The bound is the 95th
    percentile, over shifts, of the largest |r| among all cells and all features, so it holds for all tests together.

    Source: the largest statistic over all tests, Westfall & Young 1993, "Resampling-Based Multiple Testing", section
    2.3; cells that keep track, Karpathy, Johnson & Li 2016, section 4.1, who found theirs by eye.

    Args:
        states: of each cell at each character.
        text: of t characters, at least 200 more than `skip`.
        shifts: ≥ 20.
        seed: of the shifts.
        skip: characters at the start that are left out, as the state is still that of an empty page.

    Raises:
        InputError: the text is too short.
    """
    layers, length, hidden = states.shape
    half = (length - skip) // 2
    if half < _SHORTEST // 2:
        raise InputError(
            f"cells cannot be told from a text of {length:,} characters; give at least {skip + _SHORTEST:,}."
        )
    known = features(text)
    halves = [slice(skip, skip + half), slice(skip + half, skip + 2 * half)]
    usable = [name for name, values in known.items() if all(_varies(values[part]) for part in halves)]
    flat = states.transpose(1, 2).reshape(layers * hidden, length)
    marks = torch.stack([known[name] for name in usable]) if usable else flat[:0]
    cells = [_standard(flat[:, part]) for part in halves]
    wanted = [_standard(marks[:, part]) for part in halves]
    found, confirmed = (each @ other.T / half for each, other in zip(wanted, cells, strict=True))
    bound = _bound(wanted[1], cells[1], shifts, seed) if usable else 1.0
    findings = [
        _finding(name, found[row], confirmed[row], bound, hidden) for row, name in enumerate(usable)
    ]  # fmt: skip
    ordered = sorted(findings, key=lambda each: -abs(each.confirmed))
    absent = tuple(name for name in known if name not in usable)
    return CellSearch(tuple(ordered), bound, len(usable) * len(flat), shifts, absent, half)


def _varies(values: Tensor) -> bool:
    commonest = int(torch.unique(values, return_counts=True)[1].max())
    return len(values) - commonest >= _RAREST


def _standard(rows: Tensor) -> Tensor:
    """Return rows with mean 0 and mean square 1; a row that never changes becomes 0."""
    centred = rows.double() - rows.double().mean(1, keepdim=True)
    spread = centred.square().mean(1, keepdim=True).sqrt()
    return torch.where(spread > 1e-9, centred / spread.clamp(min=1e-9), 0.0)


def _bound(wanted: Tensor, cells: Tensor, shifts: int, seed: int) -> float:
    half = wanted.shape[1]
    least = half // 10
    offsets = [least + rng.key(seed, "shift", turn) % (half - 2 * least) for turn in range(shifts)]
    largest = [float((wanted.roll(offset, 1) @ cells.T / half).abs().max()) for offset in offsets]
    return float(torch.tensor(largest).quantile(0.95))


def _finding(name: str, found: Tensor, confirmed: Tensor, bound: float, hidden: int) -> CellFinding:
    place = int(found.abs().argmax())
    first, second = float(found[place]), float(confirmed[place])
    return CellFinding(name, place // hidden, place % hidden, first, second, abs(second) > bound and first * second > 0)
