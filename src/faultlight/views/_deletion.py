"""What a net answers while an image's pixels are taken away, or put in, in the order of a map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int64
from numpy import ndarray
from torch import Tensor

from faultlight import rng
from faultlight.errors import InputError
from faultlight.models.subject import Subject
from faultlight.views._attribute import Question
from faultlight.views._input import check_finite
from faultlight.views.listening import rows_at_once


@dataclass(frozen=True)
class Curves:
    """Probabilities of the class at the shares 0, 1/p, …, 1 of the pixels, the most important first.

    Args:
        deletion: the share taken away.
        insertion: the share put in.
    """

    deletion: Float32[ndarray, "n points"]
    insertion: Float32[ndarray, "n points"]

    def areas(self) -> tuple[Float32[ndarray, " n"], Float32[ndarray, " n"]]:
        """Return the areas under both, by trapezoids over a share from 0 to 1."""
        return area(self.deletion), area(self.insertion)


def area(curve: Float32[ndarray, "n points"]) -> Float32[ndarray, " n"]:
    """Return the area under each curve over [0, 1]."""
    found: Float32[ndarray, " n"] = ((curve[:, 1:] + curve[:, :-1]) / 2).mean(1)
    return found


def curves(subject: Subject, question: Question, scores: Float32[Tensor, "n h w"], points: int) -> Curves:
    """Return the curves of an order of pixels, the highest score first (all channels of a pixel at once).

    Source: Petsiuk et al. 2018, "RISE: randomized input sampling for explanation of black-box models", section 4.2.
    Departure: what is absent is the same image x₀ for both curves, and for the map where its method has one; the paper
    takes away to grey and puts into a blurred image.

    Raises:
        InputError: fewer than one point, or NaN.
    """
    if points < 1:
        raise InputError(f"a curve of {points} points has no area; choose at least 1.")
    order = scores.flatten(1).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(order.shape[1]).expand_as(order)
    rank = torch.empty_like(order).scatter(1, order, places).view(len(order), 1, *scores.shape[1:])
    x, absent = question.images.x.cpu(), question.absent.cpu()
    counts = [round(point * order.shape[1] / points) for point in range(points + 1)]
    # As many points at a time as fill a pass, each with every image twice.
    together = max(1, rows_at_once(x) // (2 * len(x)))
    found = []
    for start in range(0, len(counts), together):
        taken = [rank < count for count in counts[start : start + together]]
        pairs = [torch.stack([x.where(~gone, absent), absent.where(~gone, x)]) for gone in taken]
        found.append(probability(subject, torch.stack(pairs), question))
    deletion, insertion = torch.cat(found).permute(1, 2, 0).numpy()
    return Curves(deletion, insertion)


@torch.no_grad()
def probability(subject: Subject, x: Float32[Tensor, "p s n c h w"], question: Question) -> Float32[Tensor, "p s n"]:
    """Return the probability of each image's class on several versions of it."""
    flat = x.flatten(0, 2)
    parts = [subject(part.to(subject.device)).softmax(1).cpu() for part in torch.split(flat, rows_at_once(flat))]
    versions = torch.cat(parts).view(*x.shape[:3], -1)
    target = question.target.cpu().expand(x.shape[:3])
    found = versions.gather(3, target[..., None])[..., 0]
    by_image = found.permute(2, 0, 1)
    check_finite(by_image, question.images.ids, "class probabilities with pixels taken away")
    return found


@dataclass(frozen=True)
class Controls:
    """What the curves of a map are held against.

    Args:
        random: the mean of the curves of random orders.
        random_areas: their areas: deletion, insertion; for each image and order.
        intensity: the curves of the order by |x − x₀|, which asks no model.
    """

    random: Curves
    random_areas: tuple[Float32[ndarray, "n orders"], Float32[ndarray, "n orders"]]
    intensity: Curves


def controls(subject: Subject, question: Question, points: int, orders: int) -> Controls:
    """Return the controls of some images.

    Args:
        subject: the model.
        question: what is asked.
        points: of the curves.
        orders: how many random orders, at least 1.
    """
    if orders < 1:
        raise InputError(f"{orders} random orders are no control; choose at least 1.")
    drawn = [curves(subject, question, _random(question, number), points) for number in range(orders)]
    mean = Curves(np.mean([one.deletion for one in drawn], axis=0), np.mean([one.insertion for one in drawn], axis=0))
    areas = [one.areas() for one in drawn]
    deletion, insertion = (np.stack([pair[side] for pair in areas], 1) for side in (0, 1))
    bright = (question.images.x - question.absent).abs().amax(1).cpu()
    return Controls(mean, (deletion, insertion), curves(subject, question, bright, points))


def _random(question: Question, number: int) -> Float32[Tensor, "n h w"]:
    ids: Int64[Tensor, " n"] = question.images.ids.cpu()
    step = torch.full_like(ids, number)
    return rng.uniform(rng.key(question.seed, "random-order"), ids, step, question.images.shape[1:])


@dataclass(frozen=True)
class Standing:
    """How a map's curves compare with those of random orders.

    Args:
        deletion: mean area, and that of the random orders.
        insertion: the same.
        better: on how many images the deletion area is below, and the insertion area above, those of all random orders.
        chance: the probability that as many would be by chance alone, for deletion and insertion.
        plain: whether the order by |x − x₀|, which asks no model, does at least as well in both.
    """

    deletion: tuple[float, float]
    insertion: tuple[float, float]
    better: tuple[int, int]
    chance: tuple[float, float]
    plain: bool


def standing(found: Curves, against: Controls) -> Standing:
    """Return how curves compare with their controls: by chance a map beats k random orders once in k + 1 images."""
    from scipy import stats

    deletion, insertion = found.areas()
    random_deletion, random_insertion = against.random_areas
    n, orders = random_deletion.shape
    wins = int((deletion < random_deletion.min(1)).sum()), int((insertion > random_insertion.max(1)).sum())
    low, high = (float(stats.binom.sf(count - 1, n, 1 / (orders + 1))) for count in wins)
    pairs = ((deletion, random_deletion), (insertion, random_insertion))
    areas = [(float(own.mean()), float(random.mean())) for own, random in pairs]
    bright = [float(each.mean()) for each in against.intensity.areas()]
    plain = bright[0] <= areas[0][0] and bright[1] >= areas[1][0]
    return Standing(areas[0], areas[1], wins, (low, high), plain)
