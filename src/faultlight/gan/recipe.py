"""GAN recipes: named experiments in TOML with `kind = "gan"`, each with the figure it must reach."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from faultlight.gan.losses import PROBABILISTIC, LossName
from faultlight.gan.nets import Design, NetName, Norm
from faultlight.train import steps_recipe
from faultlight.train.recipe import Optimiser, Schedule

FOLDER = Path(__file__).parent.parent / "recipes" / "gan"
KIND: Literal["gan"] = "gan"

Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]


class GanTarget(BaseModel):
    """The share of samples, in [0, 1], that a classifier must recognise with confidence of at least 0.9."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    metric: Literal["confident"] = "confident"
    at_least: float = Field(ge=0, le=1)


class GanRecipe(BaseModel):
    """Everything that decides what the training of a generator computes.

    Args:
        kind: "gan".
        name: letters, digits and hyphens.
        title: one line for people.
        data: "digits", "mnist", "cifar10", or the path of a class folder or npz file; its training images are learnt.
        stack: grey images laid over one another as channels, drawn one by one; 3 gives stacked MNIST, 1 leaves them.
        net: "mlp" or "dcgan".
        width: hidden units of "mlp", or channels at half an image's size of "dcgan".
        latent: numbers that an image is drawn from.
        hidden: units of a linear layer between latent numbers and maps of "dcgan", and between maps and score; 0: none.
        codes: the latent numbers begin with one of so many codes, which the discriminator must read back; 0 for none.
        code_weight: of the reader's cross-entropy in the losses of both networks.
        norm: what steadies the discriminator of "dcgan": "batch", "spectral" or "none".
        loss: "minimax", "non-saturating", "wasserstein-gp" or "hinge".
        smoothing: α of one-sided label smoothing; real images are to be called real with 1 − α.
        penalty: weight of the gradient penalty of "wasserstein-gp".
        critic_steps: steps of the discriminator before each of the generator.
        leak: repeat a mistake on purpose: the gradient of the discriminator's step stays in the generator.
        steps: of the generator.
        batch: images a step.
        optimiser: of both networks; `momentum` is Adam's β₁.
        schedule: how the learning rate of both moves.
        second_momentum: Adam's β₂.
        ema: decay a step of the averaged generator that is kept, in [0, 1); 0 keeps the plain one.
        frames: pictures of the film, of the same 64 latent points; early steps get more of them.
        record_every: steps between two rows of the record.
        seed: of weights, images, latent points and the film.
        target: the figure that the run must reach, if any; `faultlight gan measure` says whether it did.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    kind: Literal["gan"] = KIND
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9-]*$")
    title: str
    data: str
    stack: int = Field(default=1, ge=1, le=4)
    net: NetName = "dcgan"
    width: int = Field(default=32, ge=1)
    latent: int = Field(default=100, ge=1)
    hidden: int = Field(default=0, ge=0)
    codes: int = Field(default=0, ge=0)
    code_weight: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    norm: Norm = "none"
    loss: LossName = "non-saturating"
    smoothing: Fraction = 0.0
    penalty: float = Field(default=10.0, ge=0, allow_inf_nan=False)
    critic_steps: int = Field(default=1, ge=1)
    leak: bool = False
    steps: int = Field(ge=1)
    batch: int = Field(ge=2)
    optimiser: Optimiser = Optimiser(lr=2e-4, momentum=0.5)
    schedule: Schedule = Schedule()
    second_momentum: Fraction = 0.999
    ema: Fraction = 0.0
    frames: int = Field(default=24, ge=2)
    record_every: int = Field(default=100, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**63)
    target: GanTarget | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> GanRecipe:
        if self.smoothing and self.loss not in PROBABILISTIC:
            raise ValueError(f"smoothing is for labels, and the loss {self.loss!r} has none; set smoothing = 0")
        if self.loss == "wasserstein-gp" and self.norm == "batch":
            raise ValueError("the gradient penalty is an image's own, which batch norm mixes; set norm = 'none'")
        if self.hidden and self.net != "dcgan":
            raise ValueError("hidden units of a further layer are for net = 'dcgan'; those of 'mlp' are its width")
        return self

    def design(self, shape: tuple[int, int, int]) -> Design:
        """Return how the networks are built for images of this shape."""
        norm: Norm = self.norm if self.net == "dcgan" else "none"
        return Design(self.net, self.latent, self.width, shape, norm, self.hidden, self.codes)


def names() -> tuple[str, ...]:
    """Return the names of the GAN recipes that Faultlight carries, in alphabetical order."""
    return steps_recipe.names(FOLDER)


def load_gan_recipe(spec: str, overrides: Mapping[str, Any] | None = None) -> GanRecipe:
    """Return a GAN recipe by its name or the path of its .toml file.

    Args:
        spec: a name that `names()` lists, or a path ending in .toml.
        overrides: values by dotted key, such as {"optimiser.lr": 0.001}, laid over the file's.

    Raises:
        InputError: no such recipe, text that is not TOML, a key that no GAN recipe has, or a value of the wrong kind.
    """
    return steps_recipe.load(GanRecipe, FOLDER, spec, overrides)
