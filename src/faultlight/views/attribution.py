"""Which pixels speak for a class, by several methods, each beside what tells whether its map means anything."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from numpy import ndarray
from numpy.typing import NDArray

from faultlight.data.images import Images
from faultlight.errors import InputError
from faultlight.models.subject import Subject
from faultlight.settings import check_settings
from faultlight.views._attribute import Absent, Question, absent_image, attribute, method_named
from faultlight.views._chart import Chart, Curve
from faultlight.views._deletion import Controls, Curves, Standing, controls, curves, standing
from faultlight.views._forgetting import cascade
from faultlight.views._input import check_input, picture
from faultlight.views._result import Drawn, Panel, ViewResult, scale_of
from faultlight.views._table import table

MOST_IMAGES = 8
# A map that ranks the pixels this much alike for a net that has learned nothing says little of what it did learn. The
# paper draws no line; half of a perfect correlation is ours.
UNMOVED = 0.5
# Above this probability of having come by chance, an order of pixels is not told apart from random ones.
BY_CHANCE = 0.05


@dataclass(frozen=True)
class Attribution:
    """Maps of several attribution methods side by side, each with its deletion and insertion areas and a sanity check.

    For the logit z_k and x₀, the image of what is absent: gradient ∂z_k/∂x; gradient-x-input (x − x₀) ∂z_k/∂x;
    smooth-gradient, the mean of ∂z_k/∂x over noise; integrated-gradients (x − x₀) ∫ ∂z_k/∂x da along x₀ + a(x − x₀);
    guided and deconvnet, z_k carried back by their rules, right for every spelling of ReLU; grad-cam ReLU(Σ_c α_c A_c),
    α_c the mean slope of map c; guided-grad-cam, their product; with Captum (`pip install 'faultlight[attribution]'`)
    deep-lift, refused where Captum does not see every bend, and shapley of squares of pixels; intensity |x − x₀|, a
    control that asks no model.

    A map is checked three ways. Deletion: the probability of k as pixels are replaced by x₀, the most important first;
    insertion: as they are put into x₀; both against random orders and the order by |x − x₀|. Sanity: Spearman's rank
    correlation with the map of the same net with its weights drawn anew; near 1, the map has little to do with what was
    learned. Of |map| it stays high for every method with a factor x − x₀: of those, read the signs. The `faithfulness`
    view has the curves in full.

    Arrays, for each method M (n images): `M` (n, h, w), the channels' sum of a signed method (gradient-x-input,
    integrated-gradients, grad-cam, deep-lift, shapley), else their greatest magnitude; `M_attribution` (n, d, h, w), d
    = 1 or the channels; `M_deletion` and `M_insertion` (n, 17), `M_unlearned` and `M_unlearned_magnitude` (n,), with
    the check. `target` and `y` (n,), `x` (n, c, h, w).

    Args:
        methods: names, with commas between them.
        target: the class k; each image's own label when left out.
        absent: x₀: "black", "grey", "white", or "blur" for the image blurred.
        steps: points of integrated-gradients' path, draws of smooth-gradient and shapley.
        layer: Grad-CAM's; when left out the last one with maps of more than one position.
        check: whether the maps are checked; it costs a few hundred passes for each image and method.
        seed: of random orders, draws and weights.

    Raises:
        InputError: no such method, class or layer, a method that has no rule for the net's bends, Captum is absent
            where it is needed, a gradient is NaN, or there are no images. A map that is zero everywhere is no error:
            drawing and text say so.

    Source: Sundararajan et al. 2017, "Axiomatic attribution for deep networks", section 3; Selvaraju et al. 2017,
    "Grad-CAM", section 3; Petsiuk et al. 2018, "RISE", section 4.2; Adebayo et al. 2018, "Sanity checks for saliency
    maps", section 3.
    """

    methods: str = "integrated-gradients,grad-cam"
    target: int | None = None
    absent: Absent = "black"
    steps: int = 50
    layer: str | None = None
    check: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_settings(self)

    def __call__(self, subject: Subject, images: Images) -> ViewResult:
        """Return the maps of images, and what they are worth."""
        names = [name.strip() for name in self.methods.split(",")]
        for name in names:
            method_named(name)
        question = asked(subject, images, self.target, self.absent, self.steps, self.layer, self.seed)
        against = controls(subject, question, POINTS, ORDERS) if self.check else None
        explained = {name: explain(subject, question, name, against) for name in names}
        arrays = {key: values for name, one in explained.items() for key, values in one.arrays(name).items()}
        arrays |= {"target": question.target.numpy(), "x": images.x.cpu().numpy(), "y": images.y.cpu().numpy()}
        facts: dict[str, Any] = {
            "methods": names,
            "absent": self.absent,
            "ids": images.ids.tolist(),
            "target": self.target,
        }
        facts |= {"checks": {name: one.facts() for name, one in explained.items() if one.standing}}
        words = _words(images, self.absent, explained, against)
        panels = _drawing(images, explained, against)
        return ViewResult("attribution", arrays, words, panels, 1 + len(names), 2.0, facts)


# Of the curves beside each map: enough for areas to a few percent. Against 9 random orders a map wins 1 time in 10 by
# chance.
POINTS, ORDERS = 16, 9


@dataclass(frozen=True)
class Explained:
    """What one method says, and what that is worth.

    Args:
        attribution: as the method gives it.
        scores: one number a pixel.
        missed: of a method whose sum is z_k(x) − z_k(x₀): by how much it misses that, in the mean over images of the
            shares; None of others.
        curves: with the map's own order of pixels; None without the check.
        standing: how they compare with random orders.
        unlearned: rank correlation with the map of a net that has learned nothing.
        magnitude: the same of the maps' magnitudes.
    """

    attribution: Float32[ndarray, "n d h w"]
    scores: Float32[ndarray, "n h w"]
    missed: float | None
    curves: Curves | None = None
    standing: Standing | None = None
    unlearned: NDArray[Any] | None = None
    magnitude: NDArray[Any] | None = None

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """Return its numbers by name."""
        found: dict[str, NDArray[Any]] = {name: self.scores, f"{name}_attribution": self.attribution}
        if self.curves is not None and self.unlearned is not None and self.magnitude is not None:
            found |= {f"{name}_deletion": self.curves.deletion, f"{name}_insertion": self.curves.insertion}
            found |= {f"{name}_unlearned": self.unlearned, f"{name}_unlearned_magnitude": self.magnitude}
        return found

    def facts(self) -> dict[str, Any]:
        """Return what was found of it, as JSON holds it."""
        unlearned = mean_of(self.unlearned)
        found = {} if self.standing is None else {k: list(v) for k, v in vars(self.standing).items() if k != "plain"}
        return {**found, "unlearned": None if np.isnan(unlearned) else unlearned, "doubts": self.doubts()}

    def doubts(self) -> list[str]:
        """Return why the maps may mean nothing; [] where no check says so."""
        if not self.scores.any():
            return ["zero everywhere"]
        found = []
        if self.standing is not None and min(self.standing.chance) > BY_CHANCE:
            found.append("no better than random orders")
        elif self.standing is not None and self.standing.plain:
            found.append("no better than the order by |x − x₀|")
        if mean_of(self.unlearned) >= UNMOVED:
            found.append("much the same for a net that has learned nothing")
        return found


def asked(
    subject: Subject, images: Images, target: int | None, absent: Absent, steps: int, layer: str | None, seed: int
) -> Question:
    """Return what is asked of the methods.

    Raises:
        InputError: the images do not fit, or there is no such class or number of steps.
    """
    check_input(subject, images)
    if target is not None and not 0 <= target < subject.classes:
        raise InputError(f"the target {target} is no class of the model; choose one of 0 … {subject.classes - 1}.")
    if steps < 1:
        raise InputError(f"a path of {steps} steps leads nowhere; choose at least 1.")
    own = replace(images.to("cpu"), x=images.x.cpu().contiguous())
    label = own.y if target is None else torch.full_like(own.y, target)
    return Question(own, label, absent_image(own.x, absent), steps, layer, seed)


def explain(subject: Subject, question: Question, name: str, against: Controls | None) -> Explained:
    """Return the maps of one method, checked where there are controls to hold them against."""
    method = method_named(name)
    attribution = attribute(name, subject, question)
    scores = method.scores(attribution)
    missed = _missed(subject, question, scores.numpy()) if method.complete else None
    if against is None:
        return Explained(attribution.numpy(), scores.numpy(), missed)
    found = curves(subject, question, scores, POINTS)
    forgot = cascade(
        subject, question.images.x, lambda other: method.scores(attribute(name, other, question)), 1, question.seed
    )
    own = standing(found, against)
    return Explained(attribution.numpy(), scores.numpy(), missed, found, own, forgot.signed[-1], forgot.magnitude[-1])


def spoken(values: NDArray[Any] | None) -> str:
    """Return the mean of what is a number in two digits."""
    mean = mean_of(values)
    return "–" if np.isnan(mean) else f"{mean:.2f}"


def called(absent: Absent) -> str:
    """Return how absent pixels look, in a word."""
    return "blurred" if absent == "blur" else absent


def mean_of(values: NDArray[Any] | None) -> float:
    """Return the mean of what is a number; NaN where nothing is."""
    finite = np.array([]) if values is None else values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")


@torch.no_grad()
def _missed(subject: Subject, question: Question, scores: Float32[ndarray, "n h w"]) -> float:
    """Return by how much the sums miss the change of the logit, as a share of it, in the mean."""
    pairs = [subject(x.to(subject.device)).cpu() for x in (question.images.x, question.absent)]
    change = (pairs[0] - pairs[1]).gather(1, question.target[:, None])[:, 0].numpy()
    return float((np.abs(scores.sum((1, 2)) - change) / np.maximum(np.abs(change), 1e-6)).mean())


def _words(images: Images, absent: Absent, explained: dict[str, Explained], against: Controls | None) -> str:
    lines = [f"Attributions on {len(images)} images; absent pixels are {called(absent)}."]
    zero = {name: int((~one.scores.reshape(len(images), -1).any(1)).sum()) for name, one in explained.items()}
    lines += [f"{name} is zero everywhere on {n} of {len(images)} images." for name, n in zero.items() if n]
    missed = {name: one.missed for name, one in explained.items() if one.missed is not None}
    lines += [
        f"The sums of {name} miss the change of the logit by {share:.1%} of it." for name, share in missed.items()
    ]
    if against is None:
        return "\n".join([*lines, "The maps were not checked."])
    rows = [_row(name, one, len(images)) for name, one in explained.items()]
    deletion, insertion = (float(area.mean()) for area in against.intensity.areas())
    rows.append(["order by |x − x₀|", f"{deletion:.3f}", "", f"{insertion:.3f}", "", "", ""])
    random = [float(area.mean()) for area in against.random_areas]
    rows.append(["random orders", f"{random[0]:.3f}", "", f"{random[1]:.3f}", "", "", ""])
    lines += table(["map", "deletion", "better", "insertion", "better", "unlearned", "of |map|"], rows)
    lines.append(
        "Areas under the probability: deletion low and insertion high is faithful; better: on so many images than all "
        f"{ORDERS} random orders; unlearned: rank correlation with the map of the net with its weights drawn anew."
    )
    doubts = [f"{name}: {', '.join(one.doubts())}." for name, one in explained.items() if one.doubts()]
    return "\n".join([*lines, *(["Doubts.", *doubts] if doubts else ["No check raises a doubt."])])


def _row(name: str, one: Explained, n: int) -> list[str]:
    if one.standing is None:
        return [name]
    found = one.standing
    better = [f"{count} of {n}" for count in found.better]
    return [
        name,
        f"{found.deletion[0]:.3f}",
        better[0],
        f"{found.insertion[0]:.3f}",
        better[1],
        *(spoken(values) for values in (one.unlearned, one.magnitude)),
    ]


def _drawing(images: Images, explained: dict[str, Explained], against: Controls | None) -> tuple[Drawn, ...]:
    shown = min(len(images), MOST_IMAGES)
    scales = {name: scale_of(one.scores[:shown]) for name, one in explained.items()}
    panels: list[Drawn] = []
    for row in range(shown):
        name = images.classes[int(images.y[row])]
        panels.append(Panel(f"image {int(images.ids[row])}: {name}", picture(images.x[row])))
        panels += [Panel(method, one.scores[row], scales[method]) for method, one in explained.items()]
    if against is not None:
        panels.append(chart("control: order by |x − x₀|", against.intensity, against))
        own = [(name, one) for name, one in explained.items() if one.curves is not None]
        panels += [chart(name, one.curves, against) for name, one in own if one.curves is not None]
    return tuple(panels)


def chart(title: str, found: Curves, against: Controls) -> Chart:
    """Return the mean probabilities over the share of pixels, beside those of random orders."""
    share = np.linspace(0, 1, found.deletion.shape[1])
    named = {
        "deletion": found.deletion,
        "insertion": found.insertion,
        "random deletion": against.random.deletion,
        "random insertion": against.random.insertion,
    }
    return Chart(f"{title}: probability, share of pixels", share, tuple(Curve(k, v.mean(0)) for k, v in named.items()))
