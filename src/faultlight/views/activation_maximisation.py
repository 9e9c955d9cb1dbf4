"""What a class or a feature map would like to see: an image made to drive it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float32
from numpy.typing import NDArray
from torch import Tensor

from faultlight import rng
from faultlight.data.images import Images
from faultlight.errors import InputError
from faultlight.models.subject import Subject
from faultlight.settings import check_settings
from faultlight.views._chart import Chart, Curve, ends_of
from faultlight.views._coordinates import Adam, Coordinates, variation
from faultlight.views._input import check_input, listing, picture
from faultlight.views._result import BLANK, Panel, ViewResult
from faultlight.views.listening import listen, module_named, outputs, uncalled

COLUMNS, MOST_IMAGES, MOST_CURVES = 5, 40, 10


@dataclass(frozen=True)
class Unit:
    """What is maximised by one image: a class's logit, or the mean over the places of a layer's channel."""

    layer: str | None
    channel: int


@dataclass(frozen=True)
class Trace:
    """The images and, step by step, what was reached; the last step is that of the images themselves."""

    x: Float32[Tensor, "units c h w"]
    cost: Float32[Tensor, "units steps"]
    activation: Float32[Tensor, "units steps"]
    scores: Float32[Tensor, "units steps classes"]


@dataclass(frozen=True)
class ActivationMaximisation:
    """An image that drives a class or a feature map as far as it goes, one for each class or each map.

    Minimised over x in [0, 1]: cost = −a(x) + λ‖x‖₂² + τ·TV(x), with a the class's logit or the map's mean over its
    places, and TV the sum of |differences| of neighbouring pixels. Adam takes the steps, and after each x is put back
    into the box. With `fourier`, it acts on the image's Fourier coefficients, each multiplied by its wavelength:
    coarse shapes move first. With `jitter`, each step sees the image rolled by random numbers of pixels.

    A linear net z = w·x + b has the answer x = w / 2λ, cut to [0, 1].

    Arrays: `x` and `start` (units, c, h, w); `cost` and `activation` (units, steps + 1); `scores` (units, steps + 1,
    classes), the logits of every class; `probability` (units, classes), of the images at the end; `channel` (units,).
    With jitter the values along the way are those of the rolled images; the last ones never are.

    Args:
        target: the class; every class when it and `layer` are left out.
        layer: maximise channels of this layer instead of classes.
        channel: the channel of `layer`; every channel when left out.
        start: "zeros", "grey" (0.5) or "noise", N(mean, deviation²) cut to [0, 1].
        steps: iterations.
        rate: Adam's step size.
        l2: λ, at least 0.
        total_variation: τ, at least 0.
        jitter: the largest roll in pixels, at least 0.
        fourier: let Adam act on Fourier coefficients.
        mean: of the noise.
        deviation: of the noise.
        seed: of noise and jitter.

    Raises:
        InputError: no such class, layer or channel, a number out of range, or the net gives NaN. A unit that no image
            drives is no error: the text says so.

    Source: Erhan, Bengio, Courville and Vincent 2009, "Visualizing higher-layer features of a deep network", section 2
    (units); Simonyan, Vedaldi and Zisserman 2014, "Deep inside convolutional networks", section 2 (classes, with the L2
    penalty); Mahendran and Vedaldi 2015, "Understanding deep image representations by inverting them", section 3 (total
    variation, jitter); Olah, Mordvintsev and Schubert 2017, "Feature visualization" (Fourier). Departures: x stays in
    the box; the Fourier coefficients are those of the pixels themselves, not of what a sigmoid makes of them. To draw a
    class by an attack within a ball, see the study `drawn-class`.
    """

    target: int | None = None
    layer: str | None = None
    channel: int | None = None
    start: Literal["zeros", "grey", "noise"] = "zeros"
    steps: int = 200
    rate: float = 0.05
    l2: float = 0.01
    total_variation: float = 0.0
    jitter: int = 0
    fourier: bool = False
    mean: float = 0.5
    deviation: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        check_settings(self, steps=1, l2=0, total_variation=0, jitter=0, deviation=0)
        if not self.rate > 0:
            raise InputError(f"rate must be above 0, not {self.rate:g}.")
        if self.target is not None and self.layer is not None:
            raise InputError(f"target {self.target} names a class and layer {self.layer!r} a map; choose one of them.")
        if self.channel is not None and self.layer is None:
            raise InputError(f"channel {self.channel} needs a layer; name one, or choose a class by target.")

    def __call__(self, subject: Subject, images: Images) -> ViewResult:
        """Return the images that drive the units most; of the given images only the shape and the classes are used."""
        check_input(subject, images)
        units = self._units(subject, images.x[:1])
        begin = self._start(units, images.shape)
        trace = self._run(subject, units, begin)
        self._check_finite(trace, units, images)
        probability = trace.scores[:, -1].double().softmax(1).float()
        tensors = {"x": trace.x, "start": begin, "cost": trace.cost, "activation": trace.activation}
        tensors |= {"scores": trace.scores, "probability": probability}
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        arrays["channel"] = np.array([unit.channel for unit in units])
        names = [_name(unit, images) for unit in units]
        facts = {"units": names, "layer": self.layer, "start": self.start, "steps": self.steps, "rate": self.rate}
        facts |= {
            "l2": self.l2,
            "total_variation": self.total_variation,
            "jitter": self.jitter,
            "fourier": self.fourier,
        }
        words = _words(images, units, names, arrays)
        panels = _drawing(images, units, names, arrays)
        left_out = _left_out(len(units))
        return ViewResult("activation-maximisation", arrays, words, panels, COLUMNS, facts=facts, caption=left_out)

    def _check_finite(self, trace: Trace, units: list[Unit], images: Images) -> None:
        finite = trace.activation.isfinite().all(1)
        lost = [_name(unit, images) for unit, fine in zip(units, finite.tolist(), strict=True) if not fine]
        if lost:
            what = "classes" if self.layer is None else "channels"
            shown = ", ".join(lost[:10]) + (", …" if len(lost) > 10 else "")
            raise InputError(
                f"the model gives NaN or infinity while {len(lost)} of {len(units)} {what} are driven ({shown}); "
                "repair the model, or choose another start or a smaller rate."
            )

    def _units(self, subject: Subject, x: Tensor) -> list[Unit]:
        if self.layer is None:
            return [
                Unit(None, number) for number in _chosen(self.target, subject.classes, "target", "class of the model")
            ]
        heard = outputs(subject, x.to(subject.device), [module_named(subject, self.layer)])
        if self.layer not in heard:
            raise uncalled(self.layer, heard)
        count = heard[self.layer].shape[1]
        return [Unit(self.layer, c) for c in _chosen(self.channel, count, "channel", f"channel of {self.layer!r}")]

    def _start(self, units: list[Unit], shape: tuple[int, int, int]) -> Float32[Tensor, "units c h w"]:
        if self.start != "noise":
            return torch.full((len(units), *shape), 0.5 if self.start == "grey" else 0.0)
        ids = torch.tensor([unit.channel for unit in units])
        noise = rng.normal(rng.key(self.seed, "activation maximisation"), ids, torch.zeros_like(ids), shape)
        return (self.mean + self.deviation * noise).clamp(0, 1)

    @torch.enable_grad()
    def _run(self, subject: Subject, units: list[Unit], begin: Tensor) -> Trace:
        coordinates = Coordinates(begin.shape[2:], self.fourier, subject.device)
        u = coordinates.of(begin.to(subject.device)).requires_grad_()
        descent = Adam(u.detach(), self.rate)
        costs: list[Tensor] = []
        activations: list[Tensor] = []
        scores: list[Tensor] = []
        for down, right in self._rolls():
            x = coordinates.pixels(u)
            activation, logits = activate(subject, units, x.roll((down, right), (2, 3)))
            cost = self._penalty(x) - activation
            for kept, values in ((costs, cost), (activations, activation), (scores, logits)):
                kept.append(values.detach().cpu())
            if len(costs) > self.steps:
                break
            (gradient,) = torch.autograd.grad(cost.sum(), u)
            with torch.no_grad():
                moved = coordinates.pixels(u + descent.step(gradient)).clamp(0, 1)
            u = coordinates.of(moved).requires_grad_()
        return Trace(
            x.detach().clamp(0, 1).cpu(), torch.stack(costs, 1), torch.stack(activations, 1), torch.stack(scores, 1)
        )

    def _rolls(self) -> list[list[int]]:
        """Return how far down and to the right the image is rolled at each step; not at all for the last look."""
        step = torch.arange(self.steps)
        drawn = rng.uniform(rng.key(self.seed, "jitter"), torch.zeros_like(step), step, (2,))
        return [*((drawn * (2 * self.jitter + 1)).long() - self.jitter).tolist(), [0, 0]]

    def _penalty(self, x: Float32[Tensor, "n c h w"]) -> Float32[Tensor, " n"]:
        penalty = self.l2 * x.square().flatten(1).sum(1)
        if self.total_variation:
            penalty = penalty + self.total_variation * variation(x)
        return penalty


def activate(
    subject: Subject, units: list[Unit], x: Float32[Tensor, "n c h w"]
) -> tuple[Float32[Tensor, " n"], Float32[Tensor, "n classes"]]:
    """Return each unit's activation on its own image, and the logits, all differentiable."""
    layer, channel = units[0].layer, torch.tensor([[unit.channel] for unit in units], device=x.device)
    if layer is None:
        logits = subject(x)
        return logits.gather(1, channel)[:, 0], logits
    heard: dict[str, Tensor] = {}
    logits = listen(subject, x, [module_named(subject, layer)], partial(_keep_means, heard))
    return heard[layer].gather(1, channel)[:, 0], logits


