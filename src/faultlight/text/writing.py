"""Writing: characters drawn one after the other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from faultlight import rng
from faultlight.errors import InputError
from faultlight.text.model import CharModel

# What the founding system's runs were primed with; some of it no play contains.
PRIMES = ("2 b3n", "bg09Z", "qwert", "The", "What is", "Shall I give", "X087hNYB BHN BYFVuhsdbs")


@dataclass(frozen=True)
class Sample:
    """A text that was written.

    Args:
        prime: as it was given.
        read: the part of it that the model could read.
        skipped: the characters of it that the alphabet has not, each once.
        text: what was written after it.
    """

    prime: str
    read: str
    skipped: str
    text: str


def sample(
    model: CharModel, prime: str, length: int = 200, *, temperature: float = 0.8, top_k: int = 0, seed: int = 0
) -> Sample:
    """Let a model write on from a prime.

    Each character is drawn from softmax(z / temperature), by the first place where the cumulated probability passes
    a uniform number that is a function of (seed, prime, position); at temperature 0 it is the likeliest.

    Args:
        model: in evaluation mode.
        prime: what is read first, from a state of zeros; characters that the alphabet has not are skipped, and said.
        length: characters to write, ≥ 0.
        temperature: ≥ 0.
        top_k: draw from the k likeliest only; 0 for all.
        seed: of the draws.

    Raises:
        InputError: the prime is empty, or no character of it is in the alphabet; or a setting is out of its range.
    """
    _check(length, temperature, top_k)
    read = readable(model, prime)
    draws = rng.uniform(rng.key(seed, "sample", read), torch.zeros(1).long(), torch.zeros(1).long(), (length,))[0]
    device = next(model.parameters()).device
    written: list[int] = []
    with torch.no_grad():
        logits, state = model(model.alphabet.encode(read)[None].to(device))
        for draw in draws:
            written.append(choose(logits[0, -1].cpu(), float(draw), temperature, top_k))
            logits, state = model(torch.tensor([written[-1:]], device=device), state)
    return Sample(prime, read, model.alphabet.unknown(prime), model.alphabet.decode(torch.tensor(written).long()))


def readable(model: CharModel, prime: str) -> str:
    """Return the characters of a prime that a model knows.

    Raises:
        InputError: there are none.
    """
    if not prime:
        raise InputError("the prime is empty, and a model needs a character to start from; give at least one.")
    known = model.alphabet.known(prime)
    if not known:
        raise InputError(
            f"no character of the prime {prime!r} is among the {len(model.alphabet)} that the model knows; "
            f"give at least one of {model.alphabet.characters[:60]!r}."
        )
    return known


def choose(logits: Float[Tensor, " v"], draw: float, temperature: float, top_k: int) -> int:
    """Return the character that a uniform number in [0, 1) stands for.

    Args:
        logits: of each character.
        draw: the uniform number.
        temperature: ≥ 0; 0 takes the likeliest.
        top_k: how many of the likeliest may be drawn, of equals those that the alphabet has first; 0 for all.
    """
    if temperature == 0:
        return int(logits.argmax())
    # From the largest down, or a temperature close to 0 would overflow.
    scaled = (logits.double() - logits.max().double()) / temperature
    if top_k and top_k < len(scaled):
        # By place and not by value: characters as likely as the last of the k would all stay.
        scaled[scaled.argsort(descending=True, stable=True)[top_k:]] = -torch.inf
    cumulated = torch.softmax(scaled, 0).cumsum(0)
    place = int(torch.searchsorted(cumulated, torch.tensor(draw, dtype=torch.float64), right=True))
    # Rounding may leave the last sum below the number drawn; the last character that has any chance is meant then.
    return min(place, int(torch.isfinite(scaled).nonzero()[-1]))


def _check(length: int, temperature: float, top_k: int) -> None:
    if length < 0:
        raise InputError(f"the length must be 0 or more characters, not {length}.")
    if not 0 <= temperature < float("inf"):
        raise InputError(f"the temperature must be 0 or a positive number, not {temperature}.")
    if top_k < 0:
        raise InputError(f"top-k must be 0 (all) or the number of characters to draw from, not {top_k}.")
