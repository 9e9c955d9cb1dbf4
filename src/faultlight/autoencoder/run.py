"""`train`: one recipe, one folder, one network that gives back images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from faultlight import rng
from faultlight.autoencoder.measure import compare, decibels, errors, restore
from faultlight.autoencoder.nets import Net, build, parameters_of
from faultlight.autoencoder.recipe import KIND, AutoencoderRecipe
from faultlight.autoencoder.saved import load_autoencoder, save_autoencoder
from faultlight.autoencoder.tampering import as_record, needs_classifier, tamper_batch
from faultlight.data.images import Images
from faultlight.data.load import load_data
from faultlight.models.load import load_model
from faultlight.models.subject import Subject
from faultlight.train.inner import evaluating
from faultlight.train.memory import Resident, Splits, check_splits, reside, shuffle
from faultlight.train.schedule import learning_rate
from faultlight.train.steps import StepPlan, StepState, build_optimiser
from faultlight.train.steps_run import StepRun, run_in_folder

# Validation images of a row of the record: enough to see where a run goes, few enough to cost next to nothing.
_WATCHED = 500
# Convolutions of few maps are up to 1.4 times as fast so.
_LAYOUT = torch.channels_last


@dataclass(frozen=True)
class AutoencoderResult:
    """What a training run came to.

    Args:
        folder: where the records and the weights are.
        parameters: how many numbers were learnt.
        test_mse: mean squared error on the clean test images.
        test_psnr: the same in decibels.
        noises: for each noise of the recipe at its greatest strength: kind, strength, mse, mse_restored; those that are
            aimed at a classifier are left to `compare`.
        test_count: how many test images there are.
        seconds: spent on training, over all resumptions.
        steps_per_second: of the optimiser.
        target: {"metric", "at_most"}, or None.
        met: whether the target was reached; None without one.
    """

    folder: Path
    parameters: int
    test_mse: float
    test_psnr: float | None
    noises: list[dict[str, Any]]
    test_count: int
    seconds: float
    steps_per_second: float
    target: dict[str, Any] | None
    met: bool | None

    def net(self) -> Net:
        """Return the trained network, in evaluation mode."""
        return load_autoencoder(self.folder)


@dataclass(frozen=True)
class _Task:
    recipe: AutoencoderRecipe
    splits: Splits
    classifier: Subject | None
    images: Resident
    ids: Tensor
    device: str


def train(
    recipe: AutoencoderRecipe,
    *,
    out: Path | str,
    splits: Splits | None = None,
    resume: bool = False,
    device: str = "cpu",
    quiet: bool = False,
) -> AutoencoderResult:
    """Train an autoencoder or denoiser by a recipe, and write the run's folder.

    min_θ E ‖g_θ(T(x)) − x‖², T the noise drawn for each image at each step. The weights kept are those of the last
    step: nothing is chosen on the test images.

    Args:
        recipe: everything that is computed.
        out: the folder; it gets run.toml, stamp.json, model.json, model.safetensors and records/training.json.
        splits: the images; None loads those of the recipe.
        resume: go on with the run in the folder, from its last checkpoint; where there is none, begin.
        device: "cpu", "cuda" or "cuda:1".
        quiet: show no progress.

    Raises:
        InputError: the folder holds another run or is in use, the images cannot be had or do not fit the network, or
            the loss became NaN.
        KeyboardInterrupt: Ctrl-C was pressed; the state is kept and `resume` goes on from it.

    Source: Vincent et al. 2010, "Stacked denoising autoencoders", section 3.
    """
    images = check_splits(splits) if splits else load_images(recipe.data, recipe.split_seed)
    blueprint = recipe.network.blueprint(images.train.shape)
    classifier = aimed_at(recipe, images.train, device)
    task = _Task(recipe, images, classifier, reside(images.train, device), images.train.ids.to(device), device)
    given: dict[str, Any] = images.fingerprints()
    if classifier:
        given["classifier"] = classifier.fingerprint()

    def begin() -> StepState:
        net = build(blueprint, recipe.seed).to(device=device, memory_format=_LAYOUT)  # type: ignore[call-overload]
        return StepState({"net": net}, {"net": build_optimiser(recipe.optimiser, net.parameters())})

    pace = (recipe.name, recipe.steps, recipe.seed, recipe.record_every)
    plan = StepPlan(*pace, partial(_step, task), _watch(task), device=device, quiet=quiet)
    asked = StepRun(KIND, recipe, given, plan, begin, partial(_save, recipe), partial(_finish, task))
    record = run_in_folder(asked, Path(out), resume)
    figures = {name: record[name] for name in AutoencoderResult.__dataclass_fields__ if name != "folder"}
    return AutoencoderResult(Path(out), **figures)


def load_images(data: str, split_seed: int) -> Splits:
    """Return the three splits of a data set.

    Raises:
        InputError: the data cannot be loaded, a split is empty, or its splits differ in shape or classes.
    """
    train, validation, test = (load_data(data, each, split_seed=split_seed) for each in ("train", "validation", "test"))
    return check_splits(Splits(train, validation, test))


def aimed_at(recipe: AutoencoderRecipe, images: Images, device: str) -> Subject | None:
    """Return the classifier that the recipe's noise is aimed at, once it has taken two images; None where none is."""
    if not needs_classifier(recipe.tamperings()):
        return None
    found = load_model(
        recipe.classifier,
        weights=recipe.classifier_weights or None,
        classes=len(images.classes),
        shape=images.shape,
        device=device,
    )
    with torch.no_grad():
        found(images.x[:2].to(device))
    return found


