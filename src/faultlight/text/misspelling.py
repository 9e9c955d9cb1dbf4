"""Models beside each other: what misspelling costs them, and how long they are put off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faultlight.errors import InputError
from faultlight.progress import Progress
from faultlight.text.attack import TextAttack, attack
from faultlight.text.edits import KINDS
from faultlight.text.model import CharModel
from faultlight.text.recovery import WINDOW, Recovery, line_starts, recoveries
from faultlight.text.writing import PRIMES, readable
from faultlight.views._chart import Chart, Curve, ends_of
from faultlight.views._result import ViewResult

_CONTEXT = 100
# How the edits are chosen: by the gradient, the worst of as many random ones, one random one.
_PLURAL = {"flip": "flips", "swap": "swaps", "delete": "deletions", "insert": "insertions"}
_WAYS = ("guided", "best random", "one random")


def misspell(
    models: Mapping[str, CharModel],
    text: str,
    edits: int = 10,
    candidates: int = 16,
    passages: int = 64,
    length: int = 100,
    seed: int = 0,
    primes: Sequence[str] = PRIMES,
    quiet: bool = False,
) -> ViewResult:
    """Return the losses of models against the number of edits, and how long primes put them off.

    Args:
        models: by name; all of them read the same passages.
        text: held out of the training of all; characters that a model does not know are refused.
        edits: of each passage.
        candidates: edits tried at each turn, where they are guided and where the best random one is kept.
        passages: of the text, that start behind line ends; fewer where it has not so many.
        length: characters of each, at least 10.
        seed: of the random edits.
        primes: none of them empty.
        quiet: show no progress.
    """
    if length < WINDOW:
        raise InputError(
            f"passages of {length} characters are too short to see a model recover; give {WINDOW} at least."
        )
    if len(text) < _CONTEXT + length + 2:
        raise InputError(f"a text of {len(text):,} characters is too short; give {_CONTEXT + length + 2:,} at least.")
    for model in models.values():
        for prime in primes:
            readable(model, prime)
    curves: dict[str, NDArray[Any]] = {}
    recovered: dict[str, list[Recovery]] = {}
    with Progress("misspell", len(models) * (len(KINDS) * len(_WAYS) + 1), quiet) as progress:
        done = 0
        for name, model in models.items():
            numbers = model.alphabet.encode(text)
            used = numbers.unique()  # type: ignore[no-untyped-call]
            starts = line_starts(numbers, model, _CONTEXT, length, passages)
            clean = numbers[starts[:, None] + torch.arange(length + 1)]
            for kind in KINDS:
                for way in _WAYS:
                    spec = TextAttack(kind, edits, 1 if way == "one random" else candidates, way == "guided")
                    losses = attack(model, clean, spec, used, seed).losses
                    curves[f"{name}/{kind}/{way}"] = losses.double().mean(0).numpy()
                    done += 1
                    progress.update(done)
            recovered[name] = recoveries(model, numbers, primes, used, passages=passages, length=length)
            done += 1
            progress.update(done)
    return _result(curves, recovered, edits, candidates, len(starts), length)


def _result(
    curves: dict[str, NDArray[Any]],
    recovered: dict[str, list[Recovery]],
    edits: int,
    candidates: int,
    passages: int,
    length: int,
) -> ViewResult:
    excess = {f"{name}/excess/{each.prime}": each.curve_prime for name, rows in recovered.items() for each in rows}
    flips = {f"{name}/flip excess/{each.prime}": each.curve_flip for name, rows in recovered.items() for each in rows}
    words = [
        f"{passages} passages of {length} characters of held-out text; mean loss in nats a character, measured against "
        f"the clean text; guided and best random edits are the worst of {candidates} tried at each turn.",
        *_edit_table(curves, edits),
        "",
        "Characters until passages are read as if the prime had not been there, and as if its worst flip had not "
        "(mean excess of ten neighbours within 0.05 nats); in brackets the excess over the first ten, in nats.",
        *_recovery_table(recovered),
    ]
    return ViewResult(
        "misspelling",
        {**curves, **{name: _array(values) for name, values in (excess | flips).items()}},
        "\n".join(words),
        tuple(_charts(curves, edits)),
        columns=len(KINDS),
        side=2.6,
        facts={
            "edits": edits,
            "candidates": candidates,
            "passages": passages,
            "length": length,
            "losses": {name: [round(float(each), 4) for each in values] for name, values in curves.items()},
            "recovery": {name: [_plain(each) for each in rows] for name, rows in recovered.items()},
        },
    )


def _edit_table(curves: dict[str, NDArray[Any]], edits: int) -> list[str]:
    turns = sorted({0, min(1, edits), edits // 2, edits})
    names = {name: ", ".join(name.rsplit("/", 2)) for name in curves}
    width = max(map(len, names.values())) + 2
    head = f"{'model, edit, choice':<{width}}" + "".join(f"{f'{turn} edits':>10}" for turn in turns)
    rows = [
        f"{names[name]:<{width}}" + "".join(f"{values[turn]:>10.3f}" for turn in turns)
        for name, values in curves.items()
    ]
    return [head, *rows]


def _recovery_table(recovered: dict[str, list[Recovery]]) -> list[str]:
    lines = []
    for name, rows in recovered.items():
        lines.append(f"{name:<28}{'after the prime':>18}{'after its worst flip':>24}  the flip")
        lines += [
            f"  {each.prime!r:<26}{_said(each.after_prime, each.excess_prime):>18}"
            f"{_said(each.after_flip, each.excess_flip):>24}  {each.flipped!r}"
            for each in rows
        ]
    return lines


def _said(place: int | None, excess: float) -> str:
    return f"{'never' if place is None else place} ({excess:+.2f})"


def _charts(curves: dict[str, NDArray[Any]], edits: int) -> list[Chart]:
    low, high = ends_of(*curves.values())
    names = dict.fromkeys(name.rsplit("/", 2)[0] for name in curves)
    return [
        Chart(
            f"{name}: {_PLURAL[kind]}, nats against edits",
            np.arange(edits + 1),
            tuple(Curve(way, curves[f"{name}/{kind}/{way}"]) for way in _WAYS),
            low,
            high,
        )
        for name in names
        for kind in KINDS
    ]


def _plain(each: Recovery) -> dict[str, Any]:
    return {key: value for key, value in asdict(each).items() if not isinstance(value, Tensor)}


def _array(values: Tensor) -> NDArray[Any]:
    return values.numpy()
