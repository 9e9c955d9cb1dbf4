"""A trained generator as a folder: model.json says how to build it, model.safetensors holds the weights."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from faultlight.gan.nets import Design, Generator
from faultlight.gan.recipe import KIND
from faultlight.train.steps_run import fill_weights, read_facts, save_weights


def save_generator(folder: Path, generator: Generator) -> None:
    """Write a generator into a folder, the weights first."""
    save_weights(folder, KIND, generator, {"design": asdict(generator.design)})


def load_generator(folder: Path | str) -> Generator:
    """Return the generator of a folder that training wrote, in evaluation mode.

    Raises:
        InputError: the folder holds no generator, or its files do not belong together.
    """
    folder = Path(folder)
    design = read_facts(folder, KIND, {"design"})["design"]
    generator = Generator(Design(**design | {"shape": tuple(design["shape"])}))
    fill_weights(generator, folder)
    return generator
