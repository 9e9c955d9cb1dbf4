"""Averaged weights: followed step by step (EMA), or gathered at the ends of the last epochs (SWA)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from faultlight.train.inner import evaluating
from faultlight.train.recipe import Recipe


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the average by a share of 1 − decay of the way to the model; buffers are copied."""
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
    for kept, current in zip(average.buffers(), model.buffers(), strict=True):
        kept.copy_(current)


def gathered(recipe: Recipe, epoch: int) -> int:
    """Return how many epochs' weights the even average holds before the given epoch, counted from 0, is added.

    The average begins anew with each epoch up to the first of the last `swa` share of them, so 0 until then.
    """
    first = recipe.epochs - max(round(recipe.swa * recipe.epochs), 1)
    return max(epoch - first, 0)


@torch.no_grad()
def gather(average: nn.Module, model: nn.Module, before: int) -> None:
    """Add a model to an even average of `before` others: w̄ ← (n·w̄ + w)/(n + 1).

    Source: Izmailov et al. 2018, "Averaging weights leads to wider optima and better generalization", algorithm 1.
    """
    follow(average, model, before / (before + 1))


def renew_statistics(average: nn.Module, batches: Iterable[Tensor]) -> None:
    """Find the running statistics of batch norm anew, as the mean over batches: an average's are no model's.

    Source: as `gather`, section 3.2.
    """
    norms = [layer for layer in average.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    momenta = [layer.momentum for layer in norms]
    with evaluating(average), torch.no_grad():
        for layer in norms:
            layer.reset_running_stats()
            layer.momentum = None  # PyTorch's word for an even mean
            layer.train()
        for x in batches:
            average(x)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
