"""Whether an attribution's map means anything: pixels taken away in its order, and layers that forget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faultlight.data.images import Images
from faultlight.models.subject import Subject
from faultlight.settings import check_settings
from faultlight.views._attribute import Absent, attribute, method_named
from faultlight.views._chart import Chart, Curve
from faultlight.views._deletion import Controls, Curves, Standing, controls, curves, standing
from faultlight.views._forgetting import Cascade, cascade
from faultlight.views._input import picture
from faultlight.views._result import Drawn, Panel, ViewResult, scale_of
from faultlight.views.attribution import BY_CHANCE, UNMOVED, asked, called, chart, mean_of, spoken

MOST_IMAGES = 4


@dataclass(frozen=True)
class Faithfulness:
    """Deletion and insertion curves of an attribution method, and its maps as the net's layers forget one by one.

    Deletion is the probability of the class as pixels are replaced by what is absent, the most important first;
    insertion as they are put in. A faithful map has a small area under the first and a large one under the second:
    each image is compared with random orders, of which a map without meaning beats all of k in one image of k + 1, and
    the whole with the order by |x − x₀|, which asks no model.

    The cascade draws the weights anew, from the logits down to the pixels, and compares the maps with the first ones by
    Spearman's rank correlation. A map that stays as it was has nothing to do with what the net learned, however pretty
    it is. The correlation of the magnitudes alone stays high for every method with a factor x − x₀, which is 0 where
    the image is: of those, read the signs.

    Arrays (n images, p points, s stages): `share` (p + 1,), of the pixels replaced or put in; `deletion`, `insertion`
    (n, p + 1), the probabilities at these shares, and the same as `random_…`, the mean of
    the random orders, and `intensity_…`; `deletion_area`, `insertion_area` (n,); `random_deletion_area`,
    `random_insertion_area` (n, orders); `signed` and `magnitude` (s, n), the correlations, NaN where a map is constant;
    `map` and `unlearned_map` (n, h, w); `target`, `y` (n,).

    Args:
        method: a method of the `attribution` view.
        target: the class; each image's own label when left out.
        absent: x₀: "black", "grey", "white", or "blur" for the image blurred.
        steps: points of integrated-gradients' path, draws of smooth-gradient and shapley.
        layer: Grad-CAM's; when left out the last one with maps.
        points: of the curves.
        orders: random orders an image.
        stages: of the cascade at most; where the net has more layers, several forget at once.
        seed: of orders, draws and weights.

    Raises:
        InputError: no such method, class or layer, a number below 1, a probability or gradient is NaN, or there are no
            images. A map that is zero everywhere is no error: the text says so.

    Source: Petsiuk et al. 2018, "RISE: randomized input sampling for explanation of black-box models", section 4.2;
    Adebayo et al. 2018, "Sanity checks for saliency maps", section 3.1. Departures: one x₀ for both curves; random
    orders as the measure; the line above which a correlation is doubted, 0.5, is ours.
    """

    method: str = "integrated-gradients"
    target: int | None = None
    absent: Absent = "black"
    steps: int = 50
    layer: str | None = None
    points: int = 32
    orders: int = 19
    stages: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        check_settings(self)

    def __call__(self, subject: Subject, images: Images) -> ViewResult:
        """Return the curves and the cascade."""
        method = method_named(self.method)
        question = asked(subject, images, self.target, self.absent, self.steps, self.layer, self.seed)
        scores = method.scores(attribute(self.method, subject, question))
        found = curves(subject, question, scores, self.points)
        against = controls(subject, question, self.points, self.orders)
        forgot = cascade(
            subject,
            question.images.x,
            lambda other: method.scores(attribute(self.method, other, question)),
            self.stages,
            self.seed,
        )
        arrays = _arrays(found, against, forgot)
        arrays |= {"map": scores.numpy(), "target": question.target.numpy(), "y": question.images.y.numpy()}
        how = standing(found, against)
        facts: dict[str, Any] = {
            "method": self.method,
            "absent": self.absent,
            "stages": [list(part) for part in forgot.layers],
        }
        facts |= {"ids": images.ids.tolist(), "verdicts": verdicts(how, forgot)}
        words = "\n".join(_words(len(images), self, how, against, forgot, arrays["map"]))
        return ViewResult(
            "faithfulness", arrays, words, _drawing(images, self.method, arrays, found, against), 3, 2.4, facts
        )


def verdicts(how: Standing, forgot: Cascade) -> dict[str, bool]:
    """Return what holds: deletion and insertion better than by chance, and the map depends on what was learned."""
    return {
        "deletion": how.chance[0] <= BY_CHANCE,
        "insertion": how.chance[1] <= BY_CHANCE,
        "learned": not mean_of(forgot.signed[-1]) >= UNMOVED,
    }


def _arrays(found: Curves, against: Controls, forgot: Cascade) -> dict[str, NDArray[Any]]:
    named = {"": found, "random_": against.random, "intensity_": against.intensity}
    arrays: dict[str, NDArray[Any]] = {"share": np.linspace(0, 1, found.deletion.shape[1])}
    for prefix, one in named.items():
        arrays |= {f"{prefix}deletion": one.deletion, f"{prefix}insertion": one.insertion}
    arrays["deletion_area"], arrays["insertion_area"] = found.areas()
    arrays["random_deletion_area"], arrays["random_insertion_area"] = against.random_areas
    return arrays | {"signed": forgot.signed, "magnitude": forgot.magnitude, "unlearned_map": forgot.last}


def _words(
    n: int, view: Faithfulness, how: Standing, against: Controls, forgot: Cascade, maps: NDArray[Any]
) -> list[str]:
    bright = [float(area.mean()) for area in against.intensity.areas()]
    lines = [f"{view.method} on {n} images; absent pixels are {called(view.absent)}."]
    zero = int((~maps.reshape(n, -1).any(1)).sum())
    if zero:
        lines.append(f"The map is zero everywhere on {zero} of {n} images.")
    for side, (name, aim) in enumerate((("deletion", "low"), ("insertion", "high"))):
        own, random = getattr(how, name)
        wins = f"it beats all {view.orders} random orders on {how.better[side]} of {n} images"
        verdict = "better than random" if how.chance[side] <= BY_CHANCE else "not told apart from random"
        lines.append(
            f"{name.capitalize()} area {own:.3f} ({aim} is faithful), random orders {random:.3f}, order by |x − x₀| "
            f"{bright[side]:.3f}; {wins}: {verdict}."
        )
    lines.append("Rank correlation with the first map as layers forget, and of the magnitudes alone:")
    for part, signed, magnitude in zip(forgot.layers, forgot.signed, forgot.magnitude, strict=True):
        lines.append(f"  … {', '.join(part)}: {spoken(signed)}, {spoken(magnitude)}")
    lines.append(_sanity(mean_of(forgot.signed[-1])))
    return lines


def _sanity(last: float) -> str:
    if np.isnan(last):
        return "A map is constant on every image, so there is nothing to compare."
    if last >= UNMOVED:
        return f"The map hardly depends on what the net learned (ρ = {last:.2f}): it would look so for a net untrained."
    return f"The map depends on what the net learned (ρ = {last:.2f} when all is forgotten)."


def _drawing(
    images: Images, method: str, arrays: dict[str, NDArray[Any]], found: Curves, against: Controls
) -> tuple[Drawn, ...]:
    shown = min(len(images), MOST_IMAGES)
    stages = np.arange(len(arrays["magnitude"]) + 1)
    forgot = tuple(
        Curve(name, np.array([1.0, *map(mean_of, arrays[key])]))
        for name, key in (("map", "signed"), ("|map|", "magnitude"))
    )
    panels: list[Drawn] = [
        chart(method, found, against),
        chart("control: order by |x − x₀|", against.intensity, against),
        Chart("rank correlation as layers forget, from the logits down", stages, forgot, -1.0, 1.0),
    ]
    # Gradients of a net that has learned nothing are of another size: each column has a scale of its own.
    scales = [scale_of(arrays[key][:shown]) for key in ("map", "unlearned_map")]
    for row in range(shown):
        name = images.classes[int(images.y[row])]
        panels += [
            Panel(f"image {int(images.ids[row])}: {name}", picture(images.x[row])),
            Panel(method, arrays["map"][row], scales[0]),
            Panel("the same of a net that has learned nothing", arrays["unlearned_map"][row], scales[1]),
        ]
    return tuple(panels)
