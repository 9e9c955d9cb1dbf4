"""Views: functions of a subject and images to arrays plus a drawing; one file each.

`faultlight.views.<Class>` finds a class by its file; a new file here, or an entry point of the group
`faultlight.views`, is all that a new one needs.
"""

from __future__ import annotations

from typing import Any

from faultlight.catalogue import catalogue, lazy_class


def __getattr__(name: str) -> Any:
    return lazy_class("views", name)


def __dir__() -> list[str]:
    return [entry.class_name for entry in catalogue("views").values()]
