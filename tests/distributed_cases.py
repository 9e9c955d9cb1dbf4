"""Small runs that two processes must end as one does; as a program, what torchrun starts to do them."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from faultlight.data.load import load_data
from faultlight.train import Splits, load_recipe, train
from faultlight.train.launch import launched
from faultlight.train.ranks import ALONE, Ranks
from faultlight.train.shared_layers import as_one_batch

BALL = {"objective.threat": "linf:0.1", "robust_validation.images": 16}
# Plain SGD: Adam divides by the gradient's own size, so it makes large what rounding leaves of a gradient that is 0.
BASE: dict[str, Any] = {
    "epochs": 1,
    "batch": 25,  # which two cannot share evenly
    "precision": "float32",
    "optimiser.name": "sgd",
    "optimiser.lr": 0.05,
}
CASES: dict[str, dict[str, Any]] = {
    "standard": {"augment.shift": 1, "augment.rotate": 10.0, "augment.flip": True, "ema": 0.5, "epochs": 2},
    "mixup": {"objective.mixup": 1.0, "objective.cutmix": 1.0, "label_smoothing": 0.1},
    "adversarial": {"objective.name": "adversarial", "objective.steps": 3, **BALL},
    "trades": {"objective.name": "trades", "objective.steps": 2, **BALL},
    "free": {"objective.name": "free", "objective.replays": 2, **BALL},
    "awp": {"objective.name": "awp", "objective.steps": 1, "objective.warmup": 0.0, "objective.gamma": 0.05, **BALL},
    "ibp": {"objective.name": "ibp", **BALL},
    "batch-norm": {"model": "preactresnet18", "options": {"width": 2}},
    "dropout": {"model": "cifar-cnn"},
}
FEW = ("standard", "adversarial")
REST = tuple(name for name in CASES if name not in FEW)
LONG = {"epochs": 400}


def splits() -> Splits:
    """A few of the embedded digits."""
    return Splits(load_data("digits", "train", 75), load_data("digits", "validation", 20), load_data("digits", n=20))


def run(
    case: dict[str, Any], out: Path, ranks: Ranks = ALONE, resume: bool = False, data: Splits | None = None
) -> None:
    """Do one of the runs."""
    recipe = load_recipe("digits-cnn", BASE | case)
    train(recipe, out=out, data=data or splits(), quiet=True, ranks=ranks, resume=resume)


def normalised(rows: slice, ranks: Ranks) -> dict[str, Tensor]:
    """What batch norm makes of these rows of a batch of 7, its gradients, and its running statistics."""
    generator = torch.Generator().manual_seed(0)
    layer = nn.BatchNorm2d(3)
    x, say = (5 + 2 * torch.randn(7, 3, 4, 4, generator=generator) for _ in range(2))
    own = x[rows].requires_grad_()
    with as_one_batch(ranks.share(7)):
        out = layer(own)
    (out**2 * say[rows]).sum().backward()
    assert own.grad is not None
    assert layer.weight.grad is not None
    assert layer.running_mean is not None
    assert layer.running_var is not None
    found = {"out": out.detach(), "gradient": own.grad}
    parts = {name: ranks.share(7).whole(value) for name, value in found.items()}
    (weight,) = ranks.share(7).total([layer.weight.grad])
    return parts | {"weight": weight, "mean": layer.running_mean, "variance": layer.running_var}


def _few(folder: Path, ranks: Ranks) -> None:
    share = ranks.share(7)
    found = normalised(slice(share.start, share.stop), ranks)
    for name in FEW:
        run(CASES[name], folder / name, ranks)
    if ranks.first:
        save_file(found, folder / "normalised.safetensors")


def _rest(folder: Path, ranks: Ranks) -> None:
    for name in REST:
        run(CASES[name], folder / name, ranks)
    run(CASES["adversarial"] | {"epochs": 3}, folder / "resumed", ranks, resume=True)


def main(task: str, folder: Path) -> None:
    """Do what the test asks for."""
    with launched("cpu") as among:
        ranks = among or ALONE
        if task == "few":
            _few(folder, ranks)
        elif task == "rest":
            _rest(folder, ranks)
        elif task == "long":
            run(LONG, folder, ranks)
        elif task == "unlike":
            other = replace(splits(), test=load_data("digits", n=10 + ranks.rank))
            run({}, folder, ranks, data=other)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
