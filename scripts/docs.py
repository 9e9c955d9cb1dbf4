"""Writes the pages of docs/ that are made from the source itself: `python scripts/docs.py [FOLDER]`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from faultlight.catalogue import Entry, catalogue
from faultlight.files import write_text

DOCS = Path(__file__).parents[1] / "docs"

HEAD = """\
# Attacks

<!-- Made by `make docs` from the attacks' own source: change it there. -->

An attack proposes points in a ball around each image. What broke is for the judge to say: in float32, by the untouched
model, on the pixels as they are stored. Each of these runs alone with

    faultlight attack MODEL --attack pgd --set steps=100 --set loss=margin --threat linf:8/255 --data cifar10

or, from Python,

```python
result = fl.attack(subject, images, fl.attacks.PGD(steps=100, loss="margin"), threat="linf:8/255")
```

`faultlight audit` runs several of them, the cheap ones first. Another is [one file](adding-an-attack.md).
"""


def attacks_page() -> str:
    """Return docs/attacks.md: every attack of the package with its settings and its source."""
    entries = [entry for entry in catalogue("attacks").values() if entry.module.startswith("faultlight.attacks.")]
    return "\n".join([HEAD, *(_section(entry) for entry in entries)])


def main(folder: Path = DOCS) -> None:
    """Write every page into a folder."""
    write_text(folder / "attacks.md", attacks_page())


def _section(entry: Entry) -> str:
    said, _, arguments = entry.doc.partition("\nArgs:\n")
    paragraphs = [" ".join(paragraph.split()) for paragraph in said.split("\n\n")]
    paragraphs = [text for text in paragraphs if text and not text.startswith("Source: ")]
    parts = [f"## {entry.name}", *paragraphs, _table(entry, _texts(arguments)), f"Source: {entry.source}"]
    return "\n\n".join(filter(None, parts)) + "\n"


def _table(entry: Entry, texts: dict[str, str]) -> str:
    rows = [f"| `{field.name}` | `{field.default}` | {_cell(texts[field.name])} |" for field in entry.fields]
    return "\n".join(["| setting | default | |", "| --- | --- | --- |", *rows]) if rows else ""


def _texts(arguments: str) -> dict[str, str]:
    """Return what the section "Args:" says of each name; lines that are indented further go on with the one before."""
    block = re.split(r"\n(?=\S)|\n\s*\n", arguments)[0]
    items = re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", block, flags=re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in items}


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
