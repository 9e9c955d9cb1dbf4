"""Recipes of autoencoders: named experiments in TOML, each with the error it must reach."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from faultlight.autoencoder.nets import Blueprint, Family
from faultlight.autoencoder.tampering import Tampering, needs_classifier
from faultlight.train import steps_recipe
from faultlight.train.recipe import Optimiser, Schedule

FOLDER = Path(__file__).parent.parent / "recipes" / "autoencoder"
KIND: Literal["autoencoder"] = "autoencoder"

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Network(_Table):
    """How the network is built; see `faultlight.autoencoder.nets.Blueprint`."""

    family: Family = "encoder-decoder"
    depth: int = Field(default=2, ge=1)
    width: int = Field(default=16, ge=1)
    skips: bool = False
    residual: bool = False

    def blueprint(self, shape: tuple[int, int, int]) -> Blueprint:
        """Return the network for images of a shape."""
        return Blueprint(self.family, shape, self.depth, self.width, self.skips, self.residual)


class Tamper(_Table):
    """A noise to learn to undo: its name, its least and greatest strength, and how often it is drawn."""

    kind: str
    low: float = Field(allow_inf_nan=False)
    high: float = Field(allow_inf_nan=False)
    weight: Positive = 1.0

    @model_validator(mode="after")
    def _is_a_noise(self) -> Tamper:
        self.tampering()
        return self

    def tampering(self) -> Tampering:
        """Return the noise with its strengths."""
        return Tampering(self.kind, self.low, self.high, self.weight)


class ErrorTarget(_Table):
    """The mean squared error on the clean test images that a run must reach."""

    metric: Literal["test_mse"] = "test_mse"
    at_most: Positive


class AutoencoderRecipe(_Table):
    """Everything that decides what a training run computes.

    Args:
        kind: "autoencoder".
        name: letters, digits and hyphens.
        title: one line for people.
        data: "mnist", "cifar10", or the path of a class folder or npz file.
        network: how it is built.
        tamper: the noises that are laid on the images given; none trains an autoencoder of clean images.
        classifier: what adversarial noise is aimed at: a folder made by `faultlight train`, or zoo:NAME.
        classifier_weights: a file of weights for a zoo classifier, or "".
        loss: "mse", or "bce" (binary cross-entropy of each value, for networks that end in a sigmoid).
        steps: of the optimiser.
        batch: images a step.
        optimiser: how a gradient becomes a step.
        schedule: how the learning rate moves.
        record_every: steps between two rows of the record.
        seed: of initial weights, shuffles and noise.
        split_seed: divides the training file into train and validation.
        target: the figure that the run must reach, if any.
    """

    kind: Literal["autoencoder"] = KIND
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9-]*$")
    title: str
    data: str
    network: Network = Network()
    tamper: list[Tamper] = []
    classifier: str = ""
    classifier_weights: str = ""
    loss: Literal["mse", "bce"] = "mse"
    steps: int = Field(ge=1)
    batch: int = Field(ge=1)
    optimiser: Optimiser = Optimiser()
    schedule: Schedule = Schedule()
    record_every: int = Field(default=200, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**63)
    split_seed: int = Field(default=0, ge=0, lt=2**63)
    target: ErrorTarget | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> AutoencoderRecipe:
        if self.loss == "bce" and self.network.residual:
            raise ValueError("loss = 'bce' needs a network that ends in a sigmoid; set network.residual = false")
        if needs_classifier(self.tamperings()) and not self.classifier:
            raise ValueError("adversarial noise needs a classifier to aim at; set classifier to a trained run's folder")
        if self.classifier and not needs_classifier(self.tamperings()):
            found = ", ".join(each.kind for each in self.tamper) or "none"
            raise ValueError(
                f"a classifier is for adversarial noise alone, and the noise is {found}; leave out classifier "
                f"{self.classifier!r}, or add adversarial noise"
            )
        return self

    def tamperings(self) -> list[Tampering]:
        """Return the noises with their strengths."""
        return [each.tampering() for each in self.tamper]


def names() -> tuple[str, ...]:
    """Return the names of the recipes that Faultlight carries, in alphabetical order."""
    return steps_recipe.names(FOLDER)


def load_autoencoder_recipe(spec: str, overrides: Mapping[str, Any] | None = None) -> AutoencoderRecipe:
    """Return a recipe by its name or the path of its .toml file.

    Args:
        spec: a name that `names()` lists, or a path ending in .toml.
        overrides: values by dotted key, such as {"optimiser.lr": 0.01}, laid over the file's.

    Raises:
        InputError: no such recipe, or something wrong in it.
    """
    return steps_recipe.load(AutoencoderRecipe, FOLDER, spec, overrides)


def parse_autoencoder_recipe(content: Mapping[str, Any], source: str = "the recipe") -> AutoencoderRecipe:
    """Return the recipe that nested tables describe.

    Raises:
        InputError: the first thing wrong.
    """
    return steps_recipe.parse(AutoencoderRecipe, content, source)
