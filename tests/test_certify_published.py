"""A published net with a published bound, on real images: slow, and only where both are at hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import faultlight as fl
from faultlight.certify.certificate import certify
from faultlight.models.load import load_model

EXAMPLE = Path(__file__).parents[1] / "examples" / "wong_kolter.py"
WEIGHTS = "FAULTLIGHT_WONG_KOLTER"


@pytest.fixture
def weights() -> Path:
    """The weights that Wong and Kolter published for ε = 0.1, given by FAULTLIGHT_WONG_KOLTER."""
    path = os.environ.get(WEIGHTS, "")
    if not path:
        pytest.skip(f"{WEIGHTS} is not set, so there are no weights of Wong and Kolter's net to certify")
    return Path(path)


@pytest.mark.slow
def test_the_net_of_wong_and_kolter_is_certified_as_published(weights: Path, real_data: Path) -> None:
    """Certified error at most 5.8 % on all 10,000 images; of the first 200 at least 190, and no attack breaks them."""
    subject = load_model(f"{EXAMPLE}:mnist_eps01", weights=weights, classes=10, shape=(1, 28, 28), trust=True)
    images = fl.load_data("mnist", n=200)
    found = certify(subject, images.x, images.y, "linf:0.1")
    assert int(found.certified.sum()) >= 190
    attacked = fl.attack(subject, images, fl.attacks.PGD(steps=40, restarts=2, loss="margin"), "linf:0.1")
    assert attacked.broken.any()
    assert not (attacked.broken & found.certified).any()
