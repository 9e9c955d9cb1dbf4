"""Trains generators against a discriminator, samples them, measures what they draw and whether they collapsed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from faultlight.gan.run import GanResult

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

_Run = Annotated[Path, typer.Argument(metavar="RUN", help="A folder that `faultlight gan train` wrote.")]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, and no progress.")]
_Seed = Annotated[int, typer.Option(min=0, help="Of every random number.")]
_Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:1.")]
_Resume = Annotated[bool, typer.Option("--resume", help="Go on with what the folder holds.")]
_Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any key of the recipe, such as width=64.")
]


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A GAN recipe's name, or the path of a .toml file.")],
    data: Annotated[str | None, typer.Option(help="digits, mnist, cifar10 or a path, for the recipe's.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of the generator.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, images, latent points and the film.")] = None,
    device: _Device = "cpu",
    out: Annotated[Path | None, typer.Option(help="The run's folder; runs/RECIPE by default.")] = None,
    resume: _Resume = False,
    settings: _Settings = None,
    json: _Json = False,
) -> None:
    """Train a generator by a recipe, and keep a film of what it drew on the way."""
    from dataclasses import asdict

    from faultlight.gan.recipe import load_gan_recipe
    from faultlight.train.recipe import parse_settings

    flags = {"data": data, "steps": steps, "seed": seed}
    overrides = parse_settings(settings or []) | {key: value for key, value in flags.items() if value is not None}
    chosen = load_gan_recipe(recipe, overrides)

    from faultlight.gan import run

    folder = out or Path("runs") / chosen.name
    result = run.train(chosen, out=folder, resume=resume, device=device, quiet=json)
    if json:
        _print_json(asdict(result) | {"folder": str(result.folder)})
    else:
        _print(_as_text(result))


def _as_text(result: GanResult) -> str:
    generator, discriminator = result.parameters
    lines = [
        f"parameters      generator {generator:,}, discriminator {discriminator:,}",
        f"discriminator   real {result.d_real:.3f}, drawn {result.d_fake:.3f}, means of the last steps",
        f"training        {result.seconds:.0f} s, {result.steps_per_second:.1f} steps a second",
        f"written to      {result.folder}",
        f"next            faultlight gan measure {result.folder} --classifier MODEL",
    ]
    return "\n".join(lines)


def _print(text: str) -> None:
    from faultlight.progress import inert

    typer.echo("\n".join(inert(line) for line in text.split("\n")))


def _print_json(record: dict[str, Any]) -> None:
    from json import dumps

    typer.echo(dumps(record, ensure_ascii=False, allow_nan=False))
