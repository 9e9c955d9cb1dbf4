"""What a character model did with a text, as one page: colour it by any cell, point at any character."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from faultlight.errors import InputError
from faultlight.files import read_json, write_text
from faultlight.report import assets
from faultlight.report.environment import templates

RECORD, ARRAYS, PAGE = "text.json", "text.safetensors", "text.html"
_SCRIPTS = ("theme.js", "text.js")
_STEPS = 127
_SIDE, _MARGIN = 240, 26
# The classes of characters in the map of states, each with the test that the first to pass decides.
_KINDS = ("line end", "blank", "capital", "vowel", "other letter", "digit", "mark")


@dataclass(frozen=True)
class Dot:
    """A dot of a drawing: its place in pixels, its class, and what it says when pointed at."""

    x: float
    y: float
    kind: str
    title: str


@dataclass(frozen=True)
class Plot:
    """A drawing of dots."""

    title: str
    dots: tuple[Dot, ...]


def write_text_page(folder: Path) -> Path:
    """Write text.html from text.json and text.safetensors in a folder, and return its path.

    Raises:
        InputError: the folder holds no such records, or they are damaged or of a newer schema.
    """
    record = read_json(folder / RECORD)
    if not isinstance(record, dict) or record.get("schema") != 1:
        raise InputError(f"{folder / RECORD} is no record of a text that was looked at; run `faultlight text view`.")
    page = folder / PAGE
    write_text(page, render(record, _arrays(folder / ARRAYS)))
    return page


def render(record: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> str:
    """Return the page.

    Args:
        record: what text.json holds.
        arrays: what text.safetensors holds.
    """
    own = assets.own_script(_SCRIPTS)
    return (
        templates()
        .get_template("text.html")
        .render(
            record=record,
            shape=record["shape"],
            cells=record["cells"],
            style=Markup(assets.style(("page.css", "text.css"))),
            own_script=Markup(own),
            policy=assets.policy(own),
            data=assets.json_block(page_data(record, arrays)),
            gates=[*_gate_plots(arrays)],
            maps=[*_map_plots(record["text"], arrays)],
            kinds=_KINDS,
            side=_SIDE,
            margin=_MARGIN,
        )
    )


def page_data(record: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """Return what the page's script reads: activations in steps of 1/127, cell by cell, in base 64."""
    hidden = np.asarray(arrays["hidden"])
    layers, length, cells = hidden.shape
    levels = np.rint(np.clip(hidden, -1, 1) * _STEPS).astype(np.int8).transpose(0, 2, 1)
    return {
        "text": record["text"],
        "alphabet": record["alphabet"],
        "layers": layers,
        "cells": cells,
        "length": length,
        "steps": _STEPS,
        "levels": base64.b64encode(np.ascontiguousarray(levels).tobytes()).decode(),
        "guesses": arrays["guesses"].tolist(),
        "chances": [[round(float(each), 4) for each in row] for row in arrays["chances"]],
        "surprise": [round(float(each), 3) for each in arrays["surprise"]],
        "first": _first_cell(record["cells"]),
    }


def _first_cell(cells: dict[str, Any]) -> list[int]:
    found = cells["findings"]
    return [found[0]["layer"], found[0]["cell"]] if found else [0, 0]


def _gate_plots(arrays: dict[str, NDArray[Any]]) -> list[Plot]:
    names = [name.removeprefix("left/") for name in arrays if name.startswith("left/")]
    return [_gate_plot(name, arrays[f"left/{name}"], arrays[f"right/{name}"]) for name in sorted(names)]


def _gate_plot(name: str, left: NDArray[Any], right: NDArray[Any]) -> Plot:
    dots = [
        Dot(
            round(_MARGIN + float(left[layer, cell]) * _SIDE, 1),
            round(_MARGIN + (1 - float(right[layer, cell])) * _SIDE, 1),
            f"layer-{layer % 4}",
            f"layer {layer + 1}, cell {cell}: below 0.1 {left[layer, cell]:.0%}, above 0.9 {right[layer, cell]:.0%}",
        )
        for layer in range(left.shape[0])
        for cell in range(left.shape[1])
    ]
    return Plot(f"{name} gate", tuple(dots))


def _map_plots(text: str, arrays: dict[str, NDArray[Any]]) -> list[Plot]:
    ids = arrays["map_ids"]
    names = [name for name in arrays if name.startswith("map/")]
    return [_map_plot(name.removeprefix("map/"), arrays[name], ids, text) for name in sorted(names)]


def _map_plot(name: str, places: NDArray[Any], ids: NDArray[Any], text: str) -> Plot:
    low = places.min(0)
    span = float((places.max(0) - low).max()) or 1.0
    scaled = _MARGIN + (places - low) / span * _SIDE
    dots = [
        Dot(round(float(x), 1), round(float(y), 1), _kind(text[place]).replace(" ", "-"), _around(text, int(place)))
        for (x, y), place in zip(scaled, ids.tolist(), strict=True)
    ]
    return Plot(name, tuple(dots))


def _kind(character: str) -> str:
    tests = (
        character in "\n\r\x0b\x0c", character.isspace(), character.isupper(), character in "aeiou",
        character.isalpha(), character.isdigit(), True,
    )  # fmt: skip
    return _KINDS[tests.index(True)]


def _around(text: str, place: int) -> str:
    return f"{text[max(place - 20, 0) : place + 1]!r} at {place}"


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        return dict(safetensors.load(path.read_bytes()))
    except FileNotFoundError:
        raise InputError(f"{path} is not there; run `faultlight text view` again.") from None
    except (SafetensorError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error}); run `faultlight text view` again.") from None
