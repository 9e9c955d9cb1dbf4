"""Where a layer puts the images: maps of its features, and how far apart the classes lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from numpy import ndarray
from numpy.typing import NDArray
from torch import Tensor

from faultlight.data.images import Images
from faultlight.errors import InputError
from faultlight.models.subject import Subject
from faultlight.models.weights import load_weights
from faultlight.settings import check_settings
from faultlight.views._features import MEASURES, Distances, distances, feature_layer, features
from faultlight.views._initial import forgotten
from faultlight.views._input import check_input
from faultlight.views._maps import Map, pca_map, reduce, tsne_map, usable_perplexity
from faultlight.views._result import Drawn, Panel, Scale, ViewResult, scale_of
from faultlight.views._scatter import Scatter
from faultlight.views._table import table

INITIAL = "initial"
# More paths than this hide the map.
MOST_PATHS = 30
_SPOKEN = {"mse": "MSE", "cosine": "cosine", "cross_entropy": "cross-entropy", "kl": "KL"}


@dataclass(frozen=True)
class Embedding:
    """The features of a layer as two maps, PCA and t-SNE, and the distances within and between classes.

    Both maps are of the first fifty principal components; t-SNE is openTSNE's when that is installed, otherwise
    scikit-learn's. Beside each stands its trustworthiness: how far neighbours on the map are neighbours among the
    features. Over all pairs of different images, with f the features and p = softmax(f): MSE mean (f_i − f_j)²; cosine
    1 − ⟨f_i, f_j⟩ / ‖f_i‖‖f_j‖; cross-entropy −Σ p_i log p_j; KL Σ p_i log(p_i / p_j). The cross-entropy of a vector
    with itself is its entropy, not 0, so it is no distance; it is given for comparison with other people's tables.

    Called with `twins`, one changed image for each, it also places those on the maps of the unchanged ones.

    Arrays (n images, f features): `features` (n, f); `pca` and `tsne` (n, 2); `trustworthiness` (2,), of these;
    `explained` (k,), each component's share of the variance; `mse`, `cosine`, `cross_entropy` and `kl` (classes,
    classes), NaN where there are no two images; `y` (n,); with `before` the same again as `before_…`; with twins
    `twin_pca` and `twin_tsne` (n, 2).

    Args:
        layer: the layer's name; when left out the last but one that is called, which the logits are made from.
        before: the same net earlier, for maps side by side: "initial" for its weights before training (of `seed`, which
            has to be that of the training), or the path of a file of weights.
        first: a class whose distances are told, with `second`; all classes when both are left out.
        second: the other class.
        perplexity: t-SNE's; at most a third of the images; when left out 30, or less where there are fewer than 91.
        seed: of the maps and the initial weights.

    Raises:
        InputError: the layer is unknown or an activation is NaN, there are fewer than 7 images or too few for the
            perplexity, one of the two classes is empty, or the weights do not fit. Features that are the same for all
            images are no error: the text says so.

    Source: van der Maaten and Hinton 2008, "Visualizing data using t-SNE", section 3; Venna and Kaski 2001,
    "Neighborhood preservation in nonlinear projection methods", section 2.
    """

    layer: str | None = None
    before: str | None = None
    first: int | None = None
    second: int | None = None
    perplexity: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_settings(self)

    def __call__(
        self, subject: Subject, images: Images, *, twins: Tensor | None = None, earlier: Subject | None = None
    ) -> ViewResult:
        """Return maps and distances.

        Args:
            subject: the model.
            images: the images.
            twins: changed images, one for each, of the same shape: where they land on the maps.
            earlier: another net with that layer, to be shown before this one instead of what `before` says.
        """
        check_input(subject, images)
        self._check(images)
        layer = feature_layer(subject, images.x, self.layer)
        perplexity = usable_perplexity(self.perplexity, len(images))
        earlier = earlier or self._earlier(subject)
        names = {"": subject} if earlier is None else {"before_": earlier, "": subject}
        embedded = {prefix: self._embed(one, images, layer, perplexity) for prefix, one in names.items()}
        arrays = {prefix + key: value for prefix, one in embedded.items() for key, value in one.arrays().items()}
        arrays["y"] = images.y.cpu().numpy()
        paths = self._paths(subject, images, layer, embedded[""], twins)
        arrays |= {f"twin_{name}": path[:, 1] for name, path in paths.items()}
        facts = {**self._facts(images, layer, perplexity), "maps": [one.method for one in embedded[""].maps]}
        words = _words(images, layer, embedded, self)
        if paths:
            words += f"\nCrosses are where changed images land; the drawing has the {MOST_PATHS} longest paths at most."
            words += _placed(embedded[""])
        panels = _drawing(images, embedded, paths)
        return ViewResult("embedding", arrays, words, panels, 2, 2.6, facts)

    def _check(self, images: Images) -> None:
        if (self.first is None) != (self.second is None) or (self.first is not None and self.first == self.second):
            raise InputError("distances between classes need two: set both first and second, or neither.")
        for label in (self.first, self.second):
            if label is None:
                continue
            if not 0 <= label < len(images.classes):
                raise InputError(
                    f"the label {label} is no class of {images.name!r}; choose one of 0 … {len(images.classes) - 1}."
                )
            found = int((images.y == label).sum())
            if found < 2:
                raise InputError(
                    f"of class {label} there are {found} images where distances within it need 2; take more."
                )

    def _earlier(self, subject: Subject) -> Subject | None:
        if self.before is None:
            return None
        twin = forgotten(subject, self.seed)
        if self.before != INITIAL:
            load_weights(twin.module, Path(self.before))
            twin.name = Path(self.before).name
        return twin

    def _embed(self, subject: Subject, images: Images, layer: str, perplexity: float) -> Embedded:
        values = features(subject, images, layer)
        reduced = reduce(values, self.seed)
        maps = pca_map(reduced, values), tsne_map(reduced, values, perplexity, self.seed)
        return Embedded(subject.name, values, maps, distances(values, images.y.cpu().numpy(), len(images.classes)))

    def _paths(
        self, subject: Subject, images: Images, layer: str, embedded: Embedded, twins: Tensor | None
    ) -> dict[str, NDArray[Any]]:
        """Return for each map where every image goes: (n, 2 ends, 2 coordinates)."""
        if twins is None:
            return {}
        if twins.shape != images.x.shape:
            raise InputError(
                f"twins of shape {tuple(twins.shape)} stand for images of shape {tuple(images.x.shape)}; give one each."
            )
        moved = features(subject, Images(twins.cpu(), images.y, images.ids, images.classes, "twins"), layer)
        return {
            name: np.stack([one.points, one.place(moved)], 1)
            for name, one in zip(("pca", "tsne"), embedded.maps, strict=True)
        }

    def _facts(self, images: Images, layer: str, perplexity: float) -> dict[str, Any]:
        return {
            "layer": layer,
            "before": self.before,
            "first": self.first,
            "second": self.second,
            "perplexity": perplexity,
            "seed": self.seed,
            "ids": images.ids.tolist(),
        }


@dataclass(frozen=True)
class Embedded:
    """What one net makes of the images.

    Args:
        name: the net's.
        values: the features.
        maps: PCA and t-SNE.
        distances: of the features.
    """

    name: str
    values: Float32[ndarray, "n f"]
    maps: tuple[Map, Map]
    distances: Distances

    @property
    def constant(self) -> bool:
        """Whether the features are the same for all images."""
        return not self.maps[0].reduced.varies

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return its numbers."""
        pca, tsne = self.maps
        return {
            "features": self.values,
            "pca": pca.points,
            "tsne": tsne.points,
            "trustworthiness": np.array([pca.trust, tsne.trust]),
            "explained": pca.reduced.explained,
            **self.distances.mean,
        }