def _keep_means(heard: dict[str, Tensor], name: str, output: Tensor) -> None:
    # Reduced at once: an activation in place would write over the output.
    heard[name] = output.float().flatten(2).mean(2) if output.ndim > 2 else 1 * output.float()


def _chosen(number: int | None, count: int, name: str, what: str) -> range:
    if number is None:
        return range(count)
    if not 0 <= number < count:
        raise InputError(f"the {name} {number} is no {what}; choose one of 0 … {count - 1}.")
    return range(number, number + 1)


def _name(unit: Unit, images: Images) -> str:
    return images.classes[unit.channel] if unit.layer is None else f"{unit.layer}[{unit.channel}]"


def _words(images: Images, units: list[Unit], names: list[str], arrays: dict[str, NDArray[Any]]) -> str:
    lines = [f"Images made to drive {len(units)} {'classes' if units[0].layer is None else 'feature maps'}."]
    rows = []
    for row, unit in enumerate(units):
        before, after = arrays["activation"][row, 0], arrays["activation"][row, -1]
        probability, moved = arrays["probability"][row], arrays["scores"][row, -1] - arrays["scores"][row, 0]
        seen = unit.channel if unit.layer is None else int(probability.argmax())
        up, down = images.classes[int(moved.argmax())], images.classes[int(moved.argmin())]
        still = (
            " (it does not move: no gradient reaches the pixels)" if (arrays["activation"][row] == before).all() else ""
        )
        rows.append(
            f"{names[row]}: {before:.4g} → {after:.4g}{still}; seen as {images.classes[seen]} with "
            f"{100 * probability[seen]:.2f} %; raises {up} most ({moved.max():+.3g}), {down} least ({moved.min():+.3g})"
        )
    return "\n".join([*lines, listing(rows, 40)])


