"""Text recipes: named experiments in TOML with `kind = "text"`, each with the figure it must reach."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from faultlight.text.shape import Shape
from faultlight.train import steps_recipe
from faultlight.train.recipe import Optimiser, Schedule

FOLDER = Path(__file__).parent.parent / "recipes" / "text"
KIND: Literal["text"] = "text"

Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class TextTarget(BaseModel):
    """The loss in nats a character that a run must reach: the lowest recorded batch's, or the last held-out one."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    metric: Literal["batch_loss", "held_out_loss"]
    at_most: Positive


class TextRecipe(BaseModel):
    """Everything that decides what a training run on text computes.

    Args:
        kind: "text".
        name: letters, digits and hyphens.
        title: one line for people.
        data: "tinyshakespeare", or the path of a UTF-8 file.
        alphabet: "printable" (Python's 100 printable characters) or "corpus" (those of the text).
        held_out: share of the text, its end, that is held out.
        cell: "gru" or "lstm".
        embedding: numbers a character is turned into.
        hidden: cells a layer.
        layers: recurrent layers.
        dropout: share of the signals dropped after each recurrent layer.
        steps: of the optimiser.
        batch: pieces of text a step.
        chunk: characters a piece; gradients reach back that far.
        pieces: "random" places of the text, each read from a state of zeros; or "streams" that lie one behind the other
            and hand their state on.
        optimiser: how a gradient becomes a step.
        schedule: how the learning rate moves.
        clip: the longest gradient, in L2 over all weights; a longer one is shortened to it. 0 leaves all as they are.
        noise: share of the input characters replaced by a character drawn evenly from those of the text; what is to be
            predicted stays clean.
        record_every: steps between two rows of the record.
        seed: of weights, pieces, noise and dropout.
        target: the figure that the run must reach, if any.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    kind: Literal["text"] = KIND
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9-]*$")
    title: str
    data: str
    alphabet: Literal["printable", "corpus"] = "corpus"
    held_out: float = Field(default=0.1, gt=0, lt=1)
    cell: Literal["gru", "lstm"] = "gru"
    embedding: int = Field(default=100, ge=1)
    hidden: int = Field(default=100, ge=1)
    layers: int = Field(default=2, ge=1)
    dropout: Fraction = 0.0
    steps: int = Field(ge=1)
    batch: int = Field(ge=1)
    chunk: int = Field(ge=1)
    pieces: Literal["random", "streams"] = "random"
    optimiser: Optimiser = Optimiser()
    schedule: Schedule = Schedule()
    clip: NotNegative = 0.0
    noise: Fraction = 0.0
    record_every: int = Field(default=100, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**63)
    target: TextTarget | None = None

    @property
    def shape(self) -> Shape:
        """How the model is built."""
        return Shape(self.cell, self.embedding, self.hidden, self.layers, self.dropout)


def names() -> tuple[str, ...]:
    """Return the names of the text recipes that Faultlight carries, in alphabetical order."""
    return steps_recipe.names(FOLDER)


def load_text_recipe(spec: str, overrides: Mapping[str, Any] | None = None) -> TextRecipe:
    """Return a text recipe by its name or the path of its .toml file.

    Args:
        spec: a name that `names()` lists, or a path ending in .toml.
        overrides: values by dotted key, such as {"optimiser.lr": 0.01}, laid over the file's.

    Raises:
        InputError: no such recipe, text that is not TOML, a key that no text recipe has, or a value of the wrong kind.
    """
    return steps_recipe.load(TextRecipe, FOLDER, spec, overrides)


def parse_text_recipe(content: Mapping[str, Any], source: str = "the recipe") -> TextRecipe:
    """Return the text recipe that nested tables describe.

    Raises:
        InputError: the first thing wrong, with the nearest known key or the values allowed.
    """
    return steps_recipe.parse(TextRecipe, content, source)
