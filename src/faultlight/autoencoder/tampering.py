"""Choosing noises by name and strength, and laying them on images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from faultlight import rng
from faultlight.autoencoder.noises._contract import Given, Noise, Pixels
from faultlight.catalogue import catalogue
from faultlight.data.images import Images
from faultlight.errors import InputError, nearest

NOISES = "autoencoder.noises"
_ROWS = 250


@dataclass(frozen=True)
class Tampering:
    """A noise with the strengths that it comes in.

    Args:
        kind: the noise's name, such as "gaussian".
        low: the least strength.
        high: the greatest; equal to `low` where it is always the same.
        weight: how often it is drawn, relative to the others.
    """

    kind: str
    low: float
    high: float
    weight: float = 1.0

    def __post_init__(self) -> None:
        least, most = noise_named(self.kind).limits
        if not least <= self.low <= self.high <= most:
            raise InputError(
                f"the strength of {self.kind} must lie in [{least:g}, {most:g}], the lower one first, "
                f"not {self.low:g} … {self.high:g}."
            )
        if not self.weight > 0:
            raise InputError(f"the weight of {self.kind} must be above 0, not {self.weight:g}.")

    @property
    def noise(self) -> Noise:
        """The noise itself."""
        return noise_named(self.kind)

    def __str__(self) -> str:
        return f"{self.kind} {self.low:g}" + (f"…{self.high:g}" if self.high > self.low else "")


def kinds() -> tuple[str, ...]:
    """Return the names of all noises, in alphabetical order."""
    return tuple(catalogue(NOISES))


def noise_named(kind: str) -> Noise:
    """Return a noise by its name.

    Raises:
        InputError: there is none of that name; the message names the nearest.
    """
    if kind not in catalogue(NOISES):
        raise InputError(f"there is no noise named {kind!r}; {nearest(kind, kinds())}.")
    found: Noise = catalogue(NOISES)[kind].load()()
    return found


def parse_tampering(text: str) -> Tampering:
    """Return the tampering that "gaussian:0.5" or "occlusion:0.2-0.4" names; ε may be written 8/255.

    Raises:
        InputError: no such noise, no strength, or one out of range.
    """
    kind, _, strengths = text.strip().partition(":")
    noise_named(kind)
    low, dash, high = strengths.partition("-")
    try:
        first = _number(low)
        return Tampering(kind, first, _number(high) if dash else first)
    except (ValueError, ZeroDivisionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"the noise {text!r} has no strength that is a number; write it like {kind}:0.5.") from None


def needs_classifier(chosen: Sequence[Tampering]) -> bool:
    """Return whether some of the noises are aimed at a classifier."""
    return any(each.noise.aimed for each in chosen)


def tamper(
    images: Images, kind: str, strength: float, seed: int, classifier: Callable[[Tensor], Tensor] | None = None
) -> Images:
    """Return images with one noise of one strength laid on them, a pure function of seed and image ids.

    Args:
        images: clean ones.
        kind: the noise's name.
        strength: within its limits.
        seed: of every random number.
        classifier: pixels to logits, for adversarial noise.

    Raises:
        InputError: no such noise, a strength out of range, or no classifier where one is needed.
    """
    noise, key = Tampering(kind, strength, strength).noise, rng.key(seed, "tamper", kind)
    parts = [
        noise(Given(x, y, ids, torch.full_like(y, strength, dtype=torch.float32), key, classifier))
        for x, y, ids in zip(*(torch.split(part, _ROWS) for part in (images.x, images.y, images.ids)), strict=True)
    ]
    return replace(images, x=torch.cat(parts) if parts else images.x)


def tamper_batch(
    x: Pixels,
    y: Int64[Tensor, " n"],
    ids: Int64[Tensor, " n"],
    chosen: Sequence[Tampering],
    key: int,
    classifier: Callable[[Tensor], Tensor] | None = None,
) -> Pixels:
    """Return a batch each of whose images has a noise and a strength drawn for itself.

    The noise is drawn by the weights, the strength evenly between the lowest and the highest (of the levels of a
    noise that has some). No noise at all leaves the batch as it is.

    Args:
        x: clean pixels in [0, 1].
        y: labels.
        ids: one a row; together with `key` they decide every draw.
        chosen: the noises to draw from.
        key: from `rng.key`, another one each step.
        classifier: pixels to logits, for adversarial noise.
    """
    if not chosen:
        return x
    which, place = _draws(ids, chosen, key)
    found = x.clone()
    for number, each in enumerate(chosen):
        of = (which == number).nonzero()[:, 0]
        if len(of):
            strength = _strengths(each, place[of])
            given = Given(x[of], y[of], ids[of], strength, rng.key(key, "noise", number), classifier)
            found[of] = each.noise(given)
    return found


def _draws(
    ids: Int64[Tensor, " n"], chosen: Sequence[Tampering], key: int
) -> tuple[Int64[Tensor, " n"], Float32[Tensor, " n"]]:
    """Return which noise each image gets, and where in [0, 1) its strength lies."""
    draws = rng.uniform(rng.key(key, "kind"), ids, torch.zeros_like(ids), (2,))
    weights = torch.tensor([each.weight for each in chosen], device=ids.device)
    ends = (weights / weights.sum()).cumsum(0)[:-1]
    return torch.bucketize(draws[:, 0].contiguous(), ends, right=True), draws[:, 1]


def _strengths(chosen: Tampering, place: Float32[Tensor, " n"]) -> Float32[Tensor, " n"]:
    levels = chosen.noise.levels
    if levels > 1:
        place = (place * levels).floor() / (levels - 1)
    return chosen.low + (chosen.high - chosen.low) * place


def _number(text: str) -> float:
    numerator, slash, denominator = text.partition("/")
    return float(numerator) / float(denominator) if slash else float(text)


def as_record(chosen: Tampering) -> dict[str, Any]:
    """Return a tampering as plain JSON."""
    return {"kind": chosen.kind, "low": chosen.low, "high": chosen.high, "weight": chosen.weight}
