"""`gan train`: one recipe, one folder, a film of what was drawn on the way."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import torch as safetensors
from torch import Tensor, nn

from faultlight import files
from faultlight.data.images import Images
from faultlight.gan.film import ARRAYS, frame, frame_key, frame_steps, frames_of, strip, write_film
from faultlight.gan.nets import Generator, build_pair, parameter_count
from faultlight.gan.reals import Reals, load_reals, place_reals
from faultlight.gan.recipe import KIND, GanRecipe
from faultlight.gan.sample import latent_points
from faultlight.gan.saved import load_generator, save_generator
from faultlight.gan.step import play
from faultlight.train.average import renew_statistics
from faultlight.train.numerics import check_device
from faultlight.train.steps import StepPlan, StepState, build_optimiser
from faultlight.train.steps_run import StepRun, run_in_folder

# Points that the running statistics of an averaged generator are found on.
_RENEWING, _RENEWING_BATCH = 5000, 250


@dataclass(frozen=True)
class GanResult:
    """What the training of a generator came to.

    Args:
        folder: where the records, the weights and the film are.
        parameters: how many numbers the generator has, and the discriminator.
        d_real: mean probability of "real" (or score) that real images got over the last steps.
        d_fake: the same of drawn ones.
        seconds: spent on training, over all resumptions.
        steps_per_second: of the generator.
    """

    folder: Path
    parameters: tuple[int, int]
    d_real: float
    d_fake: float
    seconds: float
    steps_per_second: float

    def generator(self) -> Generator:
        """Return the trained generator, in evaluation mode."""
        return load_generator(self.folder)


def train(
    recipe: GanRecipe,
    *,
    out: Path | str,
    images: Images | None = None,
    resume: bool = False,
    device: str = "cpu",
    quiet: bool = False,
) -> GanResult:
    """Train a generator by a recipe, and write the run's folder.

    Args:
        recipe: everything that is computed.
        out: the folder; it gets run.toml, stamp.json, model.json, model.safetensors, records/training.json,
            arrays/film.safetensors (bytes by step), film-strip.png and film.png, which moves.
        images: what is learnt; None loads that of the recipe.
        resume: go on with the run in the folder, from its last checkpoint; where there is none, begin.
        device: "cpu", "cuda" or "cuda:1".
        quiet: show no progress.

    Raises:
        InputError: the folder holds another run or is in use, there are fewer images than a batch, or a loss became
            NaN.
        KeyboardInterrupt: Ctrl-C was pressed; the state is kept and `resume` goes on from it.
    """
    check_device(device)
    if images is None:
        reals = load_reals(recipe.data, recipe.stack, recipe.batch, device)
    else:
        reals = place_reals(images, recipe.stack, recipe.batch, device)
    # Built before anything is written: images that the nets cannot take leave no folder that looks like a run.
    design = recipe.design(reals.shape)
    plan = StepPlan(
        recipe.name,
        recipe.steps,
        recipe.seed,
        recipe.record_every,
        step=partial(_step, recipe, reals, frozenset(frame_steps(recipe.steps, recipe.frames))),
        device=device,
        quiet=quiet,
        advice="lower optimiser.lr, or choose another loss",
    )
    run = StepRun(
        KIND,
        recipe,
        {"images": reals.images.fingerprint()},
        plan,
        start=lambda: start(recipe, *build_pair(design, recipe.seed), device=device),
        weights=partial(_save, recipe),
        finish=partial(_finish, recipe, reals.images.classes),
    )
    return _result(Path(out), run_in_folder(run, Path(out), resume))


def start(recipe: GanRecipe, generator: nn.Module, discriminator: nn.Module, device: str = "cpu") -> StepState:
    """Return the state before the first step, its first frame drawn."""
    # A tenth quicker for convolutions, and of no effect on perceptrons.
    place: dict[str, Any] = {"device": device, "memory_format": torch.channels_last}
    pair = {"generator": generator.to(**place), "discriminator": discriminator.to(**place)}
    average = {"average": copy.deepcopy(generator).requires_grad_(False)} if recipe.ema else {}
    optimisers = {
        name: build_optimiser(recipe.optimiser, each.parameters(), recipe.second_momentum)
        for name, each in pair.items()
    }
    state = StepState({**pair, **average}, optimisers)
    state.extra[frame_key(0)] = frame(kept(state), recipe.seed)
    return state


def kept(state: StepState) -> Generator:
    """Return the generator that is kept: the averaged one where there is one."""
    generator = state.modules.get("average", state.modules["generator"])
    assert isinstance(generator, Generator)
    return generator


def _step(recipe: GanRecipe, reals: Reals, frames: frozenset[int], state: StepState) -> dict[str, Tensor]:
    seen = play(recipe, reals, state)
    if state.step + 1 in frames:
        state.extra[frame_key(state.step + 1)] = frame(kept(state), recipe.seed)
    return seen


def _save(recipe: GanRecipe, state: StepState, out: Path) -> None:
    generator = kept(state)
    if recipe.ema:
        z = latent_points(_RENEWING, recipe.latent, recipe.seed)
        device = next(generator.parameters()).device
        renew_statistics(generator, (z[i : i + _RENEWING_BATCH].to(device) for i in range(0, len(z), _RENEWING_BATCH)))
    save_generator(out, generator)


def _finish(recipe: GanRecipe, classes: tuple[str, ...], state: StepState, out: Path) -> dict[str, Any]:
    frames = frames_of(state.extra)
    files.write_bytes(out / ARRAYS, safetensors.save({str(step): each.contiguous() for step, each in frames.items()}))
    write_film(out, frames)
    return {
        "loss": recipe.loss,
        "leak": recipe.leak,
        "classes": list(classes),
        "frames": list(frames),
        "strip": list(strip(frames)[0]),
        "parameters": [parameter_count(state.modules[name]) for name in ("generator", "discriminator")],
        **{name: state.history[-1][name] for name in ("d_real", "d_fake")},
    }


def _result(out: Path, record: Mapping[str, Any]) -> GanResult:
    figures = {name: record[name] for name in GanResult.__dataclass_fields__ if name not in ("folder", "parameters")}
    return GanResult(out, tuple(record["parameters"]), **figures)
