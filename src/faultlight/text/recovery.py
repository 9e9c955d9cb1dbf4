"""How long a model is put off by what it has read before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from faultlight.text.edits import Passages, edit
from faultlight.text.model import CharModel
from faultlight.text.writing import readable

# Neighbours whose mean is looked at.
WINDOW = 10


@dataclass(frozen=True)
class Recovery:
    """What a prime does to the reading of what follows it.

    Args:
        prime: as it was given.
        flipped: the prime with the one character changed that harms most.
        after_prime: characters until the loss is back at that of the passages' own context; None where it never is.
        after_flip: characters until the loss after the flipped prime is back at that after the prime.
        excess_prime: nats by which the first ten characters are read worse after the prime than after their own text.
        excess_flip: nats by which they are read worse after the flipped prime than after the prime.
        curve_prime: that excess at each character, mean over the passages.
        curve_flip: likewise.
    """

    prime: str
    flipped: str
    after_prime: int | None
    after_flip: int | None
    excess_prime: float
    excess_flip: float
    curve_prime: Float[Tensor, " t"]
    curve_flip: Float[Tensor, " t"]


def recoveries(
    model: CharModel,
    text: Int64[Tensor, " n"],
    primes: Sequence[str],
    used: Int64[Tensor, " u"],
    *,
    passages: int = 64,
    length: int = 100,
    context: int = 100,
    within: float = 0.05,
) -> list[Recovery]:
    """Return for each prime how many characters later a model reads on as if it had not been there.

    Passages of a text are read three times: after their own context, after the prime, and after the prime with its
    worst flip. The losses are compared character by character, in the mean over passages.

    Args:
        model: in evaluation mode.
        text: held-out text; passages start behind line ends, evenly spaced.
        primes: none of them empty.
        used: the characters that a flip may put in.
        passages: how many are read, at most.
        length: characters of each.
        context: characters of its own that each is first read after.
        within: nats; the loss counts as recovered where the mean excess of ten characters stays below it in magnitude.
    """
    starts = line_starts(text, model, context, length, passages)
    rows = text[starts[:, None] + torch.arange(-context, length + 1)]
    after_own = _losses(model, rows)[:, context:].mean(0)
    return [_recovery(model, prime, rows[:, context:], after_own, used, within) for prime in primes]


def line_starts(
    text: Int64[Tensor, " n"], model: CharModel, before: int, after: int, count: int
) -> Int64[Tensor, " p"]:
    """Return places behind line ends, or any places where the text has no lines, evenly spaced, with room around."""
    places = torch.arange(before, len(text) - after - 1)
    newline = model.alphabet.index.get("\n", -1)
    lines = places[text[places - 1] == newline] if len(places) else places
    found = lines if len(lines) else places
    chosen = torch.linspace(0, len(found) - 1, min(count, len(found))).long()
    return found[chosen]


def recovered_at(excess: Float[Tensor, " t"], within: float) -> int | None:
    """Return the first place from which on every mean of ten neighbours stays within a bound; None where there is none.

    Args:
        excess: nats at each character.
        within: the bound, > 0.
    """
    means = excess.double().unfold(0, WINDOW, 1).mean(1).abs()
    above = (means > within).nonzero()
    if not len(above):
        return 0
    last = int(above[-1])
    return None if last == len(means) - 1 else last + 1


def _recovery(model: CharModel, prime: str, rows: Tensor, own: Tensor, used: Tensor, within: float) -> Recovery:
    read = model.alphabet.encode(readable(model, prime))
    flipped = _worst_flip(model, read, rows, used)
    clean, harmed = (_after(model, each, rows) for each in (read, flipped))
    by_prime, by_flip = clean - own, harmed - clean
    return Recovery(
        prime=prime,
        flipped=model.alphabet.decode(flipped),
        after_prime=recovered_at(by_prime, within),
        after_flip=recovered_at(by_flip, within),
        excess_prime=float(by_prime[:WINDOW].mean()),
        excess_flip=float(by_flip[:WINDOW].mean()),
        curve_prime=by_prime,
        curve_flip=by_flip,
    )


def _after(model: CharModel, prime: Tensor, rows: Tensor) -> Tensor:
    """Return the loss at each character of the passages behind the first, read after a prime; mean over passages."""
    read = torch.cat([prime.expand(len(rows), -1), rows], 1)
    return _losses(model, read)[:, len(prime) :].mean(0)


def _losses(model: CharModel, rows: Tensor) -> Tensor:
    with torch.no_grad():
        logits, _ = model(rows[:, :-1])
    return functional.cross_entropy(logits.transpose(1, 2), rows[:, 1:], reduction="none")


def _worst_flip(model: CharModel, prime: Tensor, rows: Tensor, used: Tensor) -> Tensor:
    """Return the prime with the one flip after which the first ten characters of the passages are read worst.

    Every flip is tried, on some sixteen of the passages: a prime has few characters.
    """
    few = rows[:: max(len(rows) // 16, 1), : WINDOW + 1]
    moves = torch.arange(len(prime) * len(used))
    wide = prime.expand(len(moves), -1)
    flips = edit(Passages(wide, wide, torch.ones_like(wide, dtype=torch.bool)), moves, "flip", used).read
    harm = torch.stack([_after_each(model, flips, row) for row in few]).mean(0)
    harm[(flips == prime).all(1)] = -torch.inf
    return flips[harm.argmax()]


def _after_each(model: CharModel, primes: Tensor, row: Tensor) -> Tensor:
    read = torch.cat([primes, row.expand(len(primes), -1)], 1)
    return _losses(model, read)[:, primes.shape[1] :].mean(1)
