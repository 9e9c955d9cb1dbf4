"""What training minimises: functions (model, batch, context) → (loss, metrics), one file each.

An objective is a frozen dataclass of settings that is called with the network, the batch and where the run stands. The
recipe's table `[objective]` names it and sets its fields; a new file here, or an entry point of the group
`faultlight.train.objectives`, is all that a new one needs. Some names mean something to the run:

    teacher     a field: a folder made by training, whose network the run hands over in the context
    replays     a field: how many steps in a row get the same batch
    threat      a field: the ball that the validation images are attacked in at the end of each epoch
    straight_through
                a field: a layer that gradients pass as if it were the identity
    certified   a class variable, True where they are to be certified instead
    remedy()    a method: what to go on with after catastrophic overfitting, or None
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float32, Int64
from torch import Tensor, nn

from faultlight import rng
from faultlight.catalogue import lookup
from faultlight.errors import InputError
from faultlight.train.ranks import WHOLE, Share
from faultlight.train.recipe import OBJECTIVES, Recipe

# Pixels to logits.
Teacher = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Batch:
    """The images of one step, augmented, their labels, and which images they are; of several processes, one's own."""

    x: Float32[Tensor, "n c h w"]
    y: Int64[Tensor, " n"]
    ids: Int64[Tensor, " n"]


@dataclass(frozen=True)
class Context:
    """Where in the run a step stands, for objectives that draw at random or change with time.

    Args:
        recipe: everything asked.
        epoch: from 0.
        step: within the epoch, from 0.
        steps: an epoch.
        memory: tensors that an objective keeps from step to step, a row a place in the batch; part of the run's state.
        teacher: pixels to logits of the network to learn from, where the objective names one.
        share: which part of the batch this process has; a loss that is a mean over rows need not mind.
    """

    recipe: Recipe
    epoch: int
    step: int
    steps: int = 1
    memory: dict[str, Tensor] = field(default_factory=dict)
    teacher: Teacher | None = None
    share: Share = WHOLE

    @property
    def progress(self) -> float:
        """The share of the run's steps that are done when this one is, in (0, 1]."""
        return (self.epoch * self.steps + self.step + 1) / (self.recipe.epochs * self.steps)

    def key(self, *words: str) -> int:
        """Return the key of random numbers that are this step's own."""
        return rng.key(self.recipe.seed, *words, self.epoch, self.step)


# The loss to minimise (a scalar), and further scalars worth a curve, by name.
Objective = Callable[[nn.Module, Batch, Context], tuple[Tensor, dict[str, Tensor]]]


def build(recipe: Recipe) -> Objective:
    """Return the objective that a recipe asks for.

    Raises:
        InputError: a setting is out of its range.
    """
    settings: dict[str, Any] = recipe.objective.model_dump()
    kind = lookup(OBJECTIVES, settings.pop("name")).load()
    found: Objective = kind(**settings)
    return found


def teacher(objective: Objective) -> str | None:
    """Return the folder of the teacher that an objective needs, or None where it needs none.

    Raises:
        InputError: it needs one that was not named.
    """
    found: str | None = getattr(objective, "teacher", None)
    if found == "":
        name = type(objective).__name__
        raise InputError(f"{name} learns from a trained network; name its folder by objective.teacher = 'runs/NAME'.")
    return found


def replays(objective: Objective) -> int:
    """Return how many steps in a row get the same batch."""
    return int(getattr(objective, "replays", 1))


def remedy(objective: Objective) -> Objective | None:
    """Return what to go on with after the objective failed catastrophically, or None where it knows nothing better."""
    known = getattr(objective, "remedy", None)
    found: Objective | None = known() if known else None
    return found
