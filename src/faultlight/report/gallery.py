"""The gallery of failures: its record and arrays, drawn one failure at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from safetensors import SafetensorError
from safetensors.numpy import load_file

from faultlight.errors import InputError
from faultlight.report.pictures import Picture, Scale, heat, noise, photo, shared_scale
from faultlight.report.plane import path_of, plane_of
from faultlight.report.records import Gallery, Item, Moved

Arrays = dict[str, Float32[np.ndarray, "*_shape"]]
# Bars for more classes than this would hide the ones that matter.
_CLASSES_SHOWN = 12


@dataclass(frozen=True)
class Pair:
    """The same map for the image and for its twin, on one scale."""

    clean: Picture
    twin: Picture
    scale: Scale


@dataclass(frozen=True)
class Channel:
    """A channel's maps before and after, and which channel it is.

    Args:
        moved: which channel of which layer, and by how much.
        maps: its activations.
        projection: what drives them, at the pixels; None where it was not recorded.
    """

    moved: Moved
    maps: Pair
    projection: Pair | None


@dataclass(frozen=True)
class Failure:
    """One failure, drawn.

    Args:
        index: its place in the gallery's record.
        grey: whether the image has one channel, so that its noise is a signed map and not a picture in colour.
        classes: the labels whose confidences are shown: all, or the highest before or after.
        occlusion: the true class's probability with a patch over each place; None where it was not recorded.
        saliency: what the prediction hangs on, per pixel; None where it was not recorded.
        path: where it went on the map of the net's features; empty where that was not recorded.
    """

    index: int
    item: Item
    image: Picture
    noise: Picture
    twin: Picture
    grey: bool
    classes: list[int]
    occlusion: Pair | None
    saliency: Pair | None
    channels: list[Channel]
    path: list[tuple[float, float]]


def read_arrays(path: Path, gallery: Gallery) -> Arrays:
    """Read the gallery's arrays.

    Raises:
        InputError: the file is damaged, lacks the images, or holds another number of failures than the record.
    """
    try:
        arrays: Arrays = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} cannot be read ({error}); run again with --resume.") from None
    missing = {"x", "twin"} - set(arrays)
    if missing:
        raise InputError(f"{path} holds no array named {missing.pop()!r}; run again with --resume.")
    for name, array in arrays.items():
        if len(array) != len(gallery.items):
            raise InputError(
                f"{path} holds {len(array)} rows of {name!r} for the {len(gallery.items)} failures of "
                "records/gallery.json; run again with --resume."
            )
    return arrays


def failures(gallery: Gallery, arrays: Arrays) -> Iterator[Failure]:
    """Draw the failures one after the other, in the record's order."""
    occlusion = Scale(*gallery.scales.occlusion, signed=False)
    saliency = _saliency_scale(gallery, arrays)
    plane = plane_of(gallery)
    for index, item in enumerate(gallery.items):
        x, twin = arrays["x"][index], arrays["twin"][index]
        yield Failure(
            index=index,
            item=item,
            image=photo(x),
            noise=noise(twin - x, gallery.scales.delta),
            twin=photo(twin),
            grey=len(x) == 1,
            classes=classes_shown(item),
            occlusion=_pair(arrays, "occlusion", index, occlusion),
            saliency=_pair(arrays, "saliency", index, saliency),
            channels=_channels(arrays, index, item),
            path=path_of(plane, item),
        )


def classes_shown(item: Item) -> list[int]:
    """Return the labels whose confidences are shown, in order: all of few, or the highest before or after of many."""
    both = np.maximum(item.confidence, item.twin_confidence)
    if len(both) <= _CLASSES_SHOWN:
        return list(range(len(both)))
    kept = {*np.argsort(-both, kind="stable")[:_CLASSES_SHOWN].tolist(), item.label, item.twin_prediction}
    return sorted(int(label) for label in kept)


def _pair(arrays: Arrays, name: str, index: int, scale: Scale) -> Pair | None:
    if f"{name}_clean" not in arrays or f"{name}_twin" not in arrays:
        return None
    clean, twin = arrays[f"{name}_clean"][index], arrays[f"{name}_twin"][index]
    return Pair(heat(clean, scale), heat(twin, scale), scale)


def _saliency_scale(gallery: Gallery, arrays: Arrays) -> Scale:
    signed = any(bool((arrays[name] < 0).any()) for name in ("saliency_clean", "saliency_twin") if name in arrays)
    return Scale(-gallery.scales.saliency if signed else 0.0, gallery.scales.saliency, signed)


def _channels(arrays: Arrays, index: int, item: Item) -> list[Channel]:
    if "moved_clean" not in arrays or "moved_twin" not in arrays:
        return []
    before, after = arrays["moved_clean"][index], arrays["moved_twin"][index]
    return [
        Channel(moved, _on_one_scale(before[slot], after[slot]), _projection(arrays, index, slot))
        for slot, moved in enumerate(item.moved[: len(before)])
    ]


def _projection(arrays: Arrays, index: int, slot: int) -> Pair | None:
    if "projection_clean" not in arrays or "projection_twin" not in arrays:
        return None
    clean, twin = arrays["projection_clean"][index, slot], arrays["projection_twin"][index, slot]
    if len(clean) == 1:
        return _on_one_scale(clean[0], twin[0])
    largest = float(max(np.abs(clean).max(), np.abs(twin).max()))
    return Pair(noise(clean, largest), noise(twin, largest), Scale(-largest, largest, signed=True))


def _on_one_scale(clean: Float32[np.ndarray, "h w"], twin: Float32[np.ndarray, "h w"]) -> Pair:
    scale = shared_scale(clean, twin)
    return Pair(heat(clean, scale), heat(twin, scale), scale)
