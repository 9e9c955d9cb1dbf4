"""The study of collapse, its page, and the commands around them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from faultlight.cli import main
from faultlight.errors import InputError
from faultlight.gan import study
from faultlight.gan.measuring import measure
from faultlight.gan.modes import modes
from faultlight.gan.run import train
from faultlight.gan.study import CELLS, cell_recipe, run_study
from faultlight.models.subject import Subject
from faultlight.report.gan_page import render_gan, write_gan_page
from gan_toys import images, recipe
from report_reader import read_page
from test_gan_measure import Bright


def small_study(out: Path, **settings: Any) -> dict[str, Any]:
    given = {"seeds": (0, 1), "n": 20, "train": images(), "held_out": images(30, split="test"), "quiet": True}
    return run_study(recipe(), Subject(Bright(), 2), out=out, **(given | settings))


def test_each_cell_differs_from_the_one_before_it_in_one_thing() -> None:
    cells = {name: cell_recipe(recipe(), name, 3).model_dump() for name in CELLS}
    names = list(CELLS)
    differing = [
        {key for key in cells[one] if cells[one][key] != cells[other][key]} - {"name"}
        for one, other in itertools.pairwise(names)
    ]
    assert names == ["leak", "minimax", "non-saturating"]
    assert differing == [{"leak"}, {"loss"}]
    assert cells["leak"]["leak"]
    assert cells["leak"]["seed"] == 3


def test_a_study_trains_and_measures_every_cell_on_every_seed(tmp_path: Path) -> None:
    record = small_study(tmp_path)
    assert [(row["cell"], row["seed"]) for row in record["rows"]] == [(c, s) for c in CELLS for s in (0, 1)]
    assert record == json.loads((tmp_path / "study.json").read_text())
    measured = [json.loads((tmp_path / row["folder"] / "records/measure.json").read_text()) for row in record["rows"]]
    assert [row["alarm"] for row in record["rows"]] == [bool(each["findings"]) for each in measured]
    assert json.loads((tmp_path / "leak-1/records/training.json").read_text())["leak"]


def test_the_entropy_of_a_single_class_is_zero_without_a_sign() -> None:
    assert f"{modes(np.ones(5, np.int64), 3).entropy:.2f}" == "0.00"


def test_a_resumed_study_does_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = small_study(tmp_path)
    monkeypatch.setattr(study.measuring, "measure", lambda *a, **k: pytest.fail("measured again"))
    assert small_study(tmp_path, resume=True) == record
    with pytest.raises(InputError, match="already holds"):
        small_study(tmp_path)
    with pytest.raises(InputError, match="seeds that differ, not 1, 1"):
        small_study(tmp_path, seeds=(1, 1))


def test_what_a_study_cannot_do_is_said_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study.run, "train", lambda *a, **k: pytest.fail("trained"))
    with pytest.raises(InputError, match="seed should be greater than or equal to 0, not -1"):
        small_study(tmp_path, seeds=(0, -1))
    given = {"train": images(), "held_out": images(30, split="test")}
    with pytest.raises(InputError, match="cannot take images of shape"):
        run_study(recipe(), Subject(nn.Linear(7, 2), 2), out=tmp_path, **given)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("key", ["loss=hinge", "leak=true", "seed=7"])
def test_what_the_cells_set_themselves_cannot_be_set(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gan", "study", "--classifier", "zoo:mnist-cnn", "--set", key]) == 2
    assert f"the cells of the study set {key.split('=')[0]} themselves" in capsys.readouterr().err


def test_the_page_of_a_study_shows_every_run_and_asks_for_nothing(tmp_path: Path) -> None:
    record = small_study(tmp_path)
    write_gan_page(tmp_path)
    page = read_page(tmp_path / "report.html")
    assert [each.text for each in page.all("h2")][:3] == list(CELLS)
    assert len(page.all("img")) == 6
    assert all(each.attributes["src"].startswith("data:image/png;base64,") for each in page.all("img"))
    text = page.one("main").text
    for row in record["rows"]:
        for finding in row["findings"]:
            assert finding["evidence"] in text
    charts = json.loads(page.html.split('id="charts">')[1].split("</script>")[0])
    assert set(charts) == {f"{kind}-cell{i}" for kind in ("scores", "gradients", "classes") for i in range(3)}
    domains = [charts[f"gradients-cell{i}"]["encoding"]["y"]["scale"]["domain"] for i in range(3)]
    assert domains[0] == domains[1] == domains[2]
    dashes = charts["scores-cell0"]["encoding"]["strokeDash"]["scale"]
    assert dashes["domain"] == ["seed 0", "seed 1"]
    assert dashes["range"][0] != dashes["range"][1]
    across = charts["classes-cell0"]["encoding"]["x"]
    assert (across["sort"], across["axis"]["title"]) == (["a", "b"], "class")


def test_the_page_says_how_near_training_images_are_and_the_classes_of_stacks_by_number(run_folder: Path) -> None:
    train(recipe(stack=2), out=run_folder, images=images(), quiet=True)
    found = measure(run_folder, Subject(Bright(), 2), n=30, train=images(), held_out=images(30, split="test"))
    write_gan_page(run_folder)
    page = read_page(run_folder / "report.html")
    (column,) = [i for i, each in enumerate(page.all("th")) if each.text == "nearest training image"]
    distances = found["memory"]["median_distance"], found["memory"]["held_out_median_distance"]
    cells = [each.text for each in page.all("td")]
    # A row has its name in a heading, so the cells of eight columns follow it.
    assert [cells[column - 1], cells[column - 1 + 8]] == [f"{distance:.2f}" for distance in distances]
    charts = json.loads(page.html.split('id="charts">')[1].split("</script>")[0])
    assert charts["classes-run"]["encoding"]["x"]["sort"] == ["0", "1", "2", "3"]
    assert "strokeDash" not in charts["scores-run"]["encoding"], "a single run needs no key"


def test_a_run_that_was_not_measured_has_a_page_too(run_folder: Path) -> None:
    train(recipe(loss="hinge"), out=run_folder, images=images(), quiet=True)
    text = render_gan(run_folder)
    assert "The film" in text
    assert "classes-run" not in text
    with pytest.raises(InputError, match=r"holds neither study.json nor records/training.json"):
        render_gan(run_folder.parent)


def test_the_commands_sample_measure_and_write_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "run")
    small = ["--set", "width=4", "--set", "batch=16", "--set", "frames=2", "--set", "data='digits'"]
    assert main(["gan", "train", "mnist-mlp", "--steps", "2", "--out", out, *small]) == 0
    assert main(["gan", "sample", out, "--n", "4"]) == 0
    assert main(["gan", "measure", out, "--classifier", "zoo:digits-cnn", "--n", "50"]) == 0
    said = capsys.readouterr().out
    assert "classifier-FID of 50 " in said
    assert "alarm" in said
    assert main(["gan", "page", out]) == 0
    assert "rests on the first 50 images" in (tmp_path / "run/report.html").read_text()
    assert main(["gan", "study", "--classifier", "zoo:digits-cnn", "--seeds", "0;1"]) == 2
    assert "--seeds needs whole numbers" in capsys.readouterr().err


def test_samples_are_not_written_under_another_ending(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(recipe(), out=run_folder, images=images(), quiet=True)
    picture = tmp_path / "x.jpg"
    assert main(["gan", "sample", str(run_folder), "--out", str(picture)]) == 2
    assert "does not end in .png" in capsys.readouterr().err
    assert not picture.exists()
    assert main(["gan", "sample", str(run_folder), "--out", str(tmp_path / "x.PNG")]) == 0


def test_the_study_is_one_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--set", "width=4", "--set", "batch=16", "--set", "frames=2", "--set", "data='digits'"]
    out = tmp_path / "study"
    command = ["gan", "study", "--classifier", "zoo:digits-cnn", "--steps", "2", "--seeds", "5", "--n", "40"]
    assert main([*command, "--out", str(out), *small]) == 0
    said = capsys.readouterr().out
    assert "leak            seed 5" in said
    assert f"wrote {out / 'report.html'}" in said
