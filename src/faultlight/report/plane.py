"""The map of a layer's features and the paths of failures on it, as SVG shapes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from faultlight.report.records import Gallery, Item

# The drawing's side, and the margin around the outermost point.
SIDE, _MARGIN = 100.0, 4.0


@dataclass(frozen=True)
class Dot:
    """A clean image on the map: where, and its class."""

    x: float
    y: float
    label: int


@dataclass(frozen=True)
class Plane:
    """One scale for the clean images and every path, so that all of them can be compared."""

    left: float
    top: float
    unit: float

    def at(self, point: tuple[float, float]) -> tuple[float, float]:
        """Return a point in the drawing; its vertical axis points down."""
        x, y = point
        return round(_MARGIN + (x - self.left) * self.unit, 2), round(_MARGIN + (self.top - y) * self.unit, 2)


def plane_of(gallery: Gallery) -> Plane | None:
    """Return the plane that holds the clean images and all paths, or None where the run recorded no map."""
    if gallery.map is None or not gallery.map.points:
        return None
    points = [*gallery.map.points, *(point for item in gallery.items for point in item.path)]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    span = max(max(xs) - min(xs), max(ys) - min(ys)) or 1.0
    return Plane(min(xs), max(ys), (SIDE - 2 * _MARGIN) / span)


def dots(gallery: Gallery) -> Iterator[Dot]:
    """Yield the clean images where they are drawn."""
    plane = plane_of(gallery)
    if plane is not None and gallery.map is not None:
        for point, label in zip(gallery.map.points, gallery.map.labels, strict=False):
            yield Dot(*plane.at(point), label)


def path_of(plane: Plane | None, item: Item) -> list[tuple[float, float]]:
    """Return a failure's path in the drawing; empty where none was recorded."""
    return [plane.at(point) for point in item.path] if plane else []
