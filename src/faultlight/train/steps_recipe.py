"""Reading recipes of any kind: a pydantic model a kind, a folder of .toml files a kind."""

from __future__ import annotations

import tomllib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from faultlight.errors import InputError, nearest

R = TypeVar("R", bound=BaseModel)

# One folder a kind, but for classifiers, which stand in it themselves.
CARRIED = Path(__file__).parent.parent / "recipes"


def kind_of(spec: str) -> str:
    """Return what a recipe trains, "autoencoder", "gan" or "text"; all else, even what there is not, "classifier".

    Args:
        spec: a name, or a path ending in .toml.
    """
    own = {path.stem: path for path in sorted(CARRIED.glob("*/*.toml"))}
    path = own.get(spec) or Path(spec)
    try:
        kind = tomllib.loads(path.read_text(encoding="utf-8")).get("kind") if path.suffix == ".toml" else None
    except (OSError, ValueError):  # what is wrong with the file is told by whoever reads it as a recipe
        return "classifier"
    return kind if kind in {each.parent.name for each in own.values()} else "classifier"


def names(folder: Path) -> tuple[str, ...]:
    """Return the names of the recipes in a folder, in alphabetical order."""
    return tuple(sorted(path.stem for path in folder.glob("*.toml")))


def load(kind: type[R], folder: Path, spec: str, overrides: Mapping[str, Any] | None = None) -> R:
    """Return a recipe by its name or the path of its .toml file.

    Args:
        kind: what the recipe is parsed into; its field `kind` names it in messages.
        folder: where Faultlight's own of this kind are.
        spec: a name that `names(folder)` lists, or a path ending in .toml.
        overrides: values by dotted key, such as {"optimiser.lr": 0.01}, laid over the file's.

    Raises:
        InputError: no such recipe, text that is not TOML, an unknown key, or a value of the wrong kind.
    """
    return parse(kind, read(_find(folder, spec), overrides), spec)


def read(path: Path, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the nested tables of a .toml file with values by dotted key laid over them.

    Raises:
        InputError: a file that cannot be read, text that is not TOML, or a key within a value that is no table.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid TOML: {error}; mend that line.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; give a recipe's name or its file's path.") from None
    for key, value in (overrides or {}).items():
        _lay(content, key, value)
    return content


def parse(kind: type[R], content: Mapping[str, Any], source: str = "the recipe") -> R:
    """Return the recipe that nested tables describe.

    Raises:
        InputError: the first thing wrong, with the nearest known key or the values allowed.
    """
    try:
        return kind.model_validate(dict(content))
    except ValidationError as error:
        raise InputError(f"{source}: {_sentence(kind, error)}") from None


def _find(folder: Path, spec: str) -> Path:
    if spec.endswith(".toml"):
        return Path(spec).expanduser()
    name = spec.removeprefix(f"{folder.name}/")
    if name in names(folder):
        return folder / f"{name}.toml"
    raise InputError(
        f"there is no {folder.name} recipe named {spec!r}, nor is it a path ending in .toml; "
        f"{nearest(name, names(folder))}."
    )


def _lay(content: dict[str, Any], key: str, value: Any) -> None:
    *tables, last = key.split(".")
    for position, name in enumerate(tables):
        inner = content.setdefault(name, {})
        if not isinstance(inner, dict):
            raise InputError(f"{key!r} cannot be set: {'.'.join(tables[: position + 1])!r} holds a value, not a table.")
        content = inner
    content[last] = value


def _sentence(kind: type[BaseModel], error: ValidationError) -> str:
    # A typo leaves its key missing as well; the typo is what helps.
    first = min(error.errors(include_url=False), key=lambda each: each["type"] != "extra_forbidden")
    dotted = ".".join(str(part) for part in first["loc"])
    *parents, key = dotted.split(".")
    if first["type"] == "extra_forbidden":
        where = f" in [{'.'.join(parents)}]" if parents else ""
        return f"there is no key {key!r}{where}; {nearest(key, _known(kind, parents))}."
    if first["type"] == "missing":
        return f"the key {dotted!r} is missing; add it."
    if first["type"] == "value_error":
        reason = str(first["ctx"]["error"]).rstrip(".")
        return f"in [{dotted}], {reason}." if dotted else f"{reason}."
    reason = first["msg"].removeprefix("Input ")
    return f"{dotted} {reason[:1].lower()}{reason[1:]}, not {first['input']!r}."


def _known(kind: type[BaseModel], parents: list[str]) -> list[str]:
    """Return the keys of a table within a recipe, found by following the fields' types."""
    for name in parents:
        hint = kind.model_fields[name].annotation
        inner = [each for each in (hint, *typing.get_args(hint)) if isinstance(each, type)]
        kind = next((each for each in inner if issubclass(each, BaseModel)), kind)
    return list(kind.model_fields)
