"""Recipes: named experiments in TOML, each with the figure it must reach."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from faultlight.catalogue import Entry, catalogue
from faultlight.errors import InputError, nearest
from faultlight.threat import parse_threat
from faultlight.train import steps_recipe

FOLDER = Path(__file__).parent.parent / "recipes"
OBJECTIVES = "train.objectives"

Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Optimiser(_Table):
    """How a gradient becomes a step; `momentum` and `nesterov` are SGD's, and Adam's β are (momentum, 0.999).

    Scales and shifts of batch norm learn at `norm_lr` times lr, with the weight decay divided by it.
    """

    name: Literal["sgd", "adam", "adamw"] = "adam"
    lr: Positive = 1e-3
    momentum: Fraction = 0.9
    weight_decay: NotNegative = 0.0
    nesterov: bool = False
    norm_lr: Positive = 1.0

    @model_validator(mode="after")
    def _nesterov_is_of_sgd(self) -> Optimiser:
        if self.nesterov and (self.name != "sgd" or not self.momentum):
            raise ValueError("nesterov = true needs name = 'sgd' and a momentum above 0")
        return self


class Schedule(_Table):
    """How the learning rate moves: the shape, and the share of all steps over which it first rises."""

    name: Literal["constant", "linear", "cosine", "onecycle", "step"] = "constant"
    warmup: Fraction = 0.0


class Augment(_Table):
    """Random changes of the training images: shift in pixels, mirror image, rotation in degrees, share of the size.

    `flip = "alternate"` draws once which images are mirrored in the first epoch; the others are in the second, and so
    on, so that an image and its mirror image are seen equally often.
    """

    shift: int = Field(default=0, ge=0)
    flip: Literal[True, False, "alternate"] = False
    rotate: float = Field(default=0.0, ge=0, le=180)
    zoom: float = Field(default=0.0, ge=0, le=0.5)


class ObjectiveTable(_Table):
    """What is minimised: `name` is that of a file of `faultlight.train.objectives`, the other keys are its fields.

    Names, keys and kinds of values are checked against the source, so that a typo is told before PyTorch is loaded;
    ranges are for the objective itself.
    """

    model_config = ConfigDict(extra="allow")

    name: str = "standard"

    @model_validator(mode="after")
    def _known_to_its_file(self) -> ObjectiveTable:
        entries = catalogue(OBJECTIVES)
        if self.name not in entries:
            raise ValueError(f"there is no objective named {self.name!r}; {nearest(self.name, entries)}")
        for key, value in (self.model_extra or {}).items():
            _check_setting(entries[self.name], key, value)
        return self


class Target(_Table):
    """The figure a recipe must reach, as a fraction."""

    metric: Literal["test_accuracy"] = "test_accuracy"
    at_least: float = Field(ge=0, le=1)


class RobustTarget(_Table):
    """The share of the first test images, as a fraction, that must withstand PGD, or be certified."""

    threat: str
    at_least: float = Field(ge=0, le=1)
    by: Literal["pgd", "certificate"] = "pgd"
    steps: int = Field(default=20, ge=1)
    step_size: NotNegative = 0.25
    images: int = Field(default=1000, ge=1)

    @model_validator(mode="after")
    def _threat_is_one(self) -> RobustTarget:
        parse_threat(self.threat)
        return self


class RobustValidation(_Table):
    """How the first validation images are attacked at the end of each epoch, to choose the checkpoint and to guard.

    An empty threat stands for the objective's own; where it has none, nothing is attacked. "auto" is by certificate for
    an objective that trains bounds, else by PGD. What `on_collapse` does is written in `faultlight.train.guards`.
    """

    threat: str = ""
    by: Literal["auto", "pgd", "certificate"] = "auto"
    steps: int = Field(default=10, ge=1)
    step_size: NotNegative = 0.25
    images: int = Field(default=512, ge=0)
    on_collapse: Literal["switch", "stop", "note"] = "switch"

    @model_validator(mode="after")
    def _threat_is_one(self) -> RobustValidation:
        if self.threat:
            parse_threat(self.threat)
        return self


class Recipe(_Table):
    """Everything that decides what a training run computes.

    Args:
        name: letters, digits and hyphens.
        title: one line for people.
        model: a network of the zoo, such as "mnist-cnn".
        options: further whole-number settings of that network, such as {width = 16}.
        data: "digits", "mnist", "cifar10", or the path of a class folder or npz file.
        objective: what is minimised, and its settings; cross-entropy by default.
        epochs: passes over the training images, ≥ 1.
        batch: images a step, ≥ 1; what is left over at the end of an epoch waits for the next shuffle.
        optimiser: how a gradient becomes a step.
        schedule: how the learning rate moves.
        augment: random changes of the training images.
        label_smoothing: share of the label's mass spread evenly over all classes, in [0, 1).
        precision: float32; bf16 (products only, weights stay float32); auto: bf16 where the chip has units for it.
        layout: how images lie in memory; auto: channels-last. The sums are the same but for rounding.
        seed: of initial weights, shuffles and augmentation, in [0, 2⁶³).
        ema: decay a step of the averaged weights that are validated and kept, in [0, 1); 0 keeps the plain ones.
        swa: share of the epochs, the last ones, whose weights are averaged evenly, in [0, 1); 0 averages none.
        split_seed: divides the training file into train and validation; the checkpoint is chosen on the latter.
        robust_validation: how the validation images are attacked, where the objective has a threat or this names one.
        target: the figure that the run must reach, if any.
        robust_target: the figure that it must reach under attack, if any.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9-]*$")
    title: str
    model: str
    options: dict[str, int] = {}
    data: str
    objective: ObjectiveTable = ObjectiveTable()
    epochs: int = Field(ge=1)
    batch: int = Field(ge=1)
    optimiser: Optimiser = Optimiser()
    schedule: Schedule = Schedule()
    augment: Augment = Augment()
    label_smoothing: Fraction = 0.0
    precision: Literal["auto", "float32", "bf16"] = "auto"
    layout: Literal["auto", "contiguous", "channels-last"] = "auto"
    seed: int = Field(default=0, ge=0, lt=2**63)
    ema: Fraction = 0.0
    swa: Fraction = 0.0
    split_seed: int = Field(default=0, ge=0, lt=2**63)
    robust_validation: RobustValidation = RobustValidation()
    target: Target | None = None
    robust_target: RobustTarget | None = None

    @model_validator(mode="after")
    def _one_average(self) -> Recipe:
        if self.ema and self.swa:
            raise ValueError("ema and swa are two ways to average the weights; set one of them to 0")
        return self


