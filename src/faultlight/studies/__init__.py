"""Studies: what looks at many images or models together, and so cannot be an attack; one file each.

`faultlight.studies.<Class>` finds a class by its file; a new file here, or an entry point of the group
`faultlight.studies`, is all that a new one needs.
"""

from __future__ import annotations

from typing import Any

from faultlight.catalogue import catalogue, lazy_class


def __getattr__(name: str) -> Any:
    if name == "Case":
        from faultlight.studies._case import Case

        return Case
    return lazy_class("studies", name)


def __dir__() -> list[str]:
    return ["Case", *(entry.class_name for entry in catalogue("studies").values())]
