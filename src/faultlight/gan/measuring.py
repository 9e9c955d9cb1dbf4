"""What a generator draws, as a classifier sees it: recognised, spread over the classes, close to real images or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from numpy import ndarray
from safetensors import torch as safetensors
from torch import Tensor

from faultlight import files
from faultlight.data.images import Images
from faultlight.data.load import load_data
from faultlight.errors import InputError
from faultlight.gan.fidelity import frechet_distance, precision_recall
from faultlight.gan.film import as_bytes, grid, png
from faultlight.gan.modes import Modes, alarms, modes, within_class_spread
from faultlight.gan.nearest import nearest
from faultlight.gan.reals import Reals, load_reals, place_reals
from faultlight.gan.recipe import GanRecipe
from faultlight.gan.sample import between, draw, draw_at, latent_points
from faultlight.gan.saved import load_generator
from faultlight.models.subject import Subject
from faultlight.runtime import lock
from faultlight.train.folder import read_asked
from faultlight.train.steps_recipe import parse
from faultlight.views._features import feature_layer, features

RECORD, ARRAYS = "records/measure.json", "arrays/measure.safetensors"
SCHEMA = 1
CONFIDENT = 0.9
_BATCH, _PRECISION_COUNT, _SHOWN, _WAYS, _STOPS = 500, 5000, 10, 6, 12


@dataclass(frozen=True)
class Seen:
    """What a classifier made of images.

    Args:
        prediction: the class, or for stacks Σ class·classes^place, the first channel's the highest.
        confidence: the probability of that class; for stacks the least of the channels'.
        features: what the logits are computed from; for stacks those of all channels.
    """

    prediction: Int[ndarray, " n"]
    confidence: Float[ndarray, " n"]
    features: Float[ndarray, "n f"]


def see(subject: Subject, x: Float32[Tensor, "n c h w"], stack: int = 1) -> Seen:
    """Ask a classifier about images, or about each layer of stacks by itself."""
    one = x.shape[1] // stack
    seen = [_see(subject, x[:, place * one : (place + 1) * one].contiguous()) for place in range(stack)]
    prediction = np.zeros(len(x), np.int64)
    for each in seen:
        prediction = prediction * subject.classes + each.prediction
    confidence = np.minimum.reduce([each.confidence for each in seen])
    return Seen(prediction, confidence, np.concatenate([each.features for each in seen], 1))


def measure(
    folder: Path | str,
    subject: Subject,
    *,
    n: int = 10_000,
    seed: int = 0,
    train: Images | None = None,
    held_out: Images | None = None,
) -> dict[str, Any]:
    """Measure what a run's generator draws, and write records/measure.json and three pictures into its folder.

    Real held-out images go through the same measures, so that each figure has one beside it that is as good as can be.

    Args:
        folder: of a run.
        subject: a classifier of the images that were learnt, or of the layers of a stack.
        n: samples, ≥ 10.
        seed: of the samples.
        train: the images learnt from; None loads those of the recipe.
        held_out: real images that were not; None loads the test split of the recipe's data.

    Raises:
        InputError: no finished run there, fewer than 10 samples, or the classifier does not take such images.
    """
    folder = Path(folder)
    if n < 10:
        raise InputError(f"{n} samples say nothing of what is drawn; take at least 10.")
    generator, recipe = load_generator(folder), read_recipe(folder)
    reals = place_reals(train, recipe.stack, 2, "cpu") if train else load_reals(recipe.data, recipe.stack, 2, "cpu")
    others = place_reals(held_out or load_data(recipe.data, "test"), recipe.stack, 2, "cpu")
    with lock(folder), torch.random.fork_rng(devices=[]):
        drawn = draw(generator, n, seed)
        # Real images at most once each: a copy is a neighbour at no distance, and of such nothing is near to anything.
        known, held = (each.sample(min(n, len(each.images)), seed) for each in (reals, others))
        shown = _Shown(drawn, known, held, recipe.stack)
        figures, counts = _measured(subject, shown)
        record = {"schema": SCHEMA, "n": n, "seed": seed, "classifier": _named(subject), **figures}
        record |= {"target": _target(recipe, record), "memory": _memory(folder, shown, reals, counts)}
        _interpolation(folder, latent_points(2 * _WAYS, recipe.latent, seed), generator)
        files.write_bytes(folder / "samples.png", png(grid(as_bytes(drawn[: _SHOWN**2]), _SHOWN)))
        files.write_json(folder / RECORD, record)
    return record


def read_recipe(folder: Path) -> GanRecipe:
    """Return the recipe that a run was trained by.

    Raises:
        InputError: the folder holds no run.
    """
    asked = read_asked(folder)
    if asked is None or "recipe" not in asked:
        raise InputError(f"{folder} holds no run.toml of a generator; give a folder that `faultlight gan train` wrote.")
    return parse(GanRecipe, asked["recipe"], str(folder / "run.toml"))


@dataclass(frozen=True)
class _Shown:
    drawn: Tensor
    known: Tensor
    held_out: Tensor
    stack: int


def _measured(subject: Subject, shown: _Shown) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the figures, and how many drawn and held-out images fall into each class."""
    drawn, known, held_out = (see(subject, x, shown.stack) for x in (shown.drawn, shown.known, shown.held_out))
    classes = subject.classes**shown.stack
    spread, real = modes(drawn.prediction, classes), modes(held_out.prediction, classes)
    wide, usual = _wide(shown.drawn, drawn), _wide(shown.held_out, held_out)
    # A Fréchet distance falls with the number of images it rests on: of different numbers it would compare the numbers.
    fewer = min(len(shown.drawn), len(shown.held_out))
    found = alarms(spread, real, wide / max(usual, 1e-9))
    counts = {"class_counts": spread.counts, "held_out_class_counts": real.counts}
    return {
        "classes": classes,
        "drawn": _figures(known, drawn, spread, wide, fewer),
        "held_out": _figures(known, held_out, real, usual, fewer),
        "alarm": bool(found),
        "findings": [asdict(each) for each in found],
    }, {name: torch.from_numpy(each) for name, each in counts.items()}


