"""Lists, fetches, checks and describes data sets, and lays them out as class folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from faultlight.cli._print import print_json, print_text

if TYPE_CHECKING:
    from faultlight.data.describe import Description, SplitFacts

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

_Name = Annotated[str, typer.Argument(metavar="DATA", help="digits, mnist, cifar10, or a path.")]
_Folder = Annotated[
    Path | None,
    typer.Option(help="Where copies are looked for and downloads kept, instead of FAULTLIGHT_DATA and the cache."),
]
_SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out pictures that cannot be read, and count them.")]
_Resize = Annotated[str | None, typer.Option(metavar="HxW", help="Bring the pictures of a class folder to one size.")]
_Seed = Annotated[int, typer.Option(min=0, help="The seed that divides a training file into train and validation.")]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command("list")
def list_(folder: _Folder = None, json: _Json = False) -> None:
    """List the named data sets, and where they are.

    Copies are looked for under FAULTLIGHT_DATA, then in the user's cache.
    """
    from faultlight.data.load import sources
    from faultlight.data.places import find_copy

    rows: list[dict[str, Any]] = []
    for source in sources().values():
        if source.published is None:
            continue
        copy = find_copy(source, folder)
        embedded = not source.published.downloads
        where = "in scikit-learn" if embedded else str(copy) if copy else None
        row = {"name": source.published.name, "images": source.published.images, "where": where}
        rows.append({**row, "bytes": _size(copy) if copy else None})
    if json:
        print_json({"sets": rows})
        return
    for each in rows:
        where = each["where"] or f"not here; `faultlight data fetch {each['name']}`"
        size = f" ({each['bytes'] / 2**20:.1f} MiB)" if each["bytes"] else ""
        print_text(f"{each['name']:<10} {each['images']:>7,} images   {where}{size}")


@app.command()
def fetch(name: _Name, folder: _Folder = None) -> None:
    """Download a data set from its publisher.

    Nothing is downloaded when there is a copy already. Checksums are compared before a file is kept.
    """
    from faultlight.data.load import find_source
    from faultlight.data.places import fetch_copy
    from faultlight.errors import InputError

    source = find_source(name)
    if source.published is None or source.published.name != name:
        raise InputError(f"{name!r} is a path; only a set with a name can be fetched.")
    if not source.published.downloads:
        print_text(f"{name} comes with Faultlight; there is nothing to fetch.")
        return
    print_text(str(fetch_copy(source, source.published, folder)))


@app.command()
def check(
    name: _Name, folder: _Folder = None, skip_bad: _SkipBad = False, resize: _Resize = None, json: _Json = False
) -> None:
    """Read a data set through and check it.

    Counts, checksums and channel statistics are compared with the published ones.
    """
    from faultlight.data.check import check as check_data

    found = check_data(name, folder=folder, skip_bad=skip_bad, resize=_parsed(resize))
    if json:
        print_json({"name": name, "ok": True, "found": found})
        return
    for line in found:
        print_text(f"ok  {line}")


@app.command()
def describe(
    name: _Name,
    folder: _Folder = None,
    skip_bad: _SkipBad = False,
    resize: _Resize = None,
    split_seed: _Seed = 0,
    json: _Json = False,
) -> None:
    """Say what each split of a data set holds.

    Counts by class, pixel statistics, fingerprints, and the hash of which image is in which split.
    """
    from dataclasses import asdict

    from faultlight.data.describe import describe as describe_data

    options: dict[str, Any] = {"folder": folder, "skip_bad": skip_bad, "resize": _parsed(resize)}
    found = describe_data(name, split_seed=split_seed, **options)
    if json:
        print_json(asdict(found))
        return
    _print_description(found)


@app.command()
def export(
    name: _Name,
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="The folder to make.")],
    n: Annotated[int | None, typer.Option("--n", help="Write only the first N images of each split.")] = None,
    folder: _Folder = None,
    skip_bad: _SkipBad = False,
    resize: _Resize = None,
    split_seed: _Seed = 0,
) -> None:
    """Lay a data set out as class folders of PNGs.

    Makes DEST/SPLIT/CLASS/ID.png; DEST appears when it is complete and is never written over.
    """
    from faultlight.data.export import export as export_data

    options: dict[str, Any] = {"folder": folder, "skip_bad": skip_bad, "resize": _parsed(resize)}
    done = export_data(name, destination, n=n, split_seed=split_seed, **options)
    print_text(
        f"{done.images:,} images in {destination}; rounding to 8 bits changed no pixel by more than {done.rounding:.2g}"
    )


def _parsed(resize: str | None) -> tuple[int, int] | None:
    from faultlight.data.source import parse_size

    return parse_size(resize) if resize else None


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def _print_description(found: Description) -> None:
    print_text(f"{found.name}: {len(found.classes)} classes, split seed {found.split_seed}")
    print_text(f"split hash {found.split_hash}")
    for facts in found.splits:
        _print_split(facts)
    width = max(5, *(len(name) for name in found.classes))
    print_text(" ".join([f"\n{'class':<{width}}", *(f"{facts.split:>10}" for facts in found.splits)]))
    for label, name in enumerate(found.classes):
        print_text(" ".join([f"{name:<{width}}", *(f"{facts.histogram[label]:>10,}" for facts in found.splits)]))


def _print_split(facts: SplitFacts) -> None:
    shape = "×".join(str(side) for side in facts.shape)
    mean, std = (" ".join(f"{value:.4f}" for value in values) for values in (facts.mean, facts.std))
    print_text(f"\n{facts.split}: {facts.n:,} images of {shape}")
    print_text(f"  pixels {facts.low:.4g} to {facts.high:.4g}, mean {mean}, deviation {std}")
    print_text(f"  fingerprint {facts.fingerprint}")
    for note in facts.notes:
        print_text(f"  note: {note}")
