"""Settings written as K=V on the command line, turned into a dataclass found by the catalogue."""

from __future__ import annotations

import math
import numbers
import reprlib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from faultlight.catalogue import Entry, Field, catalogue
from faultlight.errors import InputError, nearest


def build(entry: Entry, settings: Sequence[str], kind: str) -> Any:
    """Return an entry's class with the settings that were written as K=V.

    Args:
        entry: what to build.
        settings: "steps=40" and the like.
        kind: "attack" or "view", for the messages.

    Raises:
        InputError: no "=", a key that the class does not have, a value of the wrong type, a key given twice, or one
            that has no default left out.
    """
    chosen = entry.load()
    hints = get_type_hints(chosen)
    values: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            like = _example(hints.get(key, int))
            raise InputError(f"the setting {setting!r} has no value; write it like {key}={like}.")
        if key not in {field.name for field in entry.fields}:
            known = nearest(key, [field.name for field in entry.fields])
            raise InputError(f"the {kind} {entry.name!r} has no setting {key!r}; {known}.")
        if key in values:
            raise InputError(f"the setting {key!r} is given twice; keep one of them.")
        values[key] = parse(key, text, hints[key])
    missing = [field.name for field in entry.fields if not field.default and field.name not in values]
    if missing:
        written = f"{missing[0]}={_example(hints[missing[0]])}"
        raise InputError(f"the {kind} {entry.name!r} needs the setting {missing[0]!r}; write it like {written}.")
    return chosen(**values)


def parse(key: str, text: str, hint: Any) -> Any:
    """Return the value of a setting as its annotation wants it; "none" stands for None where None is allowed.

    Raises:
        InputError: the text is no such value.
    """
    from pydantic import TypeAdapter, ValidationError  # slow to import, and the help page must be quick

    if text.lower() == "none" and type(None) in get_args(hint):
        return None
    try:
        value = TypeAdapter(hint).validate_strings(text)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise InputError(f"the setting {key}={text} cannot be used: {reason[:1].lower()}{reason[1:]}.") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"the setting {key}={text} cannot be used: it must be a finite number.")
    return value


def _written(field: Field) -> str:
    if not field.default:
        return f"{field.name} (required)"
    return field.name if field.default == "None" else f"{field.name}={field.default}"


def _example(hint: Any) -> str:
    """Return how a setting of a kind may look."""
    kinds = _kinds(hint)
    choices = [choice for kind in kinds for choice in get_args(kind) if isinstance(choice, str)]
    known = {Path: "path/to/folder", bool: "true", int: "12", float: "0.5", str: "name"}
    return choices[0] if choices else next((text for kind, text in known.items() if kind in kinds), "12")


def check_settings(chosen: Any, **least: float) -> None:
    """Refuse settings of a dataclass of another kind than its annotations say, or below the least that is allowed.

    Args:
        chosen: a dataclass of settings.
        least: the smallest value of some of them.

    Raises:
        InputError: one is; it is named with its value and what it may be.
    """
    hints = get_type_hints(type(chosen))
    for field in fields(chosen):
        value = getattr(chosen, field.name)
        if not _fits(value, hints[field.name]):
            choices = [one for kind in _kinds(hints[field.name]) for one in get_args(kind)]
            known = [f"it must be {' or '.join(_spoken(kind) for kind in _kinds(hints[field.name]))}"]
            hint = nearest(str(value), choices) if choices else known[0]
            raise InputError(f"{field.name} cannot be {reprlib.repr(value)}; {hint}.")
        if field.name in least and value is not None and value < least[field.name]:
            raise InputError(f"{field.name} must be at least {least[field.name]:g}, not {value:g}.")


_KINDS: dict[Any, tuple[type[Any], str]] = {
    bool: (bool, "true or false"),
    int: (numbers.Integral, "a whole number"),
    float: (numbers.Real, "a finite number"),
    str: (str, "text"),
    Path: (Path, "a path"),
    NoneType: (NoneType, "none"),
}


def _kinds(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _fits(value: Any, hint: Any) -> bool:
    if len(_kinds(hint)) > 1:
        return any(_fits(value, kind) for kind in _kinds(hint))
    if get_origin(hint) is Literal:
        return isinstance(value, str) and value in get_args(hint)
    if hint not in _KINDS:
        return True
    number = isinstance(value, numbers.Real)
    # True is an integer to Python, and NaN passes every comparison by failing it.
    strange = (isinstance(value, bool) and hint is not bool) or (number and not math.isfinite(value))
    return isinstance(value, _KINDS[hint][0]) and not strange


def _spoken(kind: Any) -> str:
    return _KINDS[kind][1] if kind in _KINDS else str(kind)


def listing(package: str) -> str:
    """Return one line an entry of a package, and one of its settings, for help pages; read from source alone."""
    lines = []
    for entry in catalogue(package).values():
        settings = ", ".join(_written(field) for field in entry.fields)
        lines += [f"{entry.name}: {entry.summary}", *([f"    --set {settings}"] if settings else [])]
    return "\n".join(lines)
