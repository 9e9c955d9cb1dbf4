"""Augmentation: known moves of known pixels, and pure functions of (seed, epoch, step)."""

from __future__ import annotations

import pytest
import torch

from faultlight.train.augment import augment, flip, shift, turn
from faultlight.train.recipe import Augment

GRID = torch.arange(1.0, 10.0).view(1, 1, 3, 3)


def test_shift_moves_each_image_by_its_own_amount_and_brings_in_zeros() -> None:
    x = torch.cat([GRID, GRID, 10 * GRID])
    moved = shift(x, torch.tensor([[0, 0], [1, 0], [-1, -2]]), most=2)
    assert moved[0, 0].tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert moved[1, 0].tolist() == [[0, 0, 0], [1, 2, 3], [4, 5, 6]]
    assert moved[2, 0].tolist() == [[60, 0, 0], [90, 0, 0], [0, 0, 0]]


def test_shift_moves_all_channels_alike() -> None:
    x = torch.cat([GRID, -GRID], 1)
    moved = shift(x, torch.tensor([[0, 1]]), most=1)
    assert moved[0, 0].tolist() == [[0, 1, 2], [0, 4, 5], [0, 7, 8]]
    assert torch.equal(moved[0, 1], -moved[0, 0])


def test_flip_mirrors_only_where_asked() -> None:
    mirrored = flip(torch.cat([GRID, GRID]), torch.tensor([True, False]))
    assert mirrored[0, 0].tolist() == [[3, 2, 1], [6, 5, 4], [9, 8, 7]]
    assert torch.equal(mirrored[1:], GRID)


def test_a_quarter_turn_is_counter_clockwise_and_exact() -> None:
    turned = turn(torch.cat([GRID, GRID]), torch.tensor([90.0, 0.0]))
    torch.testing.assert_close(turned[0, 0], torch.rot90(GRID[0, 0], 1), atol=1e-4, rtol=0)
    torch.testing.assert_close(turned[1:], GRID, atol=1e-5, rtol=0)


def test_a_half_turn_of_an_oblong_image_mirrors_both_axes() -> None:
    x = torch.arange(1.0, 13.0).view(1, 1, 3, 4)
    torch.testing.assert_close(turn(x, torch.tensor([180.0])), x.flip(2, 3), atol=1e-4, rtol=0)


def test_a_quarter_turn_of_an_oblong_image_keeps_the_size_of_a_pixel() -> None:
    x = torch.zeros(1, 1, 3, 5)
    x[0, 0, 1, 3] = 1.0  # one pixel to the right of the centre …
    turned = turn(x, torch.tensor([90.0]))
    assert turned[0, 0, 0, 2] == pytest.approx(1.0, abs=1e-4)  # … goes to one pixel above it
    assert float(turned.sum()) == pytest.approx(1.0, abs=1e-4)


def test_scaling_makes_higher_and_wider_about_the_centre() -> None:
    x = torch.zeros(1, 1, 5, 5)
    x[0, 0, 1:4, 2] = 1.0
    wide = turn(x, torch.tensor([0.0]), torch.tensor([[1.0, 3.0]]))
    due = torch.zeros(5, 5)
    due[1:4] = torch.tensor([1 / 3, 2 / 3, 1.0, 2 / 3, 1 / 3])
    torch.testing.assert_close(wide[0, 0], due, atol=1e-5, rtol=0)
    high = turn(x.transpose(2, 3), torch.tensor([0.0]), torch.tensor([[3.0, 1.0]]))
    torch.testing.assert_close(high[0, 0], due.T, atol=1e-5, rtol=0)


def test_an_image_is_scaled_before_it_is_turned() -> None:
    x = torch.zeros(1, 1, 5, 5)
    x[0, 0, 1:4, 2] = 1.0
    both = turn(x, torch.tensor([90.0]), torch.tensor([[1.0, 3.0]]))
    one_by_one = turn(turn(x, torch.tensor([0.0]), torch.tensor([[1.0, 3.0]])), torch.tensor([90.0]))
    torch.testing.assert_close(both, one_by_one, atol=1e-4, rtol=0)


def test_sizes_differ_from_image_to_image_within_the_zoom_and_leave_the_other_draws_alone() -> None:
    x = torch.zeros(200, 1, 41, 41)
    x[:, :, 10:31, 10:31] = 1.0  # 441 pixels of ink
    ink = augment(x, Augment(zoom=0.2), 0, 0, 0).sum((1, 2, 3)) / 441
    assert 0.64 * 0.9 < float(ink.min()) < 0.8
    assert 1.2 < float(ink.max()) < 1.44 * 1.1
    turned = augment(x, Augment(rotate=20.0), 0, 0, 0)
    torch.testing.assert_close(augment(x, Augment(rotate=20.0, zoom=1e-9), 0, 0, 0), turned, atol=1e-4, rtol=0)


SPEC = Augment(shift=2, flip=True, rotate=20.0)


def test_equal_places_in_a_run_give_equal_changes_and_others_do_not() -> None:
    x = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    first = augment(x, SPEC, seed=3, epoch=1, step=5)
    torch.rand(7)  # the global generator has no say
    assert torch.equal(first, augment(x, SPEC, seed=3, epoch=1, step=5))
    for place in ((4, 1, 5), (3, 2, 5), (3, 1, 6)):
        assert not torch.equal(first, augment(x, SPEC, *place))


def test_nothing_asked_changes_nothing() -> None:
    assert augment(GRID, Augment(), 0, 0, 0) is GRID


def test_moves_stay_within_the_shift_and_reach_both_ends() -> None:
    x = torch.zeros(500, 1, 7, 7)
    x[:, :, 3, 3] = 1
    rows, columns = augment(x, Augment(shift=2), 0, 0, 0)[:, 0].nonzero()[:, 1:].unbind(1)
    for found in (rows, columns):
        assert sorted(set(found.tolist())) == [1, 2, 3, 4, 5]


def test_mirroring_in_turn_shows_both_sides_of_an_image_equally_often() -> None:
    """Which images begin mirrored is drawn once, of the image and not of its place in a batch; then they alternate."""
    x, spec, rows = GRID.repeat(64, 1, 1, 1), Augment(flip="alternate"), torch.arange(100, 164)
    mirrored = [(augment(x, spec, 3, epoch, epoch, rows=rows) != x).flatten(1).any(1) for epoch in range(4)]
    assert 16 < int(mirrored[0].sum()) < 48
    assert torch.equal(mirrored[1], ~mirrored[0])
    assert torch.equal(mirrored[2], mirrored[0])
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    again = (augment(x, spec, 3, 2, 7, rows=rows[order]) != x).flatten(1).any(1)
    assert torch.equal(again, mirrored[0][order])
    assert not torch.equal((augment(x, spec, 4, 0, 0, rows=rows) != x).flatten(1).any(1), mirrored[0])
