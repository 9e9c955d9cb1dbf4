"""The documentation of models says what happens, and the example is the network it names."""

from __future__ import annotations

import doctest
from pathlib import Path

import torch

from faultlight.models.load import load_model

ROOT = Path(__file__).parents[1]


def test_every_example_of_the_page_gives_what_it_shows() -> None:
    results = doctest.testfile(str(ROOT / "docs" / "models.md"), module_relative=False)
    assert results.attempted > 10
    assert results.failed == 0


def test_the_example_of_wong_and_kolter_has_the_published_names_and_shapes() -> None:
    subject = load_model(f"{ROOT / 'examples' / 'wong_kolter.py'}:mnist_eps01", trust=True)
    shapes = {name: tuple(value.shape) for name, value in subject.module.state_dict().items()}
    assert shapes == {
        "0.weight": (16, 1, 4, 4),
        "0.bias": (16,),
        "2.weight": (32, 16, 4, 4),
        "2.bias": (32,),
        "5.weight": (100, 1568),
        "5.bias": (100,),
        "7.weight": (10, 100),
        "7.bias": (10,),
    }
    assert subject(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert subject.notes == ()
