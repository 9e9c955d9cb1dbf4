"""What a reader could keep track of in a text: one number at every character, from rules alone."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

_SPEAKER = re.compile(r"(?:^|(?<=\n\n))[^\n]*:(?=\n)")


def features(text: str) -> dict[str, Float[Tensor, " t"]]:
    """Return every feature of a text by name, in its reading order.

    Each is a function of the text up to and with the character, but for "speaker's name", which goes by the whole line.
    """
    return {name: torch.tensor(rule(text), dtype=torch.float32) for name, rule in _RULES.items()}


def _each(test: Callable[[str], bool]) -> Callable[[str], list[float]]:
    return lambda text: [float(test(character)) for character in text]


def _since(ends: Callable[[str], bool]) -> Callable[[str], list[float]]:
    """Count the characters since the last one that ends something, which itself counts 0."""

    def count(text: str) -> list[float]:
        counts, number = [], 0
        for character in text:
            number = 0 if ends(character) else number + 1
            counts.append(float(number))
        return counts

    return count


def _between(opening: str, closing: str) -> Callable[[str], list[float]]:
    """Mark what stands between two marks, the first included; an empty line ends it, as marks are sometimes left open.

    A single quotation mark opens only where no letter precedes it, or every apostrophe would.
    """

    def inside(text: str) -> list[float]:
        marks, within, before = [], False, "\n"
        for character in text:
            if within and (character == closing or (character == before == "\n")):
                within = False
            elif not within and character == opening and not before.isalpha():
                within = True
            marks.append(float(within))
            before = character
        return marks

    return inside


def _speaker(text: str) -> list[float]:
    marks = [0.0] * len(text)
    for found in _SPEAKER.finditer(text):
        marks[found.start() : found.end()] = [1.0] * (found.end() - found.start())
    return marks


def _in_capitals(text: str) -> list[float]:
    marks = [0.0] * len(text)
    for found in re.finditer(r"[A-Z]{2,}", text):
        marks[found.start() + 1 : found.end()] = [1.0] * (found.end() - found.start() - 1)
    return marks


_RULES: dict[str, Callable[[str], list[float]]] = {
    "position in the line": _since(lambda character: character == "\n"),
    "end of a line": _each(lambda character: character == "\n"),
    "position in the word": _since(lambda character: not character.isalpha()),
    "between words": _each(lambda character: not character.isalpha()),
    "position in the sentence": _since(lambda character: character in ".?!"),
    "end of a sentence": _each(lambda character: character in ".?!"),
    "punctuation": _each(lambda character: character in ".,;:?!"),
    "capital letter": _each(str.isupper),
    "word in capitals": _in_capitals,
    "speaker's name": _speaker,
    "vowel": _each(lambda character: character in "aeiouAEIOU"),
    "digit": _each(str.isdigit),
    "inside quotation marks": _between('"', '"'),
    "inside single quotation marks": _between("'", "'"),
    "inside parentheses": _between("(", ")"),
    "inside brackets": _between("[", "]"),
}