def _words(images: Images, layer: str, embedded: dict[str, Embedded], view: Embedding) -> str:
    lines = [f"Features of the layer {layer} ({embedded[''].values.shape[1]} numbers) on {len(images)} images."]
    for one in embedded.values():
        when = f"{one.name}: " if len(embedded) > 1 else ""
        if one.constant:
            lines.append(f"{when}{'t' if when else 'T'}he features are the same for all images; nothing to map.")
            continue
        trust = ", ".join(f"{m.method} {m.trust:.3f}" for m in one.maps)
        explained = one.maps[0].reduced.explained[:2].sum()
        lines.append(f"{when}trustworthiness {trust}; the PCA map holds {explained:.1%} of the variance.")
    return "\n".join([*lines, *_distance_table(images, embedded, view)])


def _placed(one: Embedded) -> str:
    """Return how the t-SNE map took up changed images, where it has no way of its own to."""
    if one.constant or one.maps[1].placement != "nearest neighbours":
        return ""
    return (
        "\nOn the t-SNE map they lie at the weighted mean of their nearest images' places: scikit-learn cannot place "
        "new points, openTSNE (not installed) can."
    )


def _distance_table(images: Images, embedded: dict[str, Embedded], view: Embedding) -> list[str]:
    pair = None if view.first is None or view.second is None else (view.first, view.second)
    heads = ["within classes"] if pair is None else [f"within {images.classes[label]}" for label in pair]
    rows = []
    for measure in MEASURES:
        for prefix, one in embedded.items():
            found = one.distances
            labels = (None,) if pair is None else pair
            within, between = [found.within(measure, label) for label in labels], found.between(measure, pair)
            name = _SPOKEN[measure] + ("" if len(embedded) == 1 else ", before" if prefix else ", after")
            rows.append([name, *(f"{value:.4g}" for value in (*within, between)), _ratio(between, within)])
    entropy = " and ".join(f"{one.distances.own['cross_entropy']:.4g}" for one in embedded.values())
    return [
        *table(["mean distance of two images", *heads, "between", "between / within"], rows),
        f"The cross-entropy of a vector with itself is its entropy, here {entropy} in the mean, not 0; its KL is 0.",
    ]


