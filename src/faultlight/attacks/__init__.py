"""Attacks: frozen dataclasses that propose candidates; one file each.

`faultlight.attacks.<Class>` finds a class by its file; a new file here, or an entry point of the group
`faultlight.attacks`, is all that a new one needs.
"""

from __future__ import annotations

from typing import Any

from faultlight.catalogue import catalogue, lazy_class


def __getattr__(name: str) -> Any:
    return lazy_class("attacks", name)


def __dir__() -> list[str]:
    return [entry.class_name for entry in catalogue("attacks").values()]
