"""Writes the pages of docs/ that are made from the source itself: `python scripts/docs.py [FOLDER]`."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from faultlight import rng
from faultlight.attacks._contract import Problem, norms
from faultlight.catalogue import Entry, catalogue
from faultlight.evaluation.oracle import RecordingOracle
from faultlight.files import write_text
from faultlight.threat import NORMS, Threat, parse_threat

DOCS = Path(__file__).parents[1] / "docs"

HEAD = """\
# Attacks

<!-- Made by `make docs` from the attacks' own source: change it there. -->

An attack proposes points in a ball around each image. What broke is for the judge to say: in float32, by the untouched
model, on the pixels as they are stored. Each of these runs alone with

    faultlight attack MODEL --attack pgd --set steps=100 --set loss=margin --threat linf:8/255 --data cifar10

or, from Python,

```python
result = fl.attack(subject, images, fl.attacks.PGD(steps=100, loss="margin"), threat="linf:8/255")
```

`faultlight audit` runs several of them, the cheap ones first. Another is [one file](adding-an-attack.md).
"""


OBJECTIVES_HEAD = """\
# Objectives

<!-- Made by `make docs` from the objectives' own source: change it there. -->

What training minimises is named by a recipe's table `[objective]`, whose other keys are the settings below:

    [objective]
    name = "trades"
    beta = 6.0
    threat = "linf:8/255"

or on the command line by `--set objective.name=trades --set objective.beta=6`. Attacks within training are the audit's
own, driven over a batch in the precision of the run, on the network in evaluation mode. A `teacher` is the folder of a
run; its fingerprint is kept in `run.toml`, and a run does not go on with another. Another objective is one file in
`src/faultlight/train/objectives/`: a frozen dataclass that is called with network, batch and context, and returns the
loss and whatever else is worth a curve.
"""


def objectives_page() -> str:
    """Return docs/objectives.md: every objective of training with its settings and its source."""
    return "\n".join([OBJECTIVES_HEAD, *map(_section, catalogue("train.objectives").values())])


def attacks_page() -> str:
    """Return docs/attacks.md: every attack of the package with its settings and its source."""
    return "\n".join([HEAD, *(_section(entry) for entry in _own_attacks())])


def choosing_page(page: str) -> str:
    """Return docs/choosing-an-attack.md with its table made anew."""
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return before + _BEGIN + "\n" + "\n".join([_COLUMNS, *map(_choice, _own_attacks())]) + "\n" + _END + after


def main(folder: Path = DOCS) -> None:
    """Write every page into a folder."""
    write_text(folder / "attacks.md", attacks_page())
    write_text(folder / "objectives.md", objectives_page())
    choosing = folder / "choosing-an-attack.md"
    write_text(choosing, choosing_page((DOCS / choosing.name).read_text(encoding="utf-8")))


def _own_attacks() -> list[Entry]:
    return [entry for entry in catalogue("attacks").values() if entry.module.startswith("faultlight.attacks.")]


_BEGIN, _END = "<!-- The table is made by `make docs`. -->", "<!-- End of the table. -->"
_COLUMNS = """\
| attack | knows | norms | seeks | each class | forward | backward | paper |
| --- | --- | --- | --- | --- | ---: | ---: | --- |"""
_SPOKEN = {"linf": "L∞", "l2": "L2", "l1": "L1", "l0": "L0"}


def _choice(entry: Entry) -> str:
    kind, passes = entry.load(), cost(entry)
    cells = [
        f"[`{entry.name}`](attacks.md#{entry.name})",
        getattr(kind, "knowledge", "gradients"),
        " ".join(_SPOKEN[norm] for norm in NORMS if norm in norms(kind)),
        "the nearest twin" if getattr(kind, "minimal", False) else "any twin in the ball",
        "`targets`" if any(field.name == "targets" for field in entry.fields) else "",
        *(f"{number:,}" for number in passes or ()),
        *(("the image decides", "0") if passes is None else ()),
        entry.source.partition(', "')[0].partition(";")[0],
    ]
    return "| " + " | ".join(cells) + " |"


def _section(entry: Entry) -> str:
    said, _, arguments = entry.doc.partition("\nArgs:\n")
    paragraphs = [" ".join(paragraph.split()) for paragraph in said.split("\n\n")]
    paragraphs = [text for text in paragraphs if text and not text.startswith("Source: ")]
    parts = [f"## {entry.name}", *paragraphs, _table(entry, _texts(arguments)), f"Source: {entry.source}"]
    return "\n\n".join(filter(None, parts)) + "\n"


def _table(entry: Entry, texts: dict[str, str]) -> str:
    rows = [f"| `{field.name}` | `{field.default}` | {_cell(texts[field.name])} |" for field in entry.fields]
    return "\n".join(["| setting | default | |", "| --- | --- | --- |", *rows]) if rows else ""


def _texts(arguments: str) -> dict[str, str]:
    """Return what the section "Args:" says of each name; lines that are indented further go on with the one before."""
    block = re.split(r"\n(?=\S)|\n\s*\n", arguments)[0]
    items = re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", block, flags=re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in items}


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


SHAPE, CLASSES = (3, 16, 16), 10
THREATS = {"linf": "linf:8/255", "l2": "l2:0.5", "l1": "l1:3", "l0": "l0:1"}
# A longer run is counted on so many of its steps; more than the second number end by themselves, sooner or later.
COUNTED, ENDLESS = 120, 10**6


def cost(entry: Entry) -> tuple[int, int] | None:
    """Return forward and backward passes of one run at the defaults, on a linear model that nothing can break.

    None where the image decides how long the run is.
    """
    attack = entry.load()()
    if attack.steps > ENDLESS:
        return None
    problem = _problem(parse_threat(THREATS[norms(entry.load())[0]]))
    state = attack.start(problem)
    spent = [_asked(problem)]
    for step in range(1, min(attack.steps, COUNTED) + 1):
        state = attack.step(replace(problem, step=torch.tensor([step])), state)
        spent.append(_asked(problem))
    spent += [spent[-1]] * (attack.steps + 1 - len(spent))
    return sum(forward for forward, _ in spent), sum(backward for _, backward in spent)


def _problem(threat: Threat) -> Problem:
    generator = torch.Generator().manual_seed(0)
    weights = 1e-3 * torch.randn(CLASSES, 3 * 16 * 16, generator=generator)
    ahead = torch.zeros(CLASSES)
    ahead[0] = 1e3

    def model(x: Tensor) -> Tensor:
        return x.flatten(1) @ weights.T + ahead

    zero, none = torch.zeros(1, dtype=torch.int64), torch.full((1,), -1)
    return Problem(
        x=torch.rand(1, *SHAPE, generator=generator),
        y=zero,
        target=none,
        ids=zero,
        restart=zero,
        step=zero,
        threat=threat,
        key=rng.key(0, "costs"),
        oracle=RecordingOracle(model, 1),
    )


def _asked(problem: Problem) -> tuple[int, int]:
    assert isinstance(problem.oracle, RecordingOracle)
    asked = problem.oracle.forget()
    return sum(len(q.x) for q in asked), sum(len(q.x) for q in asked if q.backward)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
