"""Trains networks that write, samples them, looks into them and attacks them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from faultlight.cli._print import print_json, print_text
from faultlight.cli._runs import named, say_if_stopped

if TYPE_CHECKING:
    from faultlight.text.look import Look
    from faultlight.text.model import CharModel
    from faultlight.text.run import TextResult

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

_Model = Annotated[Path, typer.Argument(metavar="RUN", help="A folder that `faultlight text train` wrote.")]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
_Seed = Annotated[int, typer.Option(min=0, help="Of every random number.")]
# Characters that `view` reads, and those of them that its page shows.
READ, SHOWN = 20_000, 1500


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A text recipe's name, or the path of a .toml file.")],
    data: Annotated[str | None, typer.Option(help="tinyshakespeare or a UTF-8 file, in place of the recipe's.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of the optimiser.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, pieces, noise and dropout.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:1.")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="The run's folder; runs/RECIPE by default.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any key of the recipe, such as optimiser.lr=0.01."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object, and no progress.")] = False,
) -> None:
    """Train a character model by a recipe.

    The held-out loss, in nats and in bits, stands in columns of its own beside the batch's.
    """
    flags = {"data": data, "steps": steps, "seed": seed}
    train_text(recipe, settings or [], flags, device=device, out=out, resume=resume, json=json)


def train_text(
    recipe: str,
    settings: list[str],
    flags: dict[str, Any],
    *,
    device: str = "cpu",
    out: Path | None = None,
    resume: bool = False,
    json: bool = False,
) -> None:
    """Train by a text recipe and print the figures; flags that are None are left to the recipe."""
    from faultlight.text.recipe import load_text_recipe
    from faultlight.train.recipe import parse_settings

    overrides = parse_settings(settings) | {key: value for key, value in flags.items() if value is not None}
    chosen = load_text_recipe(recipe, overrides)

    from faultlight.text import run
    from faultlight.text.corpus import load_corpus

    corpus = load_corpus(chosen.data, chosen.alphabet, chosen.held_out)
    if not json:
        print_text(corpus.describe())
    folder = out or Path("runs") / chosen.name
    result = run.train(chosen, out=folder, corpus=corpus, resume=resume, device=device, quiet=json)
    if json:
        from dataclasses import asdict

        print_json(asdict(result) | {"folder": str(result.folder)})
    else:
        print_text(_as_text(result))


@app.command()
def sample(
    run: _Model,
    prime: Annotated[
        list[str] | None, typer.Option(help="What is read first; may be given several times.  [default: seven primes]")
    ] = None,
    length: Annotated[int, typer.Option(min=0, help="Characters to write.")] = 200,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest character.")] = 0.8,
    top_k: Annotated[int, typer.Option("--top-k", min=0, help="Draw from the K likeliest; 0 for all.")] = 0,
    seed: _Seed = 0,
    json: _Json = False,
) -> None:
    """Let a model write on from a prime, or from each of seven.

    Characters that the model does not know are skipped, and said.
    """
    from dataclasses import asdict

    from faultlight.text.saved import load_text_model
    from faultlight.text.writing import PRIMES
    from faultlight.text.writing import sample as write

    model = load_text_model(run)
    say_if_stopped(run)
    settings: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "seed": seed}
    written = [write(model, each, length, **settings) for each in (prime if prime is not None else PRIMES)]
    if json:
        print_json({"schema": 1, **settings, "samples": [asdict(each) for each in written]})
        return
    for each in written:
        skipped = f" (skipped, being unknown to the model: {each.skipped!r})" if each.skipped else ""
        print_text(f"── {each.prime!r}{skipped}\n{each.read}{each.text}\n")


@app.command()
def view(
    run: _Model,
    text: Annotated[
        str | None, typer.Option(help="tinyshakespeare or a UTF-8 file.  [default: what the run held out]")
    ] = None,
    read: Annotated[int, typer.Option(min=250, help="Characters to read, for cells and gates.")] = READ,
    shown: Annotated[int, typer.Option(min=2, help="Characters to show on the page.")] = SHOWN,
    seed: _Seed = 0,
    out: Annotated[Path | None, typer.Option(help="Where page and arrays go.  [default: RUN/view]")] = None,
    json: _Json = False,
) -> None:
    """Write a page that shows what each cell does with a text.

    The text is coloured by any cell; the cells that keep track of something are found and listed.
    """
    from faultlight.text.look import record as as_record

    page, found, source, model = write_view(run, text, read=read, shown=shown, seed=seed, out=out)
    if json:
        cells = as_record(found, model, run.name, source)["cells"]
        print_json({"schema": 1, "page": str(page), "source": source, "read": found.read, "cells": cells})
        return
    print_text(_cells_as_text(found, source))
    print_text(f"wrote {page}")


def write_view(
    run: Path,
    text: str | None = None,
    *,
    read: int = READ,
    shown: int = SHOWN,
    seed: int = 0,
    out: Path | None = None,
) -> tuple[Path, Look, str, CharModel]:
    """Write what `text view` writes; return the page, what was seen, what was read, and the model."""
    from faultlight.report.text_page import write_text_page
    from faultlight.text.look import look, save_look
    from faultlight.text.saved import load_text_model
    from faultlight.text.source import text_for

    model = load_text_model(run)
    say_if_stopped(run)
    numbers, source = text_for(run, model, text)
    # The page stays below 3 MB, whatever the number of cells.
    room = max(2_000_000 // (model.shape.layers * model.shape.hidden), 100)
    found = look(model, numbers[:read], min(shown, room), seed)
    folder = out or run / "view"
    save_look(found, model, folder, run.name, source)
    return write_text_page(folder), found, source, model


@app.command()
def attack(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="One or more folders, compared on the same text.")],
    edits: Annotated[int, typer.Option(min=0, help="Edits of each passage, one after the other.")] = 10,
    candidates: Annotated[int, typer.Option(min=1, help="Edits tried at each turn.")] = 16,
    passages: Annotated[int, typer.Option(min=1, help="Passages of the held-out text.")] = 64,
    length: Annotated[int, typer.Option(min=10, help="Characters of each.")] = 100,
    prime: Annotated[
        list[str] | None, typer.Option(help="For the recovery; may be given several times.  [default: seven primes]")
    ] = None,
    seed: _Seed = 0,
    out: Annotated[Path | None, typer.Option(help="Where numbers and figures go.  [default: attacks/text]")] = None,
    json: _Json = False,
) -> None:
    """Misspell text that every run held out, and see how long models are put off.

    Flips, swaps, deletions and insertions chosen by the gradient stand beside random ones; then, for each of seven
    primes, how many characters later a model reads on as if it had not been there.
    """
    from faultlight.text.misspelling import misspell
    from faultlight.text.saved import load_text_model
    from faultlight.text.source import held_out_by_all
    from faultlight.text.writing import PRIMES

    corpus = held_out_by_all(runs)
    text = corpus.alphabet.decode(corpus.held_out)
    models = {name: load_text_model(run) for name, run in named(runs).items()}
    say_if_stopped(*runs)
    primes = PRIMES if prime is None else prime
    found = misspell(models, text, edits, candidates, passages, length, seed, primes, quiet=json)
    paths = found.save(out or Path("attacks") / "text")
    if json:
        files = [str(path) for path in paths]
        print_json({"schema": 1, "held_out_by_all": len(text), "facts": found.facts, "files": files})
        return
    source = f"from the last {len(text):,} characters of {corpus.name}, which no run learnt from"
    print_text("\n".join([source, found.text(), *(f"wrote {path}" for path in paths)]))


@app.command()
def copied(
    run: _Model,
    length: Annotated[int, typer.Option(min=100, help="Characters to write and look up.")] = 10_000,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest character.")] = 0.8,
    prime: Annotated[str, typer.Option(help="What is read first.")] = "\n",
    seed: _Seed = 0,
    json: _Json = False,
) -> None:
    """Say how much of what a model writes it has copied from the text it learnt from.

    The held-out text is measured in the same way, for people repeat themselves too.
    """
    from dataclasses import asdict

    from faultlight.text.copied import memorised
    from faultlight.text.saved import load_text_model
    from faultlight.text.source import corpus_of
    from faultlight.text.writing import sample as write

    model, corpus = load_text_model(run), corpus_of(run)
    say_if_stopped(run)
    written = write(model, prime, length, temperature=temperature, seed=seed).text
    learnt, held_out = corpus.alphabet.decode(corpus.train), corpus.alphabet.decode(corpus.held_out)
    found = memorised(written, learnt, held_out)
    if json:
        print_json({"schema": 1, "temperature": temperature, "seed": seed, **asdict(found)})
        return
    rows = [f"  {n:>3}-grams  {found.shares[n]:>8.2%}  {_share(found.expected.get(n))}" for n in found.shares]
    longest = found.longest
    print_text(
        "\n".join(
            [
                f"{found.characters:,} characters written, {min(found.characters, len(held_out)):,} held out; share "
                f"that stands in the text learnt from",
                "             written  held out",
                *rows,
                f"longest run  {len(longest.text):>8}  {found.expected_longest:>8} characters",
                f"it is {longest.text!r}, at character {longest.source:,} of the text",
            ]
        )
    )


def _share(value: float | None) -> str:
    return f"{'–':>8}" if value is None else f"{value:>8.2%}"


def _cells_as_text(found: Look, source: str) -> str:
    search = found.search
    rows = [
        f"  {each.feature:<30} layer {each.layer + 1}, cell {each.cell:<4} r {each.found:+.3f}, on the other half "
        f"{each.confirmed:+.3f}{'' if each.significant else '  (no more than chance)'}"
        for each in search.findings
    ]
    head = (
        f"{found.read:,} characters of {source}; over {search.tests:,} pairs of cell and feature, chance passes "
        f"|r| = {search.bound:.3f} in one search of twenty"
    )
    absent = [f"too rare in this text, or all over it: {', '.join(search.absent)}"] if search.absent else []
    return "\n".join([head, *rows, *absent])


def _as_text(result: TextResult) -> str:
    target = result.target
    due = f"{target['metric'].replace('_', ' ')} at most {target['at_most']:g}" if target else "none set"
    verdict = f": {'met' if result.met else 'NOT met'}" if target else ""
    lines = [
        f"parameters      {result.parameters:,}",
        f"training batch  {result.batch_loss:.4f} nats a character, the last batch; lowest recorded "
        f"{result.best_batch_loss:.4f}; mean of the last steps {result.train_loss:.4f}",
        f"held out        {result.held_out_loss:.4f} nats a character = {result.held_out_bits:.4f} bits "
        f"({result.held_out_count:,} characters)",
        f"target          {due}{verdict}",
        f"training        {result.seconds:.0f} s, {result.characters_per_second:,.0f} characters a second",
        f"written to      {result.folder}",
        f"next            faultlight text sample {result.folder}",
    ]
    return "\n".join(lines)
