"""Memorisation: what a model wrote that stands in the text it learnt from, letter by letter."""

from __future__ import annotations

from dataclasses import dataclass

ORDERS = (5, 10, 15, 20, 30, 50)


@dataclass(frozen=True)
class Copied:
    """A run of characters that two texts share.

    Args:
        text: the run.
        start: where it begins in what was written, or −1 for an empty run.
        source: where it first begins in the text copied from, or −1.
    """

    text: str
    start: int
    source: int


@dataclass(frozen=True)
class Memorised:
    """How much of what was written is copied.

    Args:
        longest: the longest copied run.
        shares: by n, the share of the n-grams written that stand in the text.
        expected: by n, the same share for held-out text of as many characters: what a person who knew the language and
            not the text would reach.
        expected_longest: length of the longest run that the held-out text shares with it.
        characters: written.
    """

    longest: Copied
    shares: dict[int, float]
    expected: dict[int, float]
    expected_longest: int
    characters: int


def memorised(written: str, text: str, held_out: str = "", orders: tuple[int, ...] = ORDERS) -> Memorised:
    """Return how much of a written text stands in the text that was learnt from.

    A long copy is no proof by itself, since people repeat themselves too: so held-out text is measured in the same way.

    Source: n-gram novelty, McCoy et al. 2023, "How Much Do Language Models Copy From Their Training Data?", section 4.

    Args:
        written: by the model, without its prime.
        text: what was learnt from.
        held_out: text by the same hand that was not learnt from; as many characters of it are used as were written.
        orders: the n to look at.
    """
    there = held_out[: len(written)]
    return Memorised(
        longest_copy(written, text),
        {order: copied_share(written, text, order) for order in orders if order <= len(written)},
        {order: copied_share(there, text, order) for order in orders if order <= len(there)},
        len(longest_copy(there, text).text),
        len(written),
    )


def copied_share(written: str, text: str, order: int) -> float:
    """Return the share of the n-grams of a written text, each place counted, that stand in another text.

    Args:
        written: of at least `order` characters.
        text: what may have been copied from.
        order: n, ≥ 1.
    """
    found, places = _shared(written, text, order), range(len(written) - order + 1)
    return sum(written[place : place + order] in found for place in places) / len(places)


def longest_copy(written: str, text: str) -> Copied:
    """Return the longest run of a written text that stands in another; of equal ones the first.

    A run that is copied has only copied parts, so the greatest length is found by halving.
    """
    low, high = 0, min(len(written), len(text))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _shared(written, text, middle) else (low, middle - 1)
    if not low:
        return Copied("", -1, -1)
    start = min(written.index(run) for run in _shared(written, text, low))
    run = written[start : start + low]
    return Copied(run, start, text.index(run))


def _shared(written: str, text: str, order: int) -> set[str]:
    # The set is made of the shorter text; n-grams of the longer one would fill hundreds of megabytes.
    wanted = {written[place : place + order] for place in range(len(written) - order + 1)}
    return {gram for place in range(len(text) - order + 1) if (gram := text[place : place + order]) in wanted}
