"""A denoiser in front of a classifier, as one module that can be audited, so that attacks see through both."""

from __future__ import annotations

import shutil
from pathlib import Path

from torch import Tensor, nn

from faultlight import files
from faultlight.autoencoder.saved import facts_of, load_autoencoder
from faultlight.errors import InputError
from faultlight.models import zoo
from faultlight.models.saved import RECORD, WEIGHTS, read_saved, save_model
from faultlight.models.weights import load_weights

DENOISER, CLASSIFIER, FACTORY = "denoiser", "classifier", "model.py"
_SOURCE = '''\
"""A denoiser in front of a classifier: faultlight audit {place}:denoised --trust."""

from pathlib import Path

from faultlight.autoencoder import load_denoised


def denoised():
    """Return both as one module."""
    return load_denoised(Path(__file__).parent)
'''


class Denoised(nn.Module):
    """A denoiser in front of a classifier: f(g(x)).

    Both are differentiable, so an attack's gradient goes through both, as an attacker's who knows of the denoiser
    would. Where the denoiser's last clipping or sigmoid is flat, an audit's adaptive attacks borrow a gradient.

    Args:
        denoiser: pixels to pixels.
        classifier: pixels to logits.
    """

    def __init__(self, denoiser: nn.Module, classifier: nn.Module):
        super().__init__()
        self.denoiser = denoiser
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        """Map pixels to logits."""
        logits: Tensor = self.classifier(self.denoiser(x))
        return logits


def save_denoised(out: Path, run: Path, classifier: str, weights: Path | None = None) -> Path:
    """Write a folder that holds a denoiser, a classifier, and the factory that puts one before the other.

    Args:
        out: where to; `faultlight audit OUT/model.py:denoised --trust` audits both as one.
        run: a folder that training a denoiser wrote; it is copied.
        classifier: a folder that `faultlight train` wrote, or zoo:NAME.
        weights: the weights of a zoo classifier.

    Returns:
        The path of the factory's file.

    Raises:
        InputError: the folder is taken, either is no such thing, or their images differ in shape.
    """
    if (out / FACTORY).exists() or (out / DENOISER).exists():
        raise InputError(f"the folder {out} already holds a denoiser and a classifier; choose another with --out.")
    shape = tuple(facts_of(run)["blueprint"]["shape"])
    name, family, module = _classifier(classifier, weights, shape)
    load_autoencoder(run)
    if tuple(family.shape) != shape:
        raise InputError(f"the denoiser is for images of {shape} and the classifier for {family.shape}; choose others.")
    for part in (DENOISER, CLASSIFIER):
        (out / part).mkdir(parents=True, exist_ok=True)
    for file in (RECORD, WEIGHTS):
        shutil.copyfile(run / file, out / DENOISER / file)
    save_model(out / CLASSIFIER, name, family, module)
    files.write_text(out / FACTORY, _SOURCE.format(place=out / FACTORY))
    return out / FACTORY


def load_denoised(folder: Path | str) -> Denoised:
    """Return the denoiser and the classifier of a folder that `save_denoised` wrote, in evaluation mode.

    Raises:
        InputError: the folder lacks one of them, or its files do not belong together.
    """
    folder = Path(folder)
    _, _, classifier = read_saved(folder / CLASSIFIER)
    return Denoised(load_autoencoder(folder / DENOISER), classifier.eval()).eval()


def _classifier(spec: str, weights: Path | None, shape: tuple[int, int, int]) -> tuple[str, zoo.Family, nn.Module]:
    """Return name, settings and network of a trained classifier."""
    if Path(spec).is_dir():
        return read_saved(Path(spec))
    if not spec.startswith("zoo:") or weights is None:
        raise InputError(
            f"the classifier {spec!r} cannot be kept; give a folder made by `faultlight train`, "
            f"or zoo:NAME with --weights."
        )
    name = spec.removeprefix("zoo:")
    family = zoo.family(name, shape=shape)
    module = zoo.build_family(family)
    load_weights(module, weights)
    return name, family, module
