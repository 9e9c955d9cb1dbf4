"""How a run computes: precision, memory layout and device, decided by rule so that a repetition decides the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from faultlight import stamp
from faultlight.errors import InputError
from faultlight.train.recipe import Recipe


@dataclass(frozen=True)
class Numerics:
    """What was decided.

    Args:
        device: "cpu", "cuda" or "cuda:1"; of several processes, the own one.
        bf16: whether convolutions and products run in bfloat16; weights, loss and optimiser stay float32.
        channels_last: whether images lie in memory pixel by pixel instead of channel by channel.
    """

    device: str
    bf16: bool
    channels_last: bool

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context that the objective runs in."""
        return torch.autocast(self.device.partition(":")[0], torch.bfloat16, enabled=self.bf16)

    def place(self, model: nn.Module) -> nn.Module:
        """Return the model on the device, in the layout decided."""
        return model.to(device=self.device, memory_format=self._format())  # type: ignore[call-overload, no-any-return]

    def lay(self, x: Tensor) -> Tensor:
        """Return a batch of images in the layout decided."""
        return x.contiguous(memory_format=self._format())

    def gpus(self) -> list[str]:
        """Return the GPUs in use, whose random generators are to be left as they were."""
        return [] if self.device == "cpu" else [self.device]

    def seed(self, key: int) -> None:
        """Seed the generators that layers draw from; torch.manual_seed would also move those of every other GPU."""
        torch.default_generator.manual_seed(key)
        for gpu in self.gpus():
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(key)

    def _format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format


def decide(recipe: Recipe, device: str) -> Numerics:
    """Return how this recipe computes on this machine.

    "auto" means bf16 on a processor with AMX or a GPU that has bfloat16, else float32; and channels-last everywhere.

    Raises:
        InputError: a device that this machine, or this build of PyTorch, has not.
    """
    check_device(device)
    bf16 = recipe.precision == "bf16" or (recipe.precision == "auto" and has_bf16_units(device))
    return Numerics(device, bf16, recipe.layout != "contiguous")


@contextmanager
def steady(threads: int) -> Iterator[None]:
    """Compute with kernels that give the same sums each time, on a fixed number of processor threads."""
    cudnn = torch.backends.cudnn
    before = (torch.get_num_threads(), cudnn.deterministic, cudnn.benchmark)
    torch.set_num_threads(threads)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cudnn.deterministic, cudnn.benchmark = before[1:]


def check_device(device: str) -> None:
    """Raise InputError unless tensors can be put on the device."""
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda") or not (index.isdigit() or not index):
        raise InputError(f"there is no device {device!r}; use cpu, cuda or cuda:1.")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise InputError(f"the device {device!r} is not there: PyTorch sees {torch.cuda.device_count()} GPUs; use cpu.")


def has_bf16_units(device: str) -> bool:
    """Return whether the device multiplies bfloat16 matrices faster than float32 ones."""
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return "amx_bf16" in stamp.cpu()["features"]
