"""A text to learn from, divided once: the first part is learnt, the last held out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor

from faultlight import rng
from faultlight.data.text import Text, load_text
from faultlight.errors import InputError
from faultlight.text.alphabet import PRINTABLE, Alphabet, alphabet_of


@dataclass(frozen=True)
class Corpus:
    """A divided text as numbers.

    Args:
        name: of the text.
        alphabet: what the numbers mean.
        train: the characters to learn from.
        held_out: those that follow, which training never sees.
        fingerprint: SHA-256 of the file.
    """

    name: str
    alphabet: Alphabet
    train: Int64[Tensor, " n"]
    held_out: Int64[Tensor, " m"]
    fingerprint: str

    @cached_property
    def used(self) -> Int64[Tensor, " u"]:
        """The numbers of the characters that occur in the part to learn from, in ascending order."""
        found: Tensor = self.train.unique()  # type: ignore[no-untyped-call]
        return found

    def describe(self) -> str:
        """Return one line about the division."""
        return (
            f"{self.name}: {len(self.train):,} characters to learn from, the {len(self.held_out):,} that follow held "
            f"out; {len(self.alphabet)} in the alphabet, {len(self.used)} of them used"
        )


def load_corpus(name: str, alphabet: str = "corpus", held_out: float = 0.1, folder: Path | None = None) -> Corpus:
    """Return a text divided in two.

    Args:
        name: "tinyshakespeare", or the path of a UTF-8 file.
        alphabet: "printable" (the 100 characters of Python's string.printable) or "corpus" (those of the text).
        held_out: share of the characters, the last ones, that is held out, in (0, 1).
        folder: where local copies are looked for.

    Raises:
        InputError: the text cannot be had, holds one character only, or characters that the alphabet has not.
    """
    text = load_text(name, folder)
    return divide(text, PRINTABLE if alphabet == "printable" else alphabet_of(text.content), held_out)


def divide(text: Text, alphabet: Alphabet, held_out: float = 0.1) -> Corpus:
    """Return a text with its last part held out.

    Raises:
        InputError: the text shows fewer than two different characters, or one that the alphabet has not.
    """
    if len(set(text.content)) < 2:
        raise InputError(
            f"the text {text.name!r} holds only {text.content[0]!r}, {len(text.content):,} times; there is nothing to "
            f"predict, so give a text with at least two different characters."
        )
    numbers = alphabet.encode(text.content)
    border = len(numbers) - max(round(len(numbers) * held_out), 1)
    return Corpus(text.name, alphabet, numbers[:border], numbers[border:], text.sha256)


def check_length(corpus: Corpus, chunk: int, streams: int = 1) -> None:
    """Raise InputError unless chunks can be cut from every stream of the training part, and pairs from the held out."""
    room = len(corpus.train) // streams
    if room < chunk + 1:
        raise InputError(
            f"the text {corpus.name!r} is too short: {len(corpus.train):,} characters to learn from in {streams:,} "
            f"streams give {room:,} each, where a chunk of {chunk:,} needs {chunk + 1:,}; "
            f"set a shorter chunk or a smaller batch, or give a longer text."
        )
    if len(corpus.held_out) < 2:
        raise InputError(
            f"the text {corpus.name!r} leaves {len(corpus.held_out)} characters held out, and a loss needs two; "
            f"set a larger held_out, or give a longer text."
        )


def random_chunks(numbers: Int64[Tensor, " n"], batch: int, chunk: int, seed: int, step: int) -> Int64[Tensor, "b t"]:
    """Return `batch` pieces of chunk + 1 characters from places that are a function of (seed, step)."""
    rows, steps = torch.arange(batch), torch.full((batch,), step)
    drawn = rng.bits(rng.key(seed, "chunks"), rows, steps, 1)[:, 0]
    starts = drawn.remainder(len(numbers) - chunk)
    return numbers[starts[:, None] + torch.arange(chunk + 1)]


def stream_chunks(
    numbers: Int64[Tensor, " n"], batch: int, chunk: int, seed: int, step: int
) -> tuple[Int64[Tensor, "b t"], bool]:
    """Return the step's piece of each of `batch` streams that lie one behind the other, and whether a pass begins.

    Each pass starts at an offset below chunk, a function of (seed, pass), so that pieces do not end at the same places.
    """
    length = len(numbers) // batch
    turns = max((length - chunk) // chunk, 1)
    turn, place = divmod(step, turns)
    spare = min(chunk, length - turns * chunk)
    offset = rng.key(seed, "offset", turn) % spare + place * chunk
    rows = torch.arange(batch) * length + offset
    return numbers[rows[:, None] + torch.arange(chunk + 1)], place == 0
