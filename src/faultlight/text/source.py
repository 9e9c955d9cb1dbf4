"""Which text a trained model is shown: what its own run held out, or another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor

from faultlight.data.text import load_text
from faultlight.errors import InputError
from faultlight.text.corpus import Corpus, load_corpus
from faultlight.text.model import CharModel
from faultlight.text.recipe import parse_text_recipe
from faultlight.train.folder import ASKED, read_asked


def corpus_of(run: Path, otherwise: str = "put it back, or train again") -> Corpus:
    """Return the divided text that a run was trained on.

    Args:
        run: the folder of a text model's run.
        otherwise: what to do where its text has changed.

    Raises:
        InputError: the folder does not say, or the text is not the same any more.
    """
    asked = read_asked(run)
    if asked is None or asked.get("recipe", {}).get("kind") != "text":
        raise InputError(f"{run} holds no run of a text model; give a folder that `faultlight text train` wrote.")
    recipe = parse_text_recipe(asked["recipe"], str(run / ASKED))
    found = load_corpus(recipe.data, recipe.alphabet, recipe.held_out)
    if found.fingerprint != asked["data"]["text"]:
        raise InputError(f"the text {recipe.data!r} is not the one that {run} was trained on; {otherwise}.")
    return found


def held_out_by_all(runs: Sequence[Path]) -> Corpus:
    """Return the text of the runs, divided as the one that held out least: each holds out the end, so none learnt it.

    Args:
        runs: one folder at least.

    Raises:
        InputError: they learnt from different texts, or a folder does not say from which.
    """
    texts = [corpus_of(run) for run in runs]
    for run, each in zip(runs, texts, strict=True):
        if each.fingerprint != texts[0].fingerprint:
            raise InputError(
                f"{run} learnt from {each.name!r} and {runs[0]} from {texts[0].name!r}, so there is no text that both "
                f"held out; compare runs that share their text."
            )
    return min(texts, key=lambda each: len(each.held_out))


def text_for(run: Path, model: CharModel, name: str | None) -> tuple[Int64[Tensor, " n"], str]:
    """Return a text as a model's numbers, and what to call it.

    Args:
        run: the model's folder.
        model: that is to read it; characters that it does not know are left out, and counted in the name.
        name: of a text; None for what the run held out.

    Raises:
        InputError: there is no such text, or the model knows none of its characters.
    """
    if name is None:
        corpus = corpus_of(run, "name one with --text")
        return corpus.held_out, f"the held-out part of {corpus.name}"
    content = load_text(name).content
    known = model.alphabet.known(content)
    if not known:
        raise InputError(f"the model knows none of the characters of {name!r}; give a text of its own language.")
    lost = len(content) - len(known)
    said = f" ({lost:,} characters left out that the model does not know)" if lost else ""
    return torch.tensor([model.alphabet.index[each] for each in known]), name + said
