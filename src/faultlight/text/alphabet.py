"""Characters as numbers."""

from __future__ import annotations

import string
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Int64
from torch import Tensor

from faultlight.errors import InputError


@dataclass(frozen=True)
class Alphabet:
    """The characters that a model knows; a character's number is its place.

    Args:
        characters: each once.
    """

    characters: str

    def __post_init__(self) -> None:
        twice = [character for character, count in Counter(self.characters).items() if count > 1]
        if twice:
            raise InputError(f"the alphabet holds {twice[0]!r} twice; name each character once.")

    def __len__(self) -> int:
        return len(self.characters)

    @cached_property
    def index(self) -> dict[str, int]:
        """The number of each character."""
        return {character: number for number, character in enumerate(self.characters)}

    def unknown(self, text: str) -> str:
        """Return the characters of a text that are not in the alphabet, each once, in the order they occur in."""
        return "".join(dict.fromkeys(character for character in text if character not in self.index))

    def known(self, text: str) -> str:
        """Return a text without the characters that are not in the alphabet."""
        return "".join(character for character in text if character in self.index)

    def encode(self, text: str) -> Int64[Tensor, " n"]:
        """Return the numbers of a text's characters.

        Raises:
            InputError: a character is not in the alphabet.
        """
        if unknown := self.unknown(text):
            raise InputError(
                f"the text holds {len(unknown)} characters that the alphabet of {len(self)} has not, the first of them "
                f"{unknown[0]!r} (U+{ord(unknown[0]):04X}); leave them out, or train with alphabet = 'corpus'."
            )
        return torch.tensor([self.index[character] for character in text], dtype=torch.int64)

    def decode(self, numbers: Int64[Tensor, " n"]) -> str:
        """Return the text that numbers stand for."""
        return "".join(self.characters[number] for number in numbers.tolist())


# Python's own list of printable ASCII: digits, letters, punctuation and six kinds of blank, 100 in all.
PRINTABLE = Alphabet(string.printable)


def alphabet_of(text: str) -> Alphabet:
    """Return the characters that occur in a text, in the order of their code points."""
    return Alphabet("".join(sorted(set(text))))