def load_recipe(spec: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Return a recipe by its name or the path of its .toml file.

    Args:
        spec: a name that `names()` lists, or a path ending in .toml.
        overrides: values by dotted key, such as {"optimiser.lr": 0.01}, laid over the file's.

    Raises:
        InputError: no such recipe, text that is not TOML, a key that no recipe has, or a value of the wrong kind.
    """
    return parse_recipe(steps_recipe.read(find(spec), overrides), str(spec))


def parse_recipe(content: Mapping[str, Any], source: str = "the recipe") -> Recipe:
    """Return the recipe that nested tables describe.

    Raises:
        InputError: the first thing wrong, with the nearest known key or the values allowed.
    """
    return steps_recipe.parse(Recipe, content, source)


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """Return {"optimiser.lr": 0.01} for ["optimiser.lr=0.01"]; values are read as TOML, else taken as text.

    Raises:
        InputError: a setting without "=", or an empty key.
    """
    found: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not all(key.strip().split(".")):
            raise InputError(f"--set needs key=value, such as optimiser.lr=0.01, not {setting!r}.")
        found[key.strip()] = _value(value.strip())
    return found


def names() -> tuple[str, ...]:
    """Return the names of the recipes that Faultlight carries, in alphabetical order."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


def find(spec: str) -> Path:
    """Return the file of a recipe by name or path.

    Raises:
        InputError: there is none; the message names the nearest.
    """
    if spec.endswith(".toml"):
        return Path(spec).expanduser()
    if spec in names():
        return FOLDER / f"{spec}.toml"
    raise InputError(f"there is no recipe named {spec!r} (nor is it a path ending in .toml); {nearest(spec, names())}.")


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested tables as one table by dotted key, in the order of the file."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    # Text such as "1\nseed = 3" would smuggle in a second key.
    return parsed["value"] if set(parsed) == {"value"} else text


_KINDS: dict[str, type[Any]] = {"str": str, "int": int, "float": float, "bool": bool}


def _check_setting(entry: Entry, key: str, value: Any) -> None:
    """Raise ValueError unless an objective has the field, and the value is of its kind."""
    fields = {field.name: field for field in entry.fields}
    if key not in fields:
        raise ValueError(f"the objective {entry.name!r} has no key {key!r}; {nearest(key, fields)}")
    kind = _KINDS.get(fields[key].type)
    try:
        TypeAdapter(kind or Any, config=ConfigDict(strict=True, allow_inf_nan=False)).validate_python(value)
    except ValidationError as error:
        reason = error.errors(include_url=False)[0]["msg"].removeprefix("Input ")
        raise ValueError(f"{key} {reason}, not {value!r}") from None
