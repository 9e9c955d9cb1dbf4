"""Misspelling on purpose: the few edits of a text after which a model predicts what follows worst."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from faultlight import rng
from faultlight.errors import InputError
from faultlight.text.edits import Kind, Passages, allowed, edit
from faultlight.text.model import CharModel, State


@dataclass(frozen=True)
class TextAttack:
    """Greedy edits, chosen by their first-order effect and checked by reading.

    An edit at place i leads from the state before it to another state s′ after it than the clean s. What is read there
    is computed; all that follows changes by about (s′ − s)·∂L/∂s, with L the sum of the losses that follow. The edits
    that promise most are tried, and the one that harms most is kept; without guidance as many are tried that were drawn
    at random. A place is edited once.

    Source: Ebrahimi et al. 2018, "HotFlip: White-Box Adversarial Examples for Text Classification", sections 2.1–2.3.
    Departures: the first order is taken in the state behind the edit and not in the embedding, which is far from
    linear for one whole character; the promised effect is checked by a forward pass, in place of a beam.

    Args:
        kind: "flip" (another character), "swap" (two neighbours), "delete", or "insert" (one more behind a place).
        edits: ≥ 0.
        candidates: edits tried at each turn, ≥ 1.
        guided: whether the gradient chooses them, or chance does.
    """

    kind: Kind = "flip"
    edits: int = 10
    candidates: int = 16
    guided: bool = True

    def __post_init__(self) -> None:
        if self.edits < 0 or self.candidates < 1:
            raise InputError(f"edits must be 0 or more and candidates 1 or more, not {self.edits}, {self.candidates}.")


@dataclass(frozen=True)
class Edited:
    """What an attack came to.

    Args:
        losses: mean over the places read, in nats, after 0, 1, … edits.
        passages: as they stand after the last.
    """

    losses: Float[Tensor, "n turns"]
    passages: Passages


def attack(
    model: CharModel, clean: Int64[Tensor, "n t"], spec: TextAttack, used: Int64[Tensor, " u"], seed: int = 0
) -> Edited:
    """Edit texts so that the model predicts badly what follows in the clean ones.

    Args:
        model: in evaluation mode.
        clean: t characters each, of which the last is only predicted.
        spec: which edits, and how many.
        used: the characters that a flip or an insertion may put in.
        seed: of the draws where chance chooses.

    Raises:
        InputError: the texts are too short for so many edits.
    """
    room = (clean.shape[1] - 1) // 2
    if spec.edits > room:
        raise InputError(
            f"{spec.edits} edits are too many for passages of {clean.shape[1] - 1} characters; take {room} at most."
        )
    rows = Passages(clean[:, :-1], clean[:, 1:], torch.ones_like(clean[:, 1:], dtype=torch.bool))
    losses = [passage_losses(model, rows)]
    for turn in range(spec.edits):
        moves = _promising(model, rows, spec, used) if spec.guided else _drawn(rows, spec, used, seed, turn)
        rows, loss = _best(model, rows, moves, spec, used)
        losses.append(loss)
    return Edited(torch.stack(losses, 1), rows)


@dataclass(frozen=True)
class Trace:
    """What a model went through while it read passages.

    Args:
        losses: at each place, shape (n, t).
        states: before each place and after the last, each part of shape (layers, n, t + 1, hidden).
        slope: of the sum of all later losses, by the state after each place, each part of shape (layers, n, t, hidden).
    """

    losses: Float[Tensor, "n t"]
    states: State
    slope: State

    def before(self, places: slice = slice(None)) -> State:
        """Return the states before places."""
        return tuple(part[:, :, :-1][:, :, places] for part in self.states)

    def after(self, places: slice = slice(None)) -> State:
        """Return the states after places."""
        return tuple(part[:, :, 1:][:, :, places] for part in self.states)


def trace(model: CharModel, rows: Passages) -> Trace:
    """Read passages one character at a time, and keep every state and what hangs on it."""
    shape = (model.shape.layers, len(rows.read), model.shape.hidden)
    parts = 1 if model.shape.cell == "gru" else 2
    start = model.decoder.weight.new_zeros(shape)
    states, losses = [tuple(start.clone().requires_grad_() for _ in range(parts))], []
    with torch.enable_grad():
        for place in range(rows.read.shape[1]):
            logits, after = model(rows.read[:, place : place + 1], states[-1])
            losses.append(functional.cross_entropy(logits[:, 0], rows.due[:, place], reduction="none"))
            states.append(after)
        wanted = [part for state in states[1:] for part in state]
        slopes = torch.autograd.grad(torch.stack(losses).sum(), wanted, materialize_grads=True)
    by_part = [[slopes[index] for index in range(part, len(slopes), parts)] for part in range(parts)]
    return Trace(
        torch.stack(losses, 1).detach(),
        tuple(torch.stack([state[part].detach() for state in states], 2) for part in range(parts)),
        tuple(torch.stack(each, 2) for each in by_part),
    )


def passage_losses(model: CharModel, rows: Passages) -> Float[Tensor, " n"]:
    """Return the mean loss of each passage in nats, over the characters read."""
    with torch.no_grad():
        return _losses(model, model.embedding(rows.read), rows.due)


def gains(model: CharModel, rows: Passages, kind: Kind, used: Int64[Tensor, " u"]) -> Float[Tensor, "n moves"]:
    """Return by how much every edit promises to change the sum of a passage's losses; −∞ where one is not allowed.

    Moves are numbered place by place; of flips and insertions there are u at each.
    """
    path = trace(model, rows)
    found = _GAINS[kind](model, rows, path, used)
    return torch.where(allowed(rows, kind, used), found, -torch.inf).flatten(1)


def _flip_gains(model: CharModel, rows: Passages, path: Trace, used: Tensor) -> Tensor:
    after, each = path.after(), _read_each(model, rows, used, path.before())
    return torch.stack([loss - path.losses + _along(state, after, path.slope) for loss, state in each], 2)


def _swap_gains(model: CharModel, rows: Passages, path: Trace, _used: Tensor) -> Tensor:
    first, state = _read_one(model, rows.read[:, 1:], rows.due[:, :-1], path.before(slice(None, -1)))
    second, state = _read_one(model, rows.read[:, :-1], rows.due[:, 1:], state)
    ends = path.after(slice(1, None)), tuple(part[:, :, 1:] for part in path.slope)
    found = first + second - path.losses[:, :-1] - path.losses[:, 1:] + _along(state, *ends)
    return functional.pad(found, (0, 1))[:, :, None]


def _delete_gains(_model: CharModel, _rows: Passages, path: Trace, _used: Tensor) -> Tensor:
    return (_along(path.before(), path.after(), path.slope) - path.losses)[:, :, None]


def _insert_gains(model: CharModel, rows: Passages, path: Trace, used: Tensor) -> Tensor:
    after = path.after()
    each = _read_each(model, rows, used, after)
    return torch.stack([loss + _along(state, after, path.slope) for loss, state in each], 2)


def _along(state: State, reference: State, slope: State) -> Tensor:
    """Return (s − s′)·∂L/∂s′ at each place, shape (n, t)."""
    terms = [((one - other) * each).sum((0, 3)) for one, other, each in zip(state, reference, slope, strict=True)]
    return torch.stack(terms).sum(0)


def _read_one(model: CharModel, characters: Tensor, due: Tensor, state: State) -> tuple[Tensor, State]:
    """Read one character at every place, each from its own state (layers, n, t, hidden); return losses and states."""
    flat = tuple(part.flatten(1, 2).contiguous() for part in state)
    with torch.no_grad():
        logits, after = model(characters.flatten()[:, None], flat)
    loss = functional.cross_entropy(logits[:, 0], due.flatten(), reduction="none").view_as(due)
    return loss, tuple(part.unflatten(1, due.shape) for part in after)


def _read_each(model: CharModel, rows: Passages, used: Tensor, state: State) -> Iterator[tuple[Tensor, State]]:
    for character in used:
        yield _read_one(model, torch.full_like(rows.read, int(character)), rows.due, state)


def _losses(model: CharModel, embedded: Tensor, due: Tensor) -> Tensor:
    logits, _ = model.read(embedded)
    return functional.cross_entropy(logits.transpose(1, 2), due, reduction="none").mean(1)


def _promising(model: CharModel, rows: Passages, spec: TextAttack, used: Tensor) -> Tensor:
    found = gains(model, rows, spec.kind, used)
    return found.topk(min(spec.candidates, found.shape[1]), 1).indices


def _drawn(rows: Passages, spec: TextAttack, used: Tensor, seed: int, turn: int) -> Tensor:
    may = allowed(rows, spec.kind, used).flatten(1)
    ids, steps = torch.arange(len(may)), torch.full((len(may),), turn)
    chance = rng.uniform(rng.key(seed, "edits", spec.kind), ids, steps, (may.shape[1],)).to(may.device)
    return torch.where(may, chance, -1.0).topk(min(spec.candidates, may.shape[1]), 1).indices


def _best(model: CharModel, rows: Passages, moves: Tensor, spec: TextAttack, used: Tensor) -> tuple[Passages, Tensor]:
    """Try the moves of each passage and keep the one after which its loss is highest."""
    count, tried = moves.shape
    wide = Passages(*(each.repeat_interleave(tried, 0) for each in (rows.read, rows.due, rows.free)))
    after = edit(wide, moves.flatten(), spec.kind, used)
    losses = passage_losses(model, after).view(count, tried)
    permitted = allowed(rows, spec.kind, used).flatten(1).gather(1, moves)
    best = torch.where(permitted, losses, -torch.inf).argmax(1)
    chosen = torch.arange(count, device=best.device) * tried + best
    kept = Passages(after.read[chosen], after.due[chosen], after.free[chosen])
    return kept, losses.gather(1, best[:, None])[:, 0]


_GAINS: dict[Kind, Callable[[CharModel, Passages, Trace, Tensor], Tensor]] = {
    "flip": _flip_gains,
    "swap": _swap_gains,
    "delete": _delete_gains,
    "insert": _insert_gains,
}
