"""Trains autoencoders and denoisers, measures what they restore, looks into them, and puts them before classifiers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from faultlight.cli._pages import check_classifier
from faultlight.cli._print import print_json, print_text
from faultlight.cli._runs import named, say_if_stopped

if TYPE_CHECKING:
    from faultlight.autoencoder.run import AutoencoderResult
    from faultlight.data.images import Images
    from faultlight.models.subject import Subject

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

_RUN = "A folder that `faultlight autoencoder train` wrote."
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, and no progress.")]
_Seed = Annotated[int, typer.Option(min=0, help="Of every random number.")]
# Test images that `page` measures on.
MEASURED = 2000
_Weights = Annotated[Path | None, typer.Option(help="The weights of a zoo classifier.")]


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe's name, such as mnist-denoiser-2, or a .toml file.")],
    data: Annotated[str | None, typer.Option(help="mnist, cifar10 or a path, in place of the recipe's.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of the optimiser.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, shuffles and noise.")] = None,
    noise: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND:LOW-HIGH", help="Learn to undo these noises in place of the recipe's."),
    ] = None,
    classifier: Annotated[
        str | None, typer.Option(help="What adversarial noise is aimed at: a trained run's folder or zoo:NAME.")
    ] = None,
    weights: _Weights = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:1.")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="The run's folder; runs/RECIPE by default.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any key of the recipe, such as network.depth=3."),
    ] = None,
    json: _Json = False,
) -> None:
    """Train an autoencoder or a denoiser by a recipe."""
    from dataclasses import asdict

    from faultlight.autoencoder.recipe import load_autoencoder_recipe
    from faultlight.autoencoder.tampering import as_record, parse_tampering
    from faultlight.train.recipe import parse_settings

    flags: dict[str, Any] = {"data": data, "steps": steps, "seed": seed, "classifier": classifier}
    flags["classifier_weights"] = str(weights) if weights else None
    flags["tamper"] = [as_record(parse_tampering(each)) for each in noise] if noise else None
    overrides = parse_settings(settings or []) | {key: value for key, value in flags.items() if value is not None}
    chosen = load_autoencoder_recipe(recipe, overrides)
    if chosen.classifier:
        check_classifier(Path(chosen.classifier))

    from faultlight.autoencoder import run

    folder = out or Path("runs") / chosen.name
    result = run.train(chosen, out=folder, resume=resume, device=device, quiet=json)
    if json:
        print_json(asdict(result) | {"folder": str(result.folder)})
    else:
        print_text(_as_text(result))


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN…", help=f"{_RUN} Several are set side by side.")],
    classifier: Annotated[
        str | None, typer.Option(help="Whose accuracy is measured: a folder made by train, or zoo:NAME.")
    ] = None,
    weights: _Weights = None,
    noise: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND:STRENGTH", help="gaussian:0.5, occlusion:0.3, …  [default: those of the recipe]"),
    ] = None,
    data: Annotated[str | None, typer.Option(help="Test images, in place of the recipe's.")] = None,
    n: Annotated[int, typer.Option(min=1, help="How many: the first N of the test split.")] = 1000,
    seed: _Seed = 0,
    out: Annotated[Path | None, typer.Option(help="Where record and pictures go.  [default: RUN/compare]")] = None,
    json: _Json = False,
) -> None:
    """Measure what is restored, noise by noise: error, PSNR, and a classifier's accuracy with and without."""
    from faultlight.autoencoder.comparison import as_text, asked_noises, compare_networks, usual_noises
    from faultlight.autoencoder.saved import facts_of, load_autoencoder

    asked = asked_noises(noise or [])
    nets = {name: load_autoencoder(run) for name, run in named(runs).items()}
    say_if_stopped(*runs)
    noises = asked or usual_noises(runs[0], classifier is not None)
    images = _images(data or facts_of(runs[0])["data"], n)
    subject = _classifier(classifier, weights, images) if classifier else None
    compared = compare_networks(nets, images, noises, subject, seed=seed, quiet=json)
    paths = compared.save(out or runs[0] / "compare")
    if json:
        print_json(compared.record())
    else:
        print_text("\n".join([as_text(compared), *(f"wrote {path}" for path in paths)]))