def rows_of(count: int, batch: int, seed: int, step: int) -> Tensor:
    """Return the rows of a step: epochs one after the other, each a shuffle of its own; leftovers wait for the next."""
    batch = min(batch, count)
    epoch, place = divmod(step, count // batch)
    return shuffle(count, seed, epoch)[place * batch : (place + 1) * batch]


def _step(task: _Task, state: StepState) -> dict[str, Tensor]:
    recipe, step, net = task.recipe, state.step, state.modules["net"]
    rows = rows_of(len(task.images), recipe.batch, recipe.seed, step)
    x, y = task.images.take(rows)
    key = rng.key(recipe.seed, "tamper", step)
    given = tamper_batch(x, y, task.ids[rows.to(task.ids.device)], recipe.tamperings(), key, task.classifier)
    loss = _loss(recipe)(net.train()(given.contiguous(memory_format=_LAYOUT)), x)
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser = state.optimisers["net"]
    for group in optimiser.param_groups:
        group["lr"] = learning_rate(recipe.schedule, recipe.optimiser.lr, step, recipe.steps)
    optimiser.step()
    optimiser.zero_grad()
    return {"loss": loss}


def _loss(recipe: AutoencoderRecipe) -> Callable[[Tensor, Tensor], Tensor]:
    return functional.mse_loss if recipe.loss == "mse" else _cross_entropy


def _cross_entropy(said: Tensor, x: Tensor) -> Tensor:
    """Return the binary cross-entropy, NaN for NaN: PyTorch would refuse it before the loop could say what happened."""
    loss = functional.binary_cross_entropy(said.nan_to_num(0.5), x)
    return torch.where(said.isnan().any(), torch.nan, loss)


def _watch(task: _Task) -> Callable[[StepState], dict[str, float]]:
    """Return what measures a row of the record: the same noise on the same validation images each time."""
    held = task.splits.validation.first(_WATCHED).to(task.device)
    key = rng.key(task.recipe.seed, "watch")
    given = tamper_batch(held.x, held.y, held.ids, task.recipe.tamperings(), key, task.classifier)

    def record(state: StepState) -> dict[str, float]:
        net = state.modules["net"]
        with evaluating(net), torch.no_grad():
            figures = {"validation_mse": float(errors(restore(net, held.x), held.x).mean())}
            if task.recipe.tamper:
                figures["validation_mse_tampered"] = float(errors(restore(net, given), held.x).mean())
        return figures

    return record


def _save(recipe: AutoencoderRecipe, state: StepState, out: Path) -> None:
    tampered = [as_record(each) for each in recipe.tamperings()]
    facts = {"recipe": recipe.name, "data": recipe.data, "tamper": tampered}
    save_autoencoder(out, state.modules["net"], facts)  # type: ignore[arg-type]


def _finish(task: _Task, state: StepState, _out: Path) -> dict[str, Any]:
    recipe, net = task.recipe, state.modules["net"].eval()
    noises = [(each.kind, each.high) for each in recipe.tamperings() if not each.noise.aimed]
    found = compare(net, task.splits.test.to(task.device), noises, seed=recipe.seed)
    clean, *others = found.rows
    target = recipe.target.model_dump() if recipe.target else None
    return {
        "parameters": parameters_of(net),
        "test_mse": clean.mse_restored,
        "test_psnr": decibels(clean.mse_restored),
        "noises": [
            {"kind": row.kind, "strength": row.strength, "mse": row.mse, "mse_restored": row.mse_restored}
            for row in others
        ],
        "test_count": found.n,
        "target": target,
        "met": clean.mse_restored <= target["at_most"] if target else None,
    }
