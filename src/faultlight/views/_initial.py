"""A net whose layers forget what they learned."""

from __future__ import annotations

import math
from collections.abc import Collection
from itertools import chain

import torch
from torch import nn

from faultlight.models.subject import Subject


def learned(subject: Subject) -> list[str]:
    """Return the modules that hold parameters or running statistics of their own, in the order of definition."""
    return [name for name, module in subject.module.named_modules() if _has_own(module)]


def _has_own(module: nn.Module) -> bool:
    statistics = getattr(module, "running_mean", None) is not None
    return statistics or any(True for _ in module.parameters(recurse=False))


def forgotten(subject: Subject, seed: int = 0, only: Collection[str] | None = None) -> Subject:
    """Return a copy of a subject with initial weights: those before training, when the seed is that of the training.

    Each module draws by its own `reset_parameters`, in the order of definition, as it did when it was built; what a
    net's constructor changed after that is not repeated. The parameters of a module that has no such method are drawn
    from a normal distribution of their own mean and deviation.

    Args:
        subject: the model; it stays as it is.
        seed: of the draws; the global generator neither matters nor moves.
        only: the modules that forget, by name; all when None. What one draws does not depend on which others forget.
    """
    twin = Subject(subject.module, subject.classes, f"{subject.name} before training", subject.device)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(seed)
        for name in learned(twin):
            _draw(twin.module.get_submodule(name))
    if only is not None:
        state = subject.module.state_dict()
        kept = {key: value for key, value in state.items() if key.rpartition(".")[0] not in only}
        twin.module.load_state_dict(kept, strict=False)
    return twin


def _draw(module: nn.Module) -> None:
    reset = getattr(module, "reset_parameters", None)
    if callable(reset):
        # On the CPU, so that the numbers are the same on every device.
        device = next(chain(module.parameters(recurse=False), module.buffers(recurse=False))).device
        module.cpu()
        reset()
        module.to(device)
        return
    for parameter in module.parameters(recurse=False):
        deviation = float(parameter.std()) if parameter.numel() > 1 else abs(float(parameter))
        drawn = torch.randn(parameter.shape) * (deviation if math.isfinite(deviation) else 1.0)
        parameter.copy_(drawn + parameter.mean().cpu())
