"""The networks that are attacked: trained once, kept in `.cache/`, the same for every contender."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import nn

from benchmarks.hardening import Hardening, harden
from faultlight import files
from faultlight.data.load import load_data
from faultlight.models import zoo
from faultlight.train import load_recipe, train
from faultlight.train.recipe import Augment

CACHE = Path(__file__).parent.parent / ".cache"
_SHAPES = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32)}


@dataclass(frozen=True)
class Net:
    """A trained network of the zoo.

    Args:
        name: its file in the cache.
        family: its name in the zoo.
        data: what it was trained on.
        hardening: how; None stands for the recipe of the family.
        width: channels of the first group of a residual net; 0 is the family's own.
    """

    name: str
    family: str
    data: str
    hardening: Hardening | None
    width: int = 0

    def build(self) -> nn.Module:
        """Return the network with its initial weights."""
        options = {"width": self.width} if self.width else {}
        return zoo.build(self.family, 10, _SHAPES[self.data], **options)


NETS = {
    net.name: net
    for net in (
        Net("mnist-plain", "mnist-cnn", "mnist", None),
        Net(
            "mnist-hard",
            "mnist-cnn",
            "mnist",
            Hardening(1600, 128, 0.3, 0.4, 5, 0.3, 0.003, sgd=False, change=Augment()),
        ),
        Net(
            "cifar-plain",
            "mnist-cnn",
            "cifar10",
            Hardening(900, 128, 0.0, 0.0, 0, 0.0, 0.002, sgd=False, change=Augment(shift=2, flip=True)),
        ),
        Net(
            "cifar-cnn",
            "cifar-cnn",
            "cifar10",
            Hardening(1500, 128, 0.0, 0.0, 0, 0.0, 0.002, sgd=False, change=Augment(shift=2, flip=True)),
        ),
        Net(
            "cifar-hard",
            "resnet18",
            "cifar10",
            Hardening(300, 128, 8 / 255, 0.0, 1, 1.25, 0.2, sgd=True, change=Augment(shift=4, flip=True)),
        ),
        Net(
            "cifar-narrow",
            "preactresnet18",
            "cifar10",
            Hardening(2500, 128, 8 / 255, 0.0, 1, 1.0, 0.2, sgd=True, change=Augment(shift=4, flip=True)),
            width=8,
        ),
    )
}


def trained(net: Net) -> Path:
    """Return the file of a network's weights; the network is trained first where the file is not there."""
    path = CACHE / f"{net.name}.safetensors"
    if not path.exists():
        print(f"training {net.name} (once; kept in {CACHE.name}/)", flush=True)
        _train(net, path)
    return path


def load(net: Net) -> nn.Module:
    """Return the trained network in evaluation mode, with parameters that ask for gradients as users' own do."""
    module = net.build()
    module.load_state_dict(load_file(trained(net)))
    return module.eval()


def _train(net: Net, path: Path) -> None:
    began = time.monotonic()
    CACHE.mkdir(exist_ok=True)
    module = _by_recipe(net) if net.hardening is None else _by_hardening(net, net.hardening)
    record = {"net": repr(net), "seconds": round(time.monotonic() - began), "threads": torch.get_num_threads()}
    files.write_bytes(path, save({name: value.contiguous() for name, value in module.state_dict().items()}))
    files.write_json(path.with_suffix(".json"), record)


def _by_recipe(net: Net) -> nn.Module:
    return train(load_recipe(zoo.recipe(net.family)), out=CACHE / f"{net.name}-run", resume=True).subject().module


def _by_hardening(net: Net, plan: Hardening) -> nn.Module:
    torch.manual_seed(0)
    module = net.build()
    return harden(module, load_data(net.data, split="train"), plan)
