"""`faultlight audit`: the whole of it, in one command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from faultlight.errors import GateFailed, InputError, Withheld
from faultlight.progress import inert
from faultlight.threat import parse_threat, usual_threat

if TYPE_CHECKING:
    from faultlight.data.images import Images
    from faultlight.evaluation.audit import Run
    from faultlight.evaluation.verdict import Share, Verdict
    from faultlight.models.subject import Subject

_MODEL = (
    "zoo:NAME, FILE.py:factory, package.module:factory, or a folder made by train. "
    "Without it, a small net is trained on the digits."
)
_USUAL = 1000


def audit(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help=_MODEL)] = None,
    weights: Annotated[Path | None, typer.Option(help="A file of weights for the model.")] = None,
    data: Annotated[str, typer.Option(help="digits, mnist, cifar10, or a path.")] = "digits",
    n: Annotated[
        int | None, typer.Option(min=1, help="How many images: the first N of the test split.  [default: 1000, or all]")
    ] = None,
    threat: Annotated[
        str | None, typer.Option(help="The ball: linf:8/255, l2:0.5, l0:1.  [default: the data set's usual one]")
    ] = None,
    effort: Annotated[str, typer.Option(help="quick, standard, or exact: AutoAttack's own protocol.")] = "standard",
    seed: Annotated[int, typer.Option(help="The seed of every random number.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="The run's folder.  [default: the next free one under runs/]")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdict as one JSON object.")] = False,
    gate: Annotated[
        list[str] | None,
        typer.Option(help='Fail unless this holds at the interval\'s near end: "attacked>=0.45". May be repeated.'),
    ] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Allow MODEL to run its own Python code.")] = False,
    batch: Annotated[int, typer.Option(min=0, help="Images in flight at once; 0 chooses. Changes no outcome.")] = 0,
    eight_bit: Annotated[bool, typer.Option("--eight-bit", help="Count only twins that are 8-bit images.")] = False,
    cross_check: Annotated[
        bool, typer.Option("--cross-check", help="Attack images that are proven to stand all the same.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out images that cannot be read.")] = False,
    resize: Annotated[
        str | None, typer.Option(metavar="HxW", help="Bring the images of a class folder to one size, such as 32x32.")
    ] = None,
) -> None:
    """Attack a classifier as hard as it can be, look into its failures, and write the verdict as one report."""
    from faultlight.evaluation.gate import parse_gates  # with scipy behind it, too slow for the help page

    gates = parse_gates(gate or [])
    ball = parse_threat(threat or usual_threat(data))
    if resume and out is None:
        raise InputError("--resume needs --out: the folder of the run to go on with.")
    folder = out or _next_folder(data)

    from faultlight.api import audit as run
    from faultlight.data.load import load_data
    from faultlight.data.source import parse_size
    from faultlight.evaluation.plan import plan
    from faultlight.geometry import check_radius

    images = load_data(data, n=n, skip_bad=skip_bad, resize=parse_size(resize) if resize else None)
    images = images if n else images.first(_USUAL)
    for note in images.notes:
        typer.echo(f"note: {inert(note)}", err=True)
    # A net may have to be trained first: what can be wrong with the rest is said before.
    plan(effort)
    check_radius(ball, images.shape)
    subject = _subject(model, weights, images, data, trust, device, seed, folder, resume)
    asked = _asked(model, weights, trust, device)
    asked["data"] = {"name": data, "split": "test", "n": len(images), "skip_bad": skip_bad, "resize": resize or ""}
    asked["gates"] = gate or []
    done = run(
        subject,
        images,
        ball,
        folder,
        effort=effort,
        seed=seed,
        slots=batch,
        resume=resume,
        quiet=False,
        cross_check=cross_check,
        eight_bit=eight_bit,
        asked=asked,
    )
    _say(done, as_json)
    _hold(gates, done.verdict)


def _subject(
    model: str | None,
    weights: Path | None,
    images: Images,
    data: str,
    trust: bool,
    device: str,
    seed: int,
    folder: Path,
    resume: bool,
) -> Subject:
    from faultlight.models.load import load_model

    recipe = _recipe(model, weights)
    if recipe is not None:
        model = str(_train(recipe, data, seed, folder, resume, device))
    return load_model(
        model or "",
        weights=weights,
        classes=len(images.classes),
        shape=images.shape,
        trust=trust,
        device=device,
        seed=seed,
    )


def _recipe(model: str | None, weights: Path | None) -> str | None:
    """Return the recipe that trains the asked net, where it comes without weights."""
    if weights is not None or (model is not None and not model.startswith("zoo:")):
        if model is None:
            raise InputError("--weights needs a MODEL to put them into, such as zoo:mnist-cnn.")
        return None

    from faultlight.models import zoo

    name = "digits-cnn" if model is None else model.removeprefix("zoo:")
    recipe = zoo.recipe(name)
    if not recipe:
        raise InputError(f"the network {name!r} comes without weights and without a recipe; give --weights.")
    return recipe


def _train(recipe: str, data: str, seed: int, folder: Path, resume: bool, device: str) -> Path:
    """Train the net inside the run's folder, unless a finished one is there, and return its folder."""
    from faultlight.train.recipe import load_recipe
    from faultlight.train.run import train

    place = folder / "model"
    if (folder / "ledger.sqlite").exists() and not resume:
        raise InputError(f"{folder} holds a run already; continue it with --resume or choose another --out.")
    if not (resume and (place / "stamp.json").exists()):
        train(load_recipe(recipe, {"data": data, "seed": seed}), out=place, resume=resume, device=device)
    return place


def _next_folder(data: str) -> Path:
    name = Path(data).stem or "data"
    number = 1
    while (folder := Path("runs") / f"audit-{name}-{number:03d}").exists():
        number += 1
    return folder


def _asked(model: str | None, weights: Path | None, trust: bool, device: str) -> dict[str, Any]:
    chosen = {"spec": model or "zoo:digits-cnn", "trust": trust, "device": device}
    return {"model": {**chosen, "weights": str(weights or "")}}


def _say(run: Run, as_json: bool) -> None:
    from faultlight.files import read_json

    record = read_json(run.folder / "verdict.json")
    if as_json:
        typer.echo(json.dumps({**record, "folder": str(run.folder)}))
        return
    verdict, cost = run.verdict, record["cost"]
    lines = [f"{verdict.status.upper()}  {verdict.sentence}", "", f"  clean     {_share(verdict.clean)}"]
    if verdict.attacked is not None:
        lines.append(f"  attacked  {_share(verdict.attacked)}")
    if verdict.certified is not None:
        lines.append(f"  certified {_share(verdict.certified)}")
    lines += [f"  {finding.severity}: {finding.check}: {finding.evidence}" for finding in verdict.findings]
    passes = f"{cost['forward']:,} forward and {cost['backward']:,} backward passes in {cost['seconds']:.1f} s"
    typer.echo("\n".join([*lines, "", f"  {passes}", f"  report    {run.folder / 'report.html'}"]))


def _share(share: Share) -> str:
    low, high = 100 * share.low, 100 * share.high
    return f"{100 * share.value:6.2f} %   95 % interval {low:.2f} to {high:.2f} %   ({share.count:,} images)"


def _hold(gates: list[Any], verdict: Verdict) -> None:
    if gates and verdict.status == "withheld":
        raise Withheld(f"the gate cannot be judged: {verdict.sentence}")
    failed = [text for gate in gates if (text := gate.failure(verdict))]
    if failed:
        raise GateFailed("; ".join(failed))