@app.command()
def page(
    run: Annotated[Path, typer.Argument(metavar="RUN", help=_RUN)],
    data: Annotated[str | None, typer.Option(help="Images, in place of the recipe's.")] = None,
    n: Annotated[int, typer.Option(min=2, help="How many test images are measured on.")] = MEASURED,
    sample: Annotated[str, typer.Option(help="The class whose first test image is followed.")] = "",
    seed: _Seed = 0,
    out: Annotated[Path | None, typer.Option(help="Where page, arrays and pictures go.  [default: RUN/page]")] = None,
    json: _Json = False,
) -> None:
    """Write what a network has learnt as one HTML page: kernels, maps of a sample, code, classes, frequencies."""
    path, record = write_view(run, data, n=n, sample=sample, seed=seed, out=out)
    if json:
        print_json(record)
    else:
        print_text("\n".join([*record["sentences"], f"wrote {path}"]))


def write_view(
    run: Path, data: str | None = None, *, n: int = MEASURED, sample: str = "", seed: int = 0, out: Path | None = None
) -> tuple[Path, dict[str, Any]]:
    """Write what `autoencoder page` writes; return the page and its record."""
    from faultlight.autoencoder.page import write_page
    from faultlight.autoencoder.saved import facts_of
    from faultlight.data.load import load_data

    name, folder = data or facts_of(run)["data"], out or run / "page"
    images, learnt = _images(name, n), load_data(name, "train", n=10_000)
    record = write_page(run, images, learnt, folder, sample=sample, seed=seed)
    say_if_stopped(run)
    return folder / "page.html", record


@app.command()
def defend(
    run: Annotated[Path, typer.Argument(metavar="RUN", help=_RUN)],
    classifier: Annotated[str, typer.Option(help="What stands behind it: a folder made by train, or zoo:NAME.")],
    weights: _Weights = None,
    out: Annotated[Path | None, typer.Option(help="The folder.  [default: RUN/defence]")] = None,
    json: _Json = False,
) -> None:
    """Put a denoiser before a classifier, in a folder that `faultlight audit` attacks through both."""
    from faultlight.autoencoder.defence import FACTORY, save_denoised

    check_classifier(Path(classifier))
    place = save_denoised(out or run / "defence", run, classifier, weights)
    say_if_stopped(run)
    if json:
        print_json({"schema": 1, "model": f"{place}:denoised"})
    else:
        print_text(
            f"wrote {place.parent}\nnext  faultlight audit {place.parent / FACTORY}:denoised --trust --data DATA"
        )


def _images(name: str, n: int) -> Images:
    from faultlight.data.load import load_data
    from faultlight.progress import inert

    images = load_data(name, n=n)
    for note in images.notes:
        typer.echo(f"note: {inert(note)}", err=True)
    return images


def _classifier(spec: str, weights: Path | None, images: Images) -> Subject:
    from faultlight.models.inspect import check_subject
    from faultlight.models.load import load_model

    check_classifier(Path(spec))
    subject = load_model(spec, weights=weights, classes=len(images.classes), shape=images.shape)
    check_subject(subject, images)
    return subject


def _as_text(result: AutoencoderResult) -> str:
    target = result.target
    due = f"test error at most {target['at_most']:g}: {'met' if result.met else 'NOT met'}" if target else "none set"
    decibels = "" if result.test_psnr is None else f", PSNR {result.test_psnr:.2f} dB"
    lines = [
        f"parameters   {result.parameters:,}",
        f"clean        mean squared error {result.test_mse:.5f}{decibels} ({result.test_count:,} test images)",
        *(
            f"noise        {each['kind']} {each['strength']:g}: {each['mse']:.5f} given, "
            f"{each['mse_restored']:.5f} restored"
            for each in result.noises
        ),
        f"target       {due}",
        f"training     {result.seconds:.0f} s, {result.steps_per_second:.1f} steps a second",
        f"written to   {result.folder}",
        f"next         faultlight autoencoder page {result.folder}",
    ]
    return "\n".join(lines)