def _drawing(
    images: Images, units: list[Unit], names: list[str], arrays: dict[str, NDArray[Any]]
) -> tuple[Panel | Chart, ...]:
    panels: list[Panel | Chart] = []
    for row in range(min(len(units), MOST_IMAGES)):
        probability = arrays["probability"][row]
        seen = units[row].channel if units[row].layer is None else int(probability.argmax())
        title = f"{names[row]}: {images.classes[seen]} with {100 * probability[seen]:.2f} %"
        panels.append(Panel(title, picture(torch.from_numpy(arrays["x"][row]))))
    steps, few, shown = np.arange(arrays["cost"].shape[1]), min(len(units), MOST_CURVES), min(len(units), COLUMNS - 1)
    if len(panels) + 1 + shown > COLUMNS:  # The curves begin a row.
        panels += [BLANK] * (-len(panels) % COLUMNS)
    cost = tuple(Curve(names[row], arrays["cost"][row]) for row in range(few))
    panels.append(Chart(f"cost, step by step{_of(few, len(units))}", steps, cost, *ends_of(arrays["cost"][:few])))
    classes = images.classes[:MOST_CURVES]
    ends = ends_of(arrays["scores"][:shown, :, : len(classes)])
    for row in range(shown):
        scores = tuple(Curve(name, arrays["scores"][row, :, k]) for k, name in enumerate(classes))
        title = f"logits while {names[row]} is driven{_of(len(classes), len(images.classes))}"
        panels.append(Chart(title, steps, scores, *ends))
    return tuple(panels)


def _of(shown: int, count: int) -> str:
    return f", {shown} of {count}" if shown < count else ""


def _left_out(count: int) -> str:
    """Return what the drawing leaves out of the units."""
    parts = (("images", MOST_IMAGES), ("curves of the cost", MOST_CURVES), ("charts of logits", COLUMNS - 1))
    few = [f"{most} of {count} {what}" for what, most in parts if count > most]
    return f"Drawn are {', '.join(few)}; the arrays hold all." if few else ""
