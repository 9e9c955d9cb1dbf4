"""What the page carries: scripts, style, and data blocks in which no text can come alive."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from faultlight.report.pictures import DIVERGING, SEQUENTIAL, gradient

_OWN = ("theme.js", "sections.js", "charts.js", "gallery.js", "detail.js")
_RUNTIME = ("vega.min.js", "vega-lite.min.js", "vega-interpreter.js")
# In HTML the first three could end a script element, open a comment or begin an entity; scripts read the last two as
# ends of lines.
_RISKY = "<>&\u2028\u2029"


def own_script(names: Sequence[str] = _OWN) -> str:
    """Return a page's own script, that of the audit's report by default."""
    return "\n".join(_text("static", name) for name in names)


def chart_runtime() -> str:
    """Return Vega, Vega-Lite and the interpreter that lets Vega run where evaluating text is forbidden."""
    return "\n".join(_text("vendor", name) for name in _RUNTIME)


def style(sheets: Sequence[str] = ("page.css",)) -> str:
    """Return the style sheets, one after the other, the colour maps' gradients included."""
    maps = f"--sequential: {gradient(SEQUENTIAL)}; --diverging: {gradient(DIVERGING)};"
    return f":root {{ {maps} }}\n{''.join(_text('static', name) for name in sheets)}"


def policy(*scripts: str) -> str:
    """Return a content policy under which a browser runs these very scripts and asks nobody for anything."""
    hashes = " ".join(f"'sha256-{_digest(text)}'" for text in scripts)
    return "; ".join(
        [
            "default-src 'none'",
            "img-src data:",
            "style-src 'unsafe-inline'",
            f"script-src {hashes}",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def json_block(record: Any) -> Markup:
    """Return JSON for a script element, such that nothing in it can end the element."""
    text = json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in _RISKY:
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _text(folder: str, name: str) -> str:
    return files("faultlight.report").joinpath(folder, name).read_text(encoding="utf-8")
