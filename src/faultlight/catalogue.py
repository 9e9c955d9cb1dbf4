"""Discovery by folder: each file of a package holds one public thing, found without importing it.

The class is the one whose name, lower-cased, is the file's name without underscores (`uniform_noise.py` →
`UniformNoise`). Other people's packages join through an entry point of the group `faultlight.<package>`.
Names, summaries and fields are read from the source text, so listing attacks never imports torch.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from itertools import pairwise
from pathlib import Path
from typing import Any

from faultlight.errors import InputError, nearest


@dataclass(frozen=True)
class Field:
    """One hyper-parameter of an entry, as its source declares it."""

    name: str
    type: str
    default: str


@dataclass(frozen=True)
class Entry:
    """One discovered class: `name` on the command line, its class, the docstring and the fields."""

    name: str
    module: str
    class_name: str
    doc: str
    fields: tuple[Field, ...]

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return self.doc.strip().splitlines()[0] if self.doc.strip() else ""

    @property
    def source(self) -> str:
        """The paragraph "Source: …" of the docstring, in one line: paper and section."""
        paragraphs = (" ".join(paragraph.split()) for paragraph in self.doc.split("\n\n"))
        return next((text.removeprefix("Source: ") for text in paragraphs if text.startswith("Source: ")), "")

    def load(self) -> type[Any]:
        """Import the module and return the class."""
        found: type[Any] = getattr(importlib.import_module(self.module), self.class_name)
        return found


@cache
def catalogue(package: str) -> dict[str, Entry]:
    """Return the entries of `faultlight.<package>`, by name, in alphabetical order."""
    root = f"faultlight.{package}"
    spec = importlib.util.find_spec(root)
    folders = list(spec.submodule_search_locations or []) if spec else []
    files = [path for folder in folders for path in sorted(Path(folder).glob("*.py"))]
    found = [_read(path, f"{root}.{path.stem}", path.stem) for path in files if not path.stem.startswith("_")]
    found += [_from_entry_point(point) for point in entry_points(group=root)]
    entries = sorted(filter(None, found), key=lambda entry: entry.name)
    for one, other in pairwise(entries):
        if one.name == other.name:
            where = f"in {one.module} and in {other.module}"
            raise InputError(f"two {package} are named {one.name!r}, {where}; uninstall or rename one.")
    return {entry.name: entry for entry in entries}


def lookup(package: str, name: str) -> Entry:
    """Return one entry by its command-line name or class name.

    Raises:
        InputError: no such entry; the message names the nearest one.
    """
    entries = catalogue(package)
    for entry in entries.values():
        if name in (entry.name, entry.class_name):
            return entry
    kind = {"studies": "study"}.get(package, package.removesuffix("s"))
    raise InputError(f"there is no {kind} named {name!r}; {nearest(name, entries)}.")


def lazy_class(package: str, class_name: str) -> type[Any]:
    """Return the class `class_name` of a package, for its module-level `__getattr__`."""
    for entry in catalogue(package).values():
        if entry.class_name == class_name:
            return entry.load()
    raise AttributeError(f"module 'faultlight.{package}' has no attribute {class_name!r}")


def _from_entry_point(point: EntryPoint) -> Entry | None:
    spec = importlib.util.find_spec(point.module)
    if spec is None or spec.origin is None:
        return None
    return _read(Path(spec.origin), point.module, point.name, point.attr)


def _read(path: Path, module: str, name: str, class_name: str = "") -> Entry | None:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and (node.name == class_name or node.name.lower() == name.replace("_", "")):
            fields = tuple(
                _field(item) for item in node.body if isinstance(item, ast.AnnAssign) and not _of_class(item)
            )
            doc = ast.get_docstring(node) or ""
            return Entry(name.replace("_", "-"), module, node.name, doc, fields)
    return None


def _of_class(item: ast.AnnAssign) -> bool:
    return ast.unparse(item.annotation).startswith(("ClassVar", "typing.ClassVar"))


def _field(item: ast.AnnAssign) -> Field:
    return Field(ast.unparse(item.target), ast.unparse(item.annotation), ast.unparse(item.value) if item.value else "")
