"""What the layers do on a sample of images: dead channels, saturation, mean and deviation, NaN."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from numpy.typing import NDArray
from torch import Tensor, nn

from faultlight.data.images import Images
from faultlight.errors import InputError
from faultlight.models.subject import Subject
from faultlight.settings import check_settings
from faultlight.views._chart import Curve, Dots, ends_of
from faultlight.views._input import check_input
from faultlight.views._result import ViewResult
from faultlight.views.listening import leaves_of, listen, module_named, modules_of, rows_at_once, uncalled

# The ends of the activations that have any.
_BOUNDED: dict[type[nn.Module], tuple[float, float]] = {
    nn.Sigmoid: (0.0, 1.0),
    nn.Hardsigmoid: (0.0, 1.0),
    nn.Tanh: (-1.0, 1.0),
    nn.Softsign: (-1.0, 1.0),
    nn.ReLU6: (0.0, 6.0),
}
# Nearer to an end than this share of the way between the ends, an activation counts as saturated.
NEAR = 0.01
_COLUMNS = ("mean", "deviation", "least", "greatest", "zero", "saturated", "channels", "dead", "nan", "infinite")
_SHARES = ("zero", "saturated")


@dataclass(frozen=True)
class Tally:
    """What was seen of one layer so far.

    Args:
        count: finite values.
        mean: of the finite values.
        squares: the sum of the squared distances from the mean.
        peak: each channel's greatest value, shape (channels,).
        trough: the least finite value.
        zero: values that are exactly 0.
        saturated: values near an end of a bounded activation.
        nan: values that are NaN.
        infinite: values that are infinite.
    """

    count: int
    mean: float
    squares: float
    peak: Tensor
    trough: float
    zero: int
    saturated: int
    nan: int
    infinite: int

    def __add__(self, other: Tally) -> Tally:
        """Join what two parts saw, the squares by Chan, Golub and LeVeque's update."""
        count = self.count + other.count
        share, apart = other.count / max(count, 1), other.mean - self.mean
        return Tally(
            count,
            self.mean + apart * share,
            self.squares + other.squares + apart**2 * self.count * share,
            torch.maximum(self.peak, other.peak),
            min(self.trough, other.trough),
            self.zero + other.zero,
            self.saturated + other.saturated,
            self.nan + other.nan,
            self.infinite + other.infinite,
        )

    @property
    def dead(self) -> list[int]:
        """The channels that were never above 0."""
        return torch.nonzero(~(self.peak > 0)).flatten().tolist()


@dataclass(frozen=True)
class Statistics:
    """Each layer's statistics on the images, in one pass: dead channels, saturation, mean and deviation, NaN.

    A channel (a feature of a vector) is dead when no value of it is above 0 on any of the images; behind a ReLU it
    then does nothing for them. `zero` is the share of values that are exactly 0. `saturated` is the share of values
    within 1 % of the way from either end of a bounded activation (sigmoid, tanh, hardtanh, hard sigmoid, softsign,
    ReLU6), called as a module; NaN for other layers. Mean and standard deviation are over images, channels and places.

    Only the tallies are kept, so any number of images will do. NaN and infinity are counted and left out of the rest.

    Arrays, one value a layer, in the order of `facts["layers"]`: `mean`, `deviation`, `least`, `greatest`, `zero`,
    `saturated`, `channels`, `dead`, `nan`, `infinite`. `facts["dead_channels"]` holds the numbers of the dead channels.

    Args:
        layer: only this layer; every layer when left out.

    Raises:
        InputError: the layer is unknown or never called, or there are no images.
    """

    layer: str | None = None

    def __post_init__(self) -> None:
        check_settings(self)

    def __call__(self, subject: Subject, images: Images) -> ViewResult:
        """Return the statistics of a subject's layers on images."""
        check_input(subject, images)
        tallies = self._tallies(subject, images)
        layers = list(tallies)
        arrays = {name: np.array([_numbers(one)[name] for one in tallies.values()]) for name in _COLUMNS}
        for row, name in enumerate(layers):
            if _ends(modules_of(subject)[name.partition("#")[0]]) is None:
                arrays["saturated"][row] = np.nan
        dead = {name: tally.dead for name, tally in tallies.items() if tally.dead}
        facts = {"layers": layers, "dead_channels": dead, "images": len(images)}
        words = _words(layers, arrays, len(images))
        return ViewResult("statistics", arrays, words, _drawing(layers, arrays), 1, facts=facts)

    def _tallies(self, subject: Subject, images: Images) -> dict[str, Tally]:
        modules = list(leaves_of(subject)) if self.layer is None else [module_named(subject, self.layer)]
        known, tallies, called = modules_of(subject), dict[str, Tally](), dict[str, None]()

        def take(name: str, output: Tensor) -> None:
            called[name] = None
            if output.ndim > 1 and self.layer in (None, name, name.partition("#")[0]):
                found = tally(output.detach(), _ends(known[name.partition("#")[0]]))
                tallies[name] = tallies[name] + found if name in tallies else found

        with torch.no_grad():
            for x in torch.split(images.x, rows_at_once(images.x)):
                listen(subject, x.to(subject.device), modules, take)
        if not tallies:
            nothing = f"the forward pass of {subject.name!r} calls no layer; there is nothing to tell."
            raise InputError(nothing) if self.layer is None else uncalled(self.layer, called)
        return tallies


