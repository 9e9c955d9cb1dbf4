"""`faultlight recipes`: the experiments that Faultlight carries, and the figure each must reach."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

# Spelled out here because faultlight.train.recipe loads pydantic, which a listing does not need.
_FOLDER = Path(__file__).parent.parent / "recipes"


def recipes(
    name: Annotated[str | None, typer.Argument(help="Print this recipe in full.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List the recipes with their targets, or print one."""
    found = {path.stem: path for path in sorted(_FOLDER.glob("*.toml"))}
    if name is None:
        _list({stem: tomllib.loads(path.read_text(encoding="utf-8")) for stem, path in found.items()}, json)
        return
    if name not in found:
        from faultlight.errors import InputError, nearest

        raise InputError(f"there is no recipe named {name!r}; {nearest(name, found)}.")
    _show(found[name].read_text(encoding="utf-8"), json)


def _list(contents: dict[str, dict[str, Any]], json: bool) -> None:
    keys = ("title", "target", "robust_target")
    rows = [{"name": name, **{key: each.get(key) for key in keys}} for name, each in contents.items()]
    if json:
        from json import dumps

        typer.echo(dumps({"recipes": rows}, ensure_ascii=False))
        return
    width, goal = (max(map(len, column)) for column in (contents, map(_goal, rows)))
    for row in rows:
        typer.echo(f"{row['name']:<{width}}  {_goal(row):<{goal}}  {row['title']}")


def _goal(row: dict[str, Any]) -> str:
    due = [_least(row["target"])] if row["target"] else []
    if row["robust_target"]:
        kind = "certified" if row["robust_target"].get("by") == "certificate" else "PGD"
        due.append(f"{kind} {_least(row['robust_target'])}")
    return ", ".join(due)


def _least(target: dict[str, Any]) -> str:
    return f"≥ {round(100 * target['at_least'], 2):g} %"


def _show(text: str, json: bool) -> None:
    if json:
        from json import dumps

        text = dumps(tomllib.loads(text), ensure_ascii=False)
    typer.echo(text.rstrip("\n"))
