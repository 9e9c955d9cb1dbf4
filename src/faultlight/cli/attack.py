"""`faultlight attack`: one attack on a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from faultlight.catalogue import lookup
from faultlight.errors import InputError
from faultlight.progress import inert
from faultlight.settings import build, listing
from faultlight.threat import parse_threat, usual_threat

if TYPE_CHECKING:
    from faultlight.api import AttackResult
    from faultlight.data.images import Images

_MODEL = "zoo:NAME, FILE.py:factory, package.module:factory, or a folder made by train."


def attack(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=_MODEL)],
    name: Annotated[str, typer.Option("--attack", metavar="NAME", help="Which attack; the list is above.")] = "pgd",
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="K=V", help="A setting of the attack.")] = None,
    threat: Annotated[
        str | None, typer.Option(help="The ball: linf:8/255, l2:0.5, l0:1.  [default: the data set's usual one]")
    ] = None,
    target: Annotated[int | None, typer.Option(help="The class that has to be reached; any wrong one without.")] = None,
    data: Annotated[str, typer.Option(help="digits, mnist, cifar10, or a path.")] = "digits",
    n: Annotated[int, typer.Option(min=1, help="How many images: the first N of the test split.")] = 100,
    weights: Annotated[Path | None, typer.Option(help="A file of weights for the model.")] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Allow MODEL to run its own Python code.")] = False,
    seed: Annotated[int, typer.Option(help="The seed of every random number.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="A .safetensors file for ids and pixels of the twins.")] = None,
    eight_bit: Annotated[bool, typer.Option("--eight-bit", help="Count only twins that are 8-bit images.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Run one attack on a model and say what it broke, as the judge saw it."""
    chosen = build(lookup("attacks", name), settings or [], "attack")
    ball = parse_threat(threat or usual_threat(data))
    if out is not None and out.exists():
        raise InputError(f"{out} is there already; choose another file, or move it away.")

    from faultlight.api import attack as run
    from faultlight.data.load import load_data
    from faultlight.models.load import load_model

    images = load_data(data, n=n)
    for note in images.notes:
        typer.echo(f"note: {inert(note)}", err=True)
    subject = load_model(
        model, weights=weights, classes=len(images.classes), shape=images.shape, trust=trust, device=device, seed=seed
    )
    result = run(subject, images, chosen, ball, seed=seed, target=target, quiet=False, eight_bit=eight_bit)
    if out is not None:
        _save(result, images, out)
    facts = _facts(result, str(ball), str(chosen))
    typer.echo(json.dumps(facts) if as_json else _text(facts, out))


attack.__doc__ = f"{attack.__doc__}\n\n\b\n{listing('attacks')}"


def _facts(result: AttackResult, threat: str, attack: str) -> dict[str, Any]:
    changed = result.broken & (result.distance > 0)
    return {
        "schema": 1,
        "attack": attack,
        "threat": threat,
        "n": len(result.broken),
        "broken": int(result.broken.sum()),
        "broken_by_attack": int(changed.sum()),
        "median_distance": float(result.distance[changed].median()) if changed.any() else None,
        "forward": int(result.forwards.sum()),
        "backward": int(result.backwards.sum()),
    }


def _text(facts: dict[str, Any], out: Path | None) -> str:
    lines = [
        f"{facts['attack']} within {facts['threat']}: {facts['broken']} of {facts['n']} images broken "
        f"({facts['broken_by_attack']} by the attack, {facts['broken'] - facts['broken_by_attack']} without it).",
        f"{facts['forward']:,} forward and {facts['backward']:,} backward passes, the judge's included.",
    ]
    return "\n".join([*lines, *([f"wrote {out}"] if out else [])])


def _save(result: AttackResult, images: Images, out: Path) -> None:
    from safetensors.torch import save

    from faultlight.files import write_bytes

    write_bytes(out, save({"ids": images.ids[result.broken], "x": result.x[result.broken].contiguous()}))
