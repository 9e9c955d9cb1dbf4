"""Trains generators against a discriminator, samples them, measures what they draw and whether they collapsed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from faultlight.cli._print import print_json, print_text
from faultlight.cli._runs import say_if_stopped

if TYPE_CHECKING:
    from faultlight.gan.run import GanResult
    from faultlight.models.subject import Subject

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

_Run = Annotated[Path, typer.Argument(metavar="RUN", help="A folder that `faultlight gan train` wrote.")]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, and no progress.")]
_Seed = Annotated[int, typer.Option(min=0, help="Of every random number.")]
_Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:1.")]
_Classifier = Annotated[
    str, typer.Option(help="A classifier of the images: zoo:NAME, FILE.py:factory, or a folder made by train.")
]
_Weights = Annotated[Path | None, typer.Option(help="A file of weights for the classifier.")]
_Samples = Annotated[int, typer.Option(min=10, help="How many samples are measured.")]
_SHARES = (("confident (≥ 0.9)", "confident"), ("precision", "precision"), ("recall", "recall"))
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
        print_json(asdict(result) | {"folder": str(result.folder)})
    else:
        print_text(_as_text(result))


@app.command()
def sample(
    run: _Run,
    n: Annotated[int, typer.Option(min=1, help="How many images.")] = 100,
    columns: Annotated[int, typer.Option(min=1, help="Of the picture.")] = 10,
    seed: _Seed = 0,
    out: Annotated[Path | None, typer.Option(help="A .png file.  [default: RUN/samples.png]")] = None,
) -> None:
    """Draw images and lay them out in one picture."""
    from faultlight.errors import InputError
    from faultlight.files import write_bytes
    from faultlight.gan.film import as_bytes, grid, png
    from faultlight.gan.sample import draw
    from faultlight.gan.saved import load_generator

    path = out or run / "samples.png"
    if path.suffix.lower() != ".png":
        raise InputError(f"the picture is a PNG and {str(path)!r} does not end in .png; give --out such a name.")
    generator = load_generator(run)
    say_if_stopped(run)
    write_bytes(path, png(grid(as_bytes(draw(generator, n, seed)), columns)))
    print_text(f"wrote {path}")


@app.command()
def measure(
    run: _Run,
    classifier: _Classifier,
    weights: _Weights = None,
    n: _Samples = 10_000,
    seed: _Seed = 0,
    json: _Json = False,
) -> None:
    """Measure what a generator draws with a classifier, beside real held-out images, and look for collapse."""
    from faultlight.gan.measuring import measure as measured

    record = measured(run, _load(classifier, weights), n=n, seed=seed)
    say_if_stopped(run)
    if json:
        print_json(record)
        return
    print_text(_measured_text(record))


@app.command()
def study(
    classifier: _Classifier,
    weights: _Weights = None,
    recipe: Annotated[str, typer.Option(help="What the three cells have in common.")] = "mnist-mlp",
    steps: Annotated[int | None, typer.Option(help="Of each generator.  [default: the recipe's]")] = None,
    seeds: Annotated[str, typer.Option(help="Of the runs, such as 0,1,2.")] = "0,1,2",
    n: _Samples = 10_000,
    device: _Device = "cpu",
    out: Annotated[Path, typer.Option(help="A folder for the nine runs and the page.")] = Path("runs/gan-study"),
    resume: _Resume = False,
    settings: _Settings = None,
    json: _Json = False,
) -> None:
    """Tell collapse from two healthy losses: leak, minimax and non-saturating, on several seeds, as one page.

    In the first cell the gradient of the discriminator's step stays in the generator.
    """
    from faultlight.gan.recipe import load_gan_recipe
    from faultlight.train.recipe import parse_settings

    overrides = parse_settings(settings or []) | ({"steps": steps} if steps is not None else {})
    _check_free(overrides)
    base, chosen = load_gan_recipe(recipe, overrides), _seeds(seeds)

    from faultlight.gan.study import run_study
    from faultlight.report.gan_page import write_gan_page

    subject = _load(classifier, weights)
    record = run_study(base, subject, out=out, seeds=chosen, n=n, resume=resume, device=device, quiet=json)
    path = write_gan_page(out)
    if json:
        print_json(record | {"page": str(path)})
        return
    print_text("\n".join([*map(_row_text, record["rows"]), _verdict(record["holds"]), f"wrote {path}"]))


@app.command()
def page(run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run or of a study.")]) -> None:
    """Write one HTML page: drawings over time, curves, classes, measures and the alarm."""
    from faultlight.report.gan_page import write_gan_page

    print_text(f"wrote {write_gan_page(run)}")


def _load(classifier: str, weights: Path | None) -> Subject:
    from faultlight.models.load import load_model

    subject = load_model(classifier, weights=weights)
    for note in subject.notes:
        typer.echo(note.evidence, err=True)
    return subject


def _seeds(text: str) -> list[int]:
    from faultlight.errors import InputError

    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(
            f"--seeds needs whole numbers with commas between them, such as 0,1,2, not {text!r}."
        ) from None


def _check_free(overrides: dict[str, Any]) -> None:
    from faultlight.errors import InputError

    for key in ("loss", "leak", "seed", "name"):
        if key in overrides:
            raise InputError(f"the cells of the study set {key} themselves; leave out --set {key}=….")


def _measured_text(record: dict[str, Any]) -> str:
    drawn, real, memory, target = (record[key] for key in ("drawn", "held_out", "memory", "target"))
    spread, fid = drawn["modes"], f"classifier-FID of {drawn['fid_n']:,}"
    lines = [
        f"{'':<24}{'drawn':>10}{'held out':>10}",
        *(f"{title:<24}{_share(drawn[key]):>10}{_share(real[key]):>10}" for title, key in _SHARES),
        f"{fid:<24}{drawn['classifier_fid']:>10.3f}{real['classifier_fid']:>10.3f}",
        f"{'classes covered':<24}{spread['covered']:>10,}{real['modes']['covered']:>10,}",
        f"{'entropy (nats)':<24}{spread['entropy']:>10.3f}{real['modes']['entropy']:>10.3f}",
        f"{'nearest training image':<24}{memory['median_distance']:>10.3f}{memory['held_out_median_distance']:>10.3f}",
    ]
    if "counts" in spread:
        lines.append("classes         " + " ".join(_share(count / drawn["n"]) for count in spread["counts"]))
    if target:
        met = "met" if target["met"] else "NOT met"
        lines.append(f"target          {target['metric']} at least {_share(target['at_least'])}: {met}")
    said = [f"alarm           {each['evidence']}" for each in record["findings"]]
    return "\n".join([*lines, *(said or ["alarm           silent"])])


def _row_text(row: dict[str, Any]) -> str:
    said = "; ".join(each["evidence"] for each in row["findings"]) or "silent"
    return (
        f"{row['cell']:<16}seed {row['seed']:<4}{'ALARM' if row['alarm'] else 'silent'}  {said if row['alarm'] else ''}"
    )


def _verdict(holds: bool) -> str:
    if holds:
        return "the alarm goes off on the leaked gradient, on every seed, and on nothing else"
    return "the alarm does NOT tell the leaked gradient from the rest"


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


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
