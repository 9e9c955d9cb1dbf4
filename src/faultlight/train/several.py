"""One recipe under several seeds, each a run of its own in a folder of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from faultlight.errors import InputError
from faultlight.train import folder as place
from faultlight.train.memory import load_splits
from faultlight.train.recipe import Recipe
from faultlight.train.result import TrainResult
from faultlight.train.run import train


def parse_seeds(text: str) -> tuple[int, ...]:
    """Return the seeds that "0,1,2" names, or the first three for "3".

    Raises:
        InputError: anything else, no seed at all, or one that is named twice.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and part.isascii() for part in parts):
        raise InputError(f"--seeds needs a number of seeds, such as 3, or a list of them, such as 0,1,2, not {text!r}.")
    numbers = tuple(map(int, parts))
    seeds = tuple(range(numbers[0])) if len(parts) == 1 else numbers
    if not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"--seeds {text} names {'a seed twice' if seeds else 'no seed'}; give each seed once.")
    return seeds


def seed_folder(out: Path, seed: int) -> Path:
    """Return where the run of a seed lies."""
    return out / f"seed-{seed}"


def train_seeds(
    recipe: Recipe, seeds: Sequence[int], *, out: Path, resume: bool = False, device: str = "cpu", quiet: bool = False
) -> list[TrainResult]:
    """Train by a recipe once for each seed, in OUT/seed-N; everything but the seed is the same.

    Args:
        recipe: its own seed is not used.
        seeds: which to train with.
        out: the folder above those of the runs.
        resume: go on with whatever part of this stands in the folder.
        device: "cpu", "cuda" or "cuda:1".
        quiet: show no progress.

    Raises:
        InputError: any of the folders holds another run, or whatever `train` raises; nothing is trained before all
            folders were looked at.
        KeyboardInterrupt: Ctrl-C was pressed; `resume` goes on.
    """
    for seed in seeds:
        place.check_free(seed_folder(out, seed), resume)
    data = load_splits(recipe.data, recipe.split_seed)
    return [
        train(
            recipe.model_copy(update={"seed": seed}),
            out=seed_folder(out, seed),
            data=data,
            resume=resume,
            device=device,
            quiet=quiet,
        )
        for seed in seeds
    ]
