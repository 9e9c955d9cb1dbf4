"""What is left of a map when the net forgets what it learned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32
from numpy import ndarray
from torch import Tensor

from faultlight import rng
from faultlight.errors import InputError
from faultlight.models.subject import Subject
from faultlight.views._initial import forgotten, learned
from faultlight.views.listening import listen

Explain = Callable[[Subject], Float32[Tensor, "n h w"]]


@dataclass(frozen=True)
class Cascade:
    """Rank correlations of maps with those of the net while its layers forget, from the logits down.

    Args:
        layers: which layers have forgotten more at each stage.
        signed: Spearman's ρ of the maps, at each stage for each image; NaN where a map is constant.
        magnitude: the same of |map|, which stays high wherever a map is 0 outside of the drawing, as for a factor x.
        last: the maps when all have forgotten.
    """

    layers: tuple[tuple[str, ...], ...]
    signed: Float[ndarray, "stages n"]
    magnitude: Float[ndarray, "stages n"]
    last: Float32[ndarray, "n h w"]


def cascade(subject: Subject, x: Float32[Tensor, "n c h w"], explain: Explain, stages: int, seed: int) -> Cascade:
    """Return what becomes of maps as the weights of one layer after the other are drawn anew, the last layers first.

    Source: Adebayo et al. 2018, "Sanity checks for saliency maps", section 3.1 (cascading randomization).
    Departure: where there are more layers than stages, several forget at once.

    Args:
        subject: the model.
        x: images, of which the first tells the order of the layers.
        explain: gives the maps of a model on the images.
        stages: how many at most.
        seed: of the weights drawn.

    Raises:
        InputError: the model has no weights, or fewer than one stage is asked for.
    """
    layers = in_order(subject, x[:1])[::-1]
    if not layers or stages < 1:
        what = f"{stages} stages are" if layers else f"the model {subject.name!r} has no weights, so there is"
        raise InputError(f"{what} nothing to forget in; choose at least 1 stage and a model with weights.")
    own = explain(subject).numpy()
    groups = [tuple(map(str, part)) for part in np.array_split(np.array(layers), min(stages, len(layers)))]
    maps = []
    for stage in range(len(groups)):
        forgot = {name for part in groups[: stage + 1] for name in part}
        maps.append(explain(forgotten(subject, weights_key(seed), forgot)).numpy())
    signed = np.stack([rank_correlation(own, one) for one in maps])
    magnitude = np.stack([rank_correlation(np.abs(own), np.abs(one)) for one in maps])
    return Cascade(tuple(groups), signed, magnitude, maps[-1])


def weights_key(seed: int) -> int:
    """Return the seed of the weights drawn anew: no plain number, for training began with one and stays near it."""
    return rng.key(seed, "forgetting") % 2**63


@torch.no_grad()
def in_order(subject: Subject, x: Float32[Tensor, "1 c h w"]) -> list[str]:
    """Return the layers with weights in the order of their last call, those that are never called as modules first."""
    names = {name or type(subject.module).__name__: name for name in learned(subject)}
    called: list[str] = []
    listen(subject, x.to(subject.device), list(names), lambda call, _: called.append(call.partition("#")[0]))
    last = {name: place for place, name in enumerate(called)}
    return sorted(names.values(), key=lambda name: last.get(name or type(subject.module).__name__, -1))


def rank_correlation(one: Float[ndarray, "n h w"], other: Float[ndarray, "n h w"]) -> Float[ndarray, " n"]:
    """Return Spearman's ρ of each pair of maps, ties at their mean rank; NaN where a map is constant."""
    from scipy import stats

    ranks = [stats.rankdata(maps.reshape(len(maps), -1), axis=1) for maps in (one, other)]
    first, second = (rank - rank.mean(1, keepdims=True) for rank in ranks)
    size = np.sqrt((first**2).sum(1) * (second**2).sum(1))
    found: Float[ndarray, " n"] = (first * second).sum(1) / np.where(size > 0, size, np.nan)
    return found