def tally(output: Tensor, ends: tuple[float, float] | None = None) -> Tally:
    """Return the tally of one output (n, channels, …); `ends` are those of a bounded activation."""
    values = output.float()
    # One sum says whether all is finite: masks are made for those that are not alone, for they cost as much as the net.
    sound = bool(values.sum(dtype=torch.float64).isfinite())
    some = values if sound else values[values.isfinite()]
    mean = float(some.mean(dtype=torch.float64)) if some.numel() else 0.0
    return Tally(
        count=some.numel(),
        mean=mean,
        squares=float((some - mean).square_().sum(dtype=torch.float64)),
        peak=_peaks(values if sound else values.where(values.isfinite(), -math.inf)),
        trough=float(some.min()) if some.numel() else math.inf,
        zero=some.numel() - int(some.count_nonzero()),
        saturated=_near(some, *ends) if ends else 0,
        nan=0 if sound else int(values.isnan().sum()),
        infinite=0 if sound else int(values.isinf().sum()),
    )


def _peaks(values: Float32[Tensor, "n channels ..."]) -> Float32[Tensor, " channels"]:
    return values.amax([0, *range(2, values.ndim)]).cpu()


def _near(values: Tensor, low: float, high: float) -> int:
    """Return how many values lie near one of two ends."""
    width = NEAR * (high - low)
    return int(((values <= low + width) | (values >= high - width)).sum())


def _ends(module: nn.Module) -> tuple[float, float] | None:
    """Return the values between which a bounded activation stays."""
    if type(module) is nn.Hardtanh:
        return float(module.min_val), float(module.max_val)
    return _BOUNDED.get(type(module))


def _numbers(one: Tally) -> dict[str, float]:
    count = max(one.count, 1)
    return {
        "mean": one.mean if one.count else math.nan,
        "deviation": math.sqrt(one.squares / count) if one.count else math.nan,
        "least": one.trough if one.count else math.nan,
        "greatest": float(one.peak.max()) if one.count else math.nan,
        "zero": one.zero / count,
        "saturated": one.saturated / count,
        "channels": len(one.peak),
        "dead": len(one.dead),
        "nan": one.nan,
        "infinite": one.infinite,
    }


def _words(layers: list[str], arrays: dict[str, NDArray[Any]], n: int) -> str:
    wide = max(map(len, layers))
    lines = [f"Layers on {n} images.", f"{'layer'.ljust(wide)}" + "".join(name.rjust(11) for name in _COLUMNS)]
    for row, layer in enumerate(layers):
        lines.append(layer.ljust(wide) + "".join(_cell(name, float(arrays[name][row])).rjust(11) for name in _COLUMNS))
    bad = [layer for row, layer in enumerate(layers) if arrays["nan"][row] + arrays["infinite"][row]]
    if bad:
        lines.append(f"NaN or infinity first appears in the output of {bad[0]!r}.")
    zero = [layer for row, layer in enumerate(layers) if arrays["zero"][row] == 1]
    if zero:
        lines.append(f"All zero on every image: {', '.join(zero)}.")
    return "\n".join(lines)


def _cell(name: str, value: float) -> str:
    if name in _SHARES:
        return "–" if math.isnan(value) else f"{100 * value:.1f} %"
    return f"{value:.4g}" if name in _COLUMNS[:4] else f"{int(value):,}"


def _drawing(layers: list[str], arrays: dict[str, NDArray[Any]]) -> tuple[Dots, ...]:
    shares = {
        "dead channels": arrays["dead"] / arrays["channels"],
        "zero": arrays["zero"],
        "saturated": arrays["saturated"],
    }
    sizes = {"mean": arrays["mean"], "deviation": arrays["deviation"]}
    return (
        Dots("shares, layer by layer", tuple(layers), _curves(shares)),
        Dots("mean and deviation of the outputs", tuple(layers), _curves(sizes), *ends_of(*sizes.values())),
    )


def _curves(values: dict[str, NDArray[Any]]) -> tuple[Curve, ...]:
    return tuple(Curve(name, each) for name, each in values.items())