def _ratio(between: float, within: list[float]) -> str:
    mean = float(np.mean(within))
    return f"{between / mean:.3g}" if mean > 0 else "–"


def _drawing(images: Images, embedded: dict[str, Embedded], paths: dict[str, NDArray[Any]]) -> tuple[Drawn, ...]:
    panels: list[Drawn] = []
    for prefix, one in embedded.items():
        when = "before, " if prefix else ""
        for name, each in zip(("pca", "tsne"), one.maps, strict=True):
            trust = "nothing to map" if one.constant else f"trustworthiness {each.trust:.3f}"
            title = f"{when}{each.method}, {trust}"
            moved = np.empty((0, 2, 2)) if prefix or not paths else _longest(paths[name])
            panels.append(Scatter(title, each.points, images.y.cpu().numpy(), images.classes, moved))
    cosine = {prefix: one.distances.mean["cosine"] for prefix, one in embedded.items()}
    scale = scale_of(*cosine.values())
    titles = {"before_": "before, cosine distance of classes", "": "cosine distance of classes"}
    panels += [_matrix(titles[prefix], values, scale, images.classes) for prefix, values in cosine.items()]
    if len(embedded) == 1:
        mse = embedded[""].distances.mean["mse"]
        panels.append(_matrix("mean squared distance of classes", mse, scale_of(mse), images.classes))
    return tuple(panels)


def _matrix(title: str, values: NDArray[Any], scale: Scale, classes: tuple[str, ...]) -> Panel:
    """Return the distances of classes as a panel; within a class they are those of two of its images."""
    return Panel(title, values, scale, classes, classes, absent="no two different images")


def _longest(paths: NDArray[Any]) -> NDArray[Any]:
    """Return the longest paths alone."""
    length = np.linalg.norm(paths[:, 1] - paths[:, 0], axis=1)
    kept = np.sort(length.argsort(kind="stable")[::-1][:MOST_PATHS])
    longest: NDArray[Any] = paths[kept[length[kept] > 0]]
    return longest