def _figures(known: Seen, seen: Seen, found: Modes, spread: float, count: int) -> dict[str, Any]:
    compared = seen.features[:count]
    return {
        "n": len(seen.prediction),
        "confident": float((seen.confidence >= CONFIDENT).mean()),
        "fid_n": count,
        "classifier_fid": frechet_distance(known.features, compared),
        **_near(known.features, compared),
        "spread": spread,
        "modes": found.record(),
    }


def _near(known: Float[ndarray, "n f"], others: Float[ndarray, "m f"]) -> dict[str, float]:
    count = min(len(known), len(others), _PRECISION_COUNT)
    return asdict(precision_recall(known[:count], others[:count], min(3, count - 1)))


def _wide(x: Tensor, seen: Seen) -> float:
    return within_class_spread(x.numpy(), seen.prediction)


def _see(subject: Subject, x: Tensor) -> Seen:
    images = Images(x, torch.zeros(len(x), dtype=torch.int64), torch.arange(len(x)), ("",) * subject.classes)
    with torch.no_grad():
        chance = torch.cat([subject(part.to(subject.device)).softmax(1).cpu() for part in torch.split(x, _BATCH)])
    confidence, prediction = chance.max(1)
    return Seen(prediction.numpy(), confidence.numpy(), features(subject, images, feature_layer(subject, x, None)))


def _memory(folder: Path, shown: _Shown, reals: Reals, counts: Mapping[str, Tensor]) -> dict[str, Any]:
    """Find the nearest training images, draw the pairs, and write the arrays; stacks are looked at layer by layer."""
    layers = shown.stack
    drawn, others = (_layers(x[:_BATCH], layers) for x in (shown.drawn, shown.held_out))
    near, usual = nearest(drawn, reals.images.x), nearest(others, reals.images.x)
    pairs = torch.stack([drawn[:_SHOWN], reals.images.x[near.row[:_SHOWN]]]).flatten(0, 1)
    files.write_bytes(folder / "nearest.png", png(grid(as_bytes(pairs), _SHOWN)))
    arrays = {
        **counts,
        "nearest_rows": near.row,
        "nearest_distances": near.distance,
        "held_out_distances": usual.distance,
    }
    files.write_bytes(folder / ARRAYS, safetensors.save({name: each.contiguous() for name, each in arrays.items()}))
    middle, real = float(near.distance.median()), float(usual.distance.median())
    return {"n": len(drawn), "median_distance": middle, "held_out_median_distance": real}


def _layers(x: Tensor, stack: int) -> Tensor:
    count, channels, height, width = x.shape
    return x.reshape(count * stack, channels // stack, height, width)


def _interpolation(folder: Path, ends: Tensor, generator: Any) -> None:
    ways = [between(ends[2 * i], ends[2 * i + 1], _STOPS) for i in range(_WAYS)]
    files.write_bytes(folder / "interpolation.png", png(grid(as_bytes(draw_at(generator, torch.cat(ways))), _STOPS)))


def _target(recipe: GanRecipe, record: Mapping[str, Any]) -> dict[str, Any] | None:
    if recipe.target is None:
        return None
    found = record["drawn"][recipe.target.metric]
    return recipe.target.model_dump() | {"found": found, "met": found >= recipe.target.at_least}


def _named(subject: Subject) -> dict[str, str]:
    return {"name": subject.name, "fingerprint": subject.fingerprint()}
