"""What every view returns: numbers first, then how to draw them."""

from __future__ import annotations

import base64
import html
import io
import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from faultlight import files
from faultlight.progress import inert
from faultlight.views._chart import Chart, Dots
from faultlight.views._scatter import Scatter

if TYPE_CHECKING:  # Drawing costs half a second of imports that an audit never needs.
    import matplotlib.figure

Kind = Literal["image", "signed", "unsigned", "classes"]


@dataclass(frozen=True)
class Scale:
    """What the colours of a panel mean; panels that are compared hold the same one.

    Args:
        kind: "image" (grey or RGB in [0, 1], shown as it is), "signed" (diverging map, symmetric about 0),
            "unsigned" (perceptual sequential map) or "classes" (one colour a class).
        low: the value of the first colour.
        high: the value of the last colour.
        names: the names of the classes, for "classes" alone.
    """

    kind: Kind
    low: float = 0.0
    high: float = 1.0
    names: tuple[str, ...] = ()


IMAGE = Scale("image")


def scale_of(*values: NDArray[Any]) -> Scale:
    """Return the one scale of panels that are compared: diverging about 0 as soon as any value is negative.

    Args:
        values: the numbers of every panel that will share the scale; NaN, which is drawn as nothing, is passed over.

    Returns:
        [−m, m] with m the greatest magnitude when a value is below 0, otherwise [0, greatest value].
    """
    finite = [part[np.isfinite(part)] for part in values]
    lowest = min((float(part.min()) for part in finite if part.size), default=0.0)
    highest = max((float(part.max()) for part in finite if part.size), default=0.0)
    if lowest < 0:
        largest = max(-lowest, highest)
        return Scale("signed", -largest, largest)
    return Scale("unsigned", 0.0, highest)


@dataclass(frozen=True)
class Panel:
    """One picture of a drawing.

    Args:
        title: what is seen, in a few words.
        values: (h, w), or (h, w, 3) for an RGB image; NaN is drawn as nothing.
        scale: what the colours mean.
        rows: the names of the rows, written beside them.
        columns: the names of the columns, written below them.
        absent: what NaN means, for the key; such cells are hatched.
        wide: whether the panel has a row of the drawing to itself, its columns in line with those of `Dots`.
    """

    title: str
    values: NDArray[Any]
    scale: Scale = IMAGE
    rows: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    absent: str = ""
    wide: bool = False


# What a drawing may hold in one of its cells.
Drawn = Panel | Chart | Dots | Scatter
# A cell that stays empty, so that the next row begins where it should.
BLANK = Panel("", np.full((1, 1), np.nan))


@dataclass(frozen=True)
class ViewResult:
    """The numbers of a view, the words that go with them, and their drawing.

    Args:
        name: the view's name, such as "occlusion"; files are called after it.
        arrays: every number that is drawn and more, by name.
        words: the summary that `text()` returns, complete sentences or a table.
        panels: the pictures, charts and scatters, row by row; none for a view that is a table.
        columns: how many panels a row of the drawing holds.
        side: the side of a picture in the drawing, in inches.
        facts: settings and names that are no arrays (layer, patch, ids, …), as JSON can hold them.
        kind: what gave it, for the record: a view, or a study of many images.
        caption: what the drawing has to say of itself, below it: its scales, and what it leaves out.
    """

    name: str
    arrays: dict[str, NDArray[Any]]
    words: str
    panels: tuple[Drawn, ...] = ()
    columns: int = 4
    side: float = 1.6
    facts: dict[str, Any] = field(default_factory=dict)
    kind: Literal["view", "study"] = "view"
    caption: str = ""

    def __repr__(self) -> str:
        """Return the name and the arrays' names and shapes; the numbers may be many."""
        shapes = {name: "×".join(map(str, values.shape)) or "scalar" for name, values in self.arrays.items()}
        return f"<{self.kind} {self.name!r}: {', '.join(f'{name} {shape}' for name, shape in shapes.items())}>"

    def text(self) -> str:
        """Return the summary in words, the control characters of a hostile class name spelled out."""
        return "\n".join(inert(line) for line in self.words.splitlines())

    def figure(self) -> matplotlib.figure.Figure:
        """Return the drawing as a matplotlib Figure that belongs to no pyplot state."""
        from faultlight.views._draw import draw

        return draw(self.panels, self.columns, self.text(), self.side, self.caption)

    def save(self, folder: Path) -> list[Path]:
        """Write NAME.npz, NAME.json, NAME.png and NAME.svg into a folder, each file whole or not at all.

        Args:
            folder: where to; it is made when it is absent.

        Returns:
            The paths written.

        Raises:
            InputError: the folder cannot be written to; older files in it are intact.
        """
        record = {"schema": 1, self.kind: self.name, "text": self.text(), "facts": self.facts}
        contents = {
            "npz": _npz(self.arrays),
            "json": json.dumps(record, indent=1, allow_nan=False, ensure_ascii=False).encode() + b"\n",
            **self._drawings("png", "svg"),
        }
        paths = [folder / f"{self.name}.{suffix}" for suffix in contents]
        for path, content in zip(paths, contents.values(), strict=True):
            files.write_bytes(path, content)
        return paths

    def _drawings(self, *forms: Literal["png", "svg"]) -> dict[str, bytes]:
        from faultlight.views._draw import render

        figure = self.figure()
        return {form: render(figure, form) for form in forms}

    def _repr_png_(self) -> bytes:
        return self._drawings("png")["png"]

    def _repr_html_(self) -> str:
        words = f"<pre>{html.escape(self.text())}</pre>"
        if not self.panels:
            return words
        picture = base64.b64encode(self._repr_png_()).decode()
        return f'<img alt="{html.escape(self.name)}" src="data:image/png;base64,{picture}">{words}'


def _npz(arrays: dict[str, NDArray[Any]]) -> bytes:
    # Not numpy.savez: it takes the names as keywords, so that a layer called "file" breaks it, and it writes the time.
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, values in arrays.items():
            part = io.BytesIO()
            np.lib.format.write_array(part, np.asarray(values), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), part.getvalue(), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()
