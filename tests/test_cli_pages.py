"""`report` and `view` know every kind of run."""

from __future__ import annotations

from pathlib import Path

import pytest

from faultlight.autoencoder import run as autoencoder
from faultlight.autoencoder.recipe import parse_autoencoder_recipe
from faultlight.cli import main
from faultlight.gan import run as gan
from faultlight.gan.recipe import load_gan_recipe
from faultlight.text.run import train as train_text
from text_toys import recipe


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One short run of each kind that has no classifier."""
    place = tmp_path_factory.mktemp("runs")
    (place / "play.txt").write_text("to be or not to be,\nthat is the question.\n" * 100)
    train_text(recipe(data=str(place / "play.txt"), held_out=0.3), out=place / "text", quiet=True)
    short = {"data": "digits", "steps": 2, "batch": 8, "width": 4, "latent": 4, "frames": 2}
    gan.train(load_gan_recipe("mnist-mlp", short), out=place / "gan", quiet=True)
    asked = {"name": "toy", "title": "toy", "data": "digits", "steps": 2, "batch": 8}
    autoencoder.train(
        parse_autoencoder_recipe(asked | {"network": {"depth": 1, "width": 4}}), out=place / "autoencoder", quiet=True
    )
    return place


@pytest.mark.parametrize(
    ("kind", "page"), [("gan", "report.html"), ("autoencoder", "page/page.html"), ("text", "view/text.html")]
)
def test_report_writes_the_page_that_is_due(
    runs: Path, kind: str, page: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(runs / kind)]) == 0
    written = Path(capsys.readouterr().out.strip().splitlines()[-1])
    assert written == (runs / kind / page).resolve()
    assert written.read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("kind", "verb"), [("text", "text view"), ("gan", "gan page"), ("autoencoder", "autoencoder page")]
)
def test_view_names_the_verb_of_a_network_that_is_no_classifier(
    runs: Path, kind: str, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["view", str(runs / kind), "--view", "layers"]) == 2
    assert f"holds no classifier; look into it with `faultlight {verb} " in capsys.readouterr().err


def test_two_runs_that_are_no_classifiers_are_not_drawn_together(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(runs / "gan"), "--beside", str(runs / "text")]) == 2
    assert "is not that of a classifier" in capsys.readouterr().err
