"""Where a net puts its images, what training did to that, and where attacked images land."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from faultlight import api
from faultlight.data.images import Images
from faultlight.errors import InputError
from faultlight.evaluation.verdict import percent
from faultlight.models.subject import Subject
from faultlight.studies._case import Bench, Case
from faultlight.studies._search import named
from faultlight.studies._words import picture
from faultlight.views._features import features
from faultlight.views._maps import nearest
from faultlight.views._result import Panel, ViewResult
from faultlight.views.embedding import INITIAL, Embedding

MOST_IMAGES = 4


@dataclass(frozen=True)
class FeatureSpace:
    """The features of a layer before and after training: maps, distances of two classes, neighbours, attacked twins.

    Maps and distances are those of the `embedding` view, PCA and t-SNE side by side. With one model, "before" is the
    same net with initial weights of the study's seed (which has to be that of the training); with two, the first is
    before and the second after. Each image's nearest training images, by ‖f(x) − f(x_train)‖₂ over the whole layer,
    show what the net holds it for; the twins that an attack finds are placed on the clean maps, with the path drawn.

    Source: van der Maaten and Hinton 2008, "Visualizing data using t-SNE", section 3; on neighbours of adversarial
    images: Papernot and McDaniel 2018, "Deep k-nearest neighbors", section 4.

    Args:
        layer: the layer's name; when left out the last but one, which the logits are made from.
        first: one of the two classes whose distances are told.
        second: the other.
        attack: an attack by name, with its default settings; "none" for no twins.
        fit: training images among which neighbours are sought.
        neighbours: nearest training images of each image, at most 3 of which are drawn.
        perplexity: t-SNE's; when left out 30, or less where there are fewer than 91 images.
    """

    layer: str | None = None
    first: int = 6
    second: int = 7
    attack: str | None = "fgsm"
    fit: int = 1000
    neighbours: int = 5
    perplexity: float | None = None

    def __call__(self, case: Case) -> ViewResult:
        """Return maps, distances, neighbours and paths.

        Raises:
            InputError: more than two models, or what the `embedding` view refuses.
        """
        earlier, subject = _two(case)
        bench = case.bench(subject)
        found = None if self.attack is None else self._twins(case, bench, self.attack)
        twins = None if found is None else found.x.cpu()
        view = Embedding(self.layer, None if earlier else INITIAL, self.first, self.second, self.perplexity, case.seed)
        images = bench.images.to("cpu")
        shown = view(subject, images, twins=twins, earlier=earlier)
        arrays, facts = dict(shown.arrays), {**shown.facts, "attack": self.attack, "threat": str(case.threat)}
        words, panels = shown.words.splitlines(), list(shown.panels[:4])
        arrays["right"] = bench.right.cpu().numpy()
        if found is not None:
            arrays["broken"] = (found.broken & bench.right).cpu().numpy()
            words.append(_landed(self.attack, str(case.threat), arrays))
        if case.fitting is not None:
            self._compare(subject, images, twins, case.fitting, shown, arrays, words, panels)
        return ViewResult("feature-space", arrays, "\n".join(words), tuple(panels), 4, 2.4, facts, "study")

    def _twins(self, case: Case, bench: Bench, attack: str) -> api.AttackResult:
        return api.attack(bench.subject, bench.images, named(attack), case.threat, seed=case.seed, quiet=case.quiet)

    def _compare(
        self,
        subject: Subject,
        images: Images,
        twins: Tensor | None,
        fitting: Images,
        shown: ViewResult,
        arrays: dict[str, NDArray[Any]],
        words: list[str],
        panels: list[Any],
    ) -> None:
        """Add the nearest training images to what is shown."""
        if self.neighbours < 1:
            raise InputError(f"{self.neighbours} neighbours are none; choose at least 1.")
        layer = str(shown.facts["layer"])
        training = features(subject, fitting, layer)
        label = fitting.y.cpu().numpy()
        vectors = {"": shown.arrays["features"]}
        if twins is not None:
            moved = Images(twins, images.y, images.ids, images.classes, "twins")
            vectors["twin_"] = features(subject, moved, layer)
        index = {}
        for prefix, values in vectors.items():
            distance, index[prefix] = nearest(values.astype(np.float64), training.astype(np.float64), self.neighbours)
            arrays[f"{prefix}neighbour_distance"] = distance
            arrays[f"{prefix}neighbour"] = fitting.ids.cpu().numpy()[index[prefix]]
            arrays[f"{prefix}neighbour_label"] = label[index[prefix]]
        words += _neighbours(images, arrays, len(fitting))
        drawn = _drawn(arrays)
        for row in drawn:
            for prefix, x in (("", images.x), ("twin_", twins)):
                if x is not None:
                    panels += _row(images, fitting, x[row], row, index[prefix][row], prefix)


def _two(case: Case) -> tuple[Subject | None, Subject]:
    subjects = list(case.subjects.values())
    if len(subjects) > 2:
        raise InputError(
            f"the study 'feature-space' compares one model before and after, not {len(subjects)}; name at most two."
        )
    return (subjects[0] if len(subjects) == 2 else None), subjects[-1]


def _drawn(arrays: dict[str, NDArray[Any]]) -> list[int]:
    """Return the images whose neighbours are drawn: the first that were broken, or the first of all."""
    broken = np.flatnonzero(arrays["broken"]) if "broken" in arrays else np.array([], np.int64)
    rows = broken if len(broken) else np.arange(len(arrays["y"]))
    return [int(row) for row in rows[: MOST_IMAGES if "broken" not in arrays else MOST_IMAGES // 2]]


def _row(images: Images, fitting: Images, x: Tensor, row: int, index: NDArray[Any], prefix: str) -> list[Panel]:
    """Return an image and its three nearest training images."""
    what = "twin of image" if prefix else "image"
    name = images.classes[int(images.y[row])]
    panels = [Panel(f"{what} {int(images.ids[row])}: {name}", picture(x))]
    for place, one in enumerate(index[:3], 1):
        title = f"nearest {place}: training image {int(fitting.ids[one])}, {fitting.classes[int(fitting.y[one])]}"
        panels.append(Panel(title, picture(fitting.x[one])))
    # A row of the drawing has four cells.
    blank = np.full((1, 1), np.nan)
    return panels + [Panel("", blank)] * (4 - len(panels))


def _landed(attack: str | None, threat: str, arrays: dict[str, NDArray[Any]]) -> str:
    broken, right = int(arrays["broken"].sum()), int(arrays["right"].sum())
    return f"{attack} within {threat} breaks {broken} of {right} images that are classified correctly."


def _neighbours(images: Images, arrays: dict[str, NDArray[Any]], n: int) -> list[str]:
    own = arrays["neighbour_label"][:, 0] == images.y.numpy()
    lines = [f"The nearest of {n} training images has the image's own class on {percent(float(own.mean()))} of them."]
    if "broken" in arrays and arrays["broken"].any():
        stayed = (arrays["twin_neighbour_label"][:, 0] == images.y.numpy())[arrays["broken"]]
        lines.append(f"Of the broken twins' nearest training images {percent(float(stayed.mean()))} have it still.")
    return lines
