"""Certificates: bounds that hold for every attack within a ball; one file each.

`faultlight.certify.<Class>` finds a class by its file; a new file here, or an entry point of the group
`faultlight.certify`, is all that a new one needs.
"""

from __future__ import annotations

from typing import Any

from faultlight.catalogue import catalogue, lazy_class


def __getattr__(name: str) -> Any:
    return lazy_class("certify", name)


def __dir__() -> list[str]:
    return [entry.class_name for entry in catalogue("certify").values()]
