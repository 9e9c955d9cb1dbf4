"""Settings written as K=V on the command line, turned into a dataclass found by the catalogue."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, get_args, get_type_hints

from faultlight.catalogue import Entry, catalogue
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
            raise InputError(f"the setting {setting!r} has no value; write it like {key}=12.")
        if key not in {field.name for field in entry.fields}:
            known = nearest(key, [field.name for field in entry.fields])
            raise InputError(f"the {kind} {entry.name!r} has no setting {key!r}; {known}.")
        if key in values:
            raise InputError(f"the setting {key!r} is given twice; keep one of them.")
        values[key] = parse(key, text, hints[key])
    missing = [field.name for field in entry.fields if not field.default and field.name not in values]
    if missing:
        raise InputError(f"the {kind} {entry.name!r} needs the setting {missing[0]!r}; write it like {missing[0]}=12.")
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


def listing(package: str) -> str:
    """Return one line an entry of a package, and one of its settings, for help pages; read from source alone."""
    lines = []
    for entry in catalogue(package).values():
        settings = ", ".join(field.name + f"={field.default}" * (field.default != "None") for field in entry.fields)
        lines += [f"{entry.name}: {entry.summary}", *([f"    --set {settings}"] if settings else [])]
    return "\n".join(lines)
