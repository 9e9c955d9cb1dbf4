"""Tables of results in markdown, put between markers of a page, so that the words around them stay as written."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from benchmarks.worker import Found
from faultlight import files, stamp

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a markdown table whose first column is left-aligned and whose others are right-aligned."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def middle(found: Sequence[Found]) -> tuple[float, float]:
    """Return the median wall time and the median processor time of several rounds."""
    return median(f.seconds for f in found), median(f.cpu for f in found)


def spread(found: Sequence[Found]) -> str:
    """Return the shortest and the longest wall time."""
    return f"{min(f.seconds for f in found):.1f} – {max(f.seconds for f in found):.1f}"


def machine(threads: int) -> str:
    """Return when, on what and with which versions, in one paragraph."""
    packages = stamp.installed()
    names = ("torch", "torchattacks", "foolbox", "numpy")
    versions = ", ".join(f"{name} {packages[name]}" for name in names if name in packages)
    cpu = stamp.cpu()
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        f"{datetime.now(UTC):%Y-%m-%d}. {cpu['name']}, {os.cpu_count()} cores ({', '.join(cpu['features'])}), "
        f"{threads} threads; {platform.system()} {platform.machine()}, {' '.join(platform.libc_ver())}; "
        f"Python {platform.python_version()}, {versions}. Load averages at the end: {load}."
    )


def put(page: Path, name: str, text: str) -> None:
    """Write text between the markers `<!-- name -->` and `<!-- /name -->` of a page."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before = page.read_text(encoding="utf-8")
    pattern = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(before):
        raise ValueError(f"{page} has no markers {start} … {end}")
    files.write_text(page, pattern.sub(lambda _: f"{start}\n{text}\n{end}", before))
