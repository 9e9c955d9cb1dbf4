"""`faultlight recipes`: the experiments that Faultlight carries, and the figure each must reach."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

# Spelled out here because faultlight.train.recipe loads pydantic, which a listing does not need.
_FOLDER = Path(__file__).parent.parent / "recipes"
_HEADINGS = {
    "classifier": "Classifiers (faultlight train NAME)",
    "autoencoder": "Autoencoders and denoisers (faultlight autoencoder train NAME)",
    "gan": "Generators (faultlight gan train NAME)",
    "text": "Text (faultlight text train NAME)",
}


def recipes(
    name: Annotated[str | None, typer.Argument(help="Print this recipe in full.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List the recipes with their targets, or print one."""
    # Classifiers first, then the networks that draw and write, folder by folder.
    found = {path.stem: path for path in [*sorted(_FOLDER.glob("*.toml")), *sorted(_FOLDER.glob("*/*.toml"))]}
    if name is None:
        _list({stem: tomllib.loads(path.read_text(encoding="utf-8")) for stem, path in found.items()}, json)
        return
    if name not in found:
        from faultlight.errors import InputError, nearest

        raise InputError(f"there is no recipe named {name!r}; {nearest(name, found)}.")
    _show(found[name].read_text(encoding="utf-8"), json)


def _list(contents: dict[str, dict[str, Any]], json: bool) -> None:
    keys = ("title", "target", "robust_target")
    rows = [
        {"name": name, "kind": each.get("kind", "classifier"), **{key: each.get(key) for key in keys}}
        for name, each in contents.items()
    ]
    if json:
        from json import dumps

        typer.echo(dumps({"recipes": rows}, ensure_ascii=False))
        return
    width, goal = (max(map(len, column)) for column in (contents, map(_goal, rows)))
    kind = ""
    for row in rows:
        if row["kind"] != kind:
            kind = row["kind"]
            typer.echo(f"{_HEADINGS.get(kind, kind)}:")
        typer.echo(f"  {row['name']:<{width}}  {_goal(row):<{goal}}  {row['title']}")


def _goal(row: dict[str, Any]) -> str:
    due = [_bound(row["target"])] if row["target"] else []
    if row["robust_target"]:
        kind = "certified" if row["robust_target"].get("by") == "certificate" else "PGD"
        due.append(f"{kind} {_bound(row['robust_target'])}")
    return ", ".join(due)


def _bound(target: dict[str, Any]) -> str:
    if "at_most" in target:
        return f"{target['metric'].replace('_', ' ')} ≤ {target['at_most']:g}"
    return f"≥ {round(100 * target['at_least'], 2):g} %"


def _show(text: str, json: bool) -> None:
    if json:
        from json import dumps

        text = dumps(tomllib.loads(text), ensure_ascii=False)
    typer.echo(text.rstrip("\n"))
