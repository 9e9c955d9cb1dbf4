"""Single edits of a text: one character replaced, taken out or put in, or two neighbours swapped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Int64
from torch import Tensor
from torch.nn import functional

Kind = Literal["flip", "swap", "delete", "insert"]
KINDS: tuple[Kind, ...] = ("flip", "swap", "delete", "insert")


@dataclass(frozen=True)
class Passages:
    """Texts that are being edited, all of one length.

    After each character read, the character is due that follows it in the clean text, edited or not. So an edit harms
    by what the model then expects, never by changing what is right; behind an inserted character is due what was due
    before it.

    Args:
        read: what the model is given.
        due: what follows each of them in the clean text.
        free: which may still be edited.
    """

    read: Int64[Tensor, "n t"]
    due: Int64[Tensor, "n t"]
    free: Bool[Tensor, "n t"]


def edit(rows: Passages, moves: Int64[Tensor, " n"], kind: Kind, used: Int64[Tensor, " u"]) -> Passages:
    """Return passages with one edit each, numbered place by place; of flips and insertions there are u at each."""
    return _EDITS[kind](rows, moves, used)


def allowed(rows: Passages, kind: Kind, used: Tensor) -> Tensor:
    """Return which moves would change something at places that are still free, shape (n, t, moves a place)."""
    if kind == "flip":
        return rows.free[:, :, None] & (rows.read[:, :, None] != used)
    if kind == "delete":
        return rows.free[:, :, None]
    if kind == "insert":
        return rows.free[:, :, None].expand(-1, -1, len(used))
    both = rows.free[:, :-1] & rows.free[:, 1:] & (rows.read[:, :-1] != rows.read[:, 1:])
    return functional.pad(both, (0, 1))[:, :, None]


def _flip(rows: Passages, moves: Tensor, used: Tensor) -> Passages:
    place, character = moves[:, None] // len(used), used[moves % len(used)][:, None]
    return Passages(rows.read.scatter(1, place, character), rows.due, rows.free.scatter(1, place, False))


def _swap(rows: Passages, moves: Tensor, used: Tensor) -> Passages:
    # Where nothing is left to swap, what is promised most is not allowed either: such a passage stays as it is.
    legal = allowed(rows, "swap", used)[:, :, 0].gather(1, moves[:, None])
    place = moves[:, None].clamp(max=rows.read.shape[1] - 2)
    both = torch.cat([place, place + 1], 1)
    turned, free = rows.read.gather(1, both.flip(1)), rows.free.scatter(1, both, False)
    read = torch.where(legal, rows.read.scatter(1, both, turned), rows.read)
    return Passages(read, rows.due, torch.where(legal, free, rows.free))


def _delete(rows: Passages, moves: Tensor, _used: Tensor) -> Passages:
    places = torch.arange(rows.read.shape[1] - 1, device=moves.device)
    kept = places + (places >= moves[:, None]).long()
    return Passages(rows.read.gather(1, kept), rows.due.gather(1, kept), rows.free.gather(1, kept))


def _insert(rows: Passages, moves: Tensor, used: Tensor) -> Passages:
    place, character = moves[:, None] // len(used), used[moves % len(used)][:, None]
    places = torch.arange(rows.read.shape[1] + 1, device=moves.device)
    kept = places - (places > place).long()
    # Neither another one behind the same character, nor one behind what was put in.
    free = rows.free.gather(1, kept).scatter(1, torch.cat([place, place + 1], 1), False)
    return Passages(rows.read.gather(1, kept).scatter(1, place + 1, character), rows.due.gather(1, kept), free)


_EDITS: dict[Kind, Callable[[Passages, Tensor, Tensor], Passages]] = {
    "flip": _flip,
    "swap": _swap,
    "delete": _delete,
    "insert": _insert,
}
