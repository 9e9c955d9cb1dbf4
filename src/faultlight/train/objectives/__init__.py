"""What training minimises: functions (model, batch, context) → (loss, metrics)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float32, Int64
from torch import Tensor, nn
from torch.nn import functional

from faultlight.train.recipe import Recipe


@dataclass(frozen=True)
class Batch:
    """The images of one step, augmented, and their labels."""

    x: Float32[Tensor, "n c h w"]
    y: Int64[Tensor, " n"]


@dataclass(frozen=True)
class Context:
    """Where in the run a step stands, for objectives that draw at random or change with time.

    Args:
        recipe: everything asked.
        epoch: from 0.
        step: within the epoch, from 0.
    """

    recipe: Recipe
    epoch: int
    step: int


# The loss to minimise (a scalar), and further scalars worth a curve, by name.
Objective = Callable[[nn.Module, Batch, Context], tuple[Tensor, dict[str, Tensor]]]


def standard(model: nn.Module, batch: Batch, context: Context) -> tuple[Float32[Tensor, ""], dict[str, Tensor]]:
    """Return the mean cross-entropy −Σ_k q_k log softmax(z)_k with q = (1 − s)·onehot(y) + s/K, s the label smoothing.

    Paper: Szegedy et al. 2016, "Rethinking the Inception architecture", section 7, for the smoothing.
    """
    # The logits come as bfloat16 under bf16; a loss summed in it would lose most of its digits.
    logits = model(batch.x).float()
    return functional.cross_entropy(logits, batch.y, label_smoothing=context.recipe.label_smoothing), {}


def objective(name: str) -> Objective:
    """Return the objective of that name; the recipe has checked that there is one."""
    known: dict[str, Objective] = {"standard": standard}
    return known[name]
