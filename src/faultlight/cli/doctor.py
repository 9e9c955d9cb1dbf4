"""`faultlight doctor`: what this machine offers, and what is missing."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import typer


def doctor(json: bool = typer.Option(False, "--json", help="Print one JSON object.")) -> None:
    """Say what this machine offers and what is missing."""
    facts = examine()
    if json:
        from json import dumps

        typer.echo(dumps(facts, ensure_ascii=False))
        return
    for name, value in facts.items():
        typer.echo(f"{name:<12} {_words(value)}")


def examine() -> dict[str, Any]:
    """Return the facts by name, as `--json` prints them."""
    from faultlight import stamp
    from faultlight.runtime import keep_allocator

    installed = stamp.installed()
    cpu = stamp.cpu()
    return {
        "faultlight": installed.get("faultlight", ""),
        "python": platform.python_version(),
        "torch": installed.get("torch", ""),
        "numpy": installed.get("numpy", ""),
        "device": _devices(),
        "cpu": {"name": cpu["name"], "cores": cpu["cores"]},
        "bfloat16": {"amx": "amx_bf16" in cpu["features"], "avx512": "avx512_bf16" in cpu["features"]},
        "allocator": "keeps large blocks" if keep_allocator() else "the C library's own (not glibc)",
        "data": _data(),
        "disk": {"folder": str(Path.cwd()), "free GiB": _free_gib(Path.cwd())},
    }


def _devices() -> list[str]:
    import torch

    cards = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return ["cpu", *(f"cuda:{index} {name}" for index, name in enumerate(cards))]


def _data() -> dict[str, str | None]:
    from faultlight.data.load import sources
    from faultlight.data.places import find_copy

    where: dict[str, str | None] = {"FAULTLIGHT_DATA": os.environ.get("FAULTLIGHT_DATA")}
    for source in sources().values():
        if source.published is not None:
            embedded = not source.published.places
            where[source.published.name] = "embedded" if embedded else str(find_copy(source) or "absent")
    return where


def _free_gib(folder: Path) -> float:
    import shutil

    return round(shutil.disk_usage(folder).free / 2**30, 1)


def _words(value: Any) -> str:
    from faultlight.progress import inert

    if isinstance(value, dict):
        return ", ".join(f"{name}: {_words(each)}" for name, each in value.items())
    if isinstance(value, list):
        return ", ".join(_words(each) for each in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return inert(str(value)) if value is not None else "not set"
