"""The templates' surroundings: everything is escaped, and no name can hide what it is."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from faultlight.progress import inert


def templates() -> Environment:
    """Return the surroundings in which every page is rendered."""
    return Environment(
        loader=PackageLoader("faultlight.report"),
        autoescape=True,
        finalize=_visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _visible(value: Any) -> Any:
    """Spell out control characters and reversing marks: a name must show what it is, whoever wrote it."""
    return inert(value) if isinstance(value, str) and not isinstance(value, Markup) else value
