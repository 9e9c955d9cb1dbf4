"""Denoisers set side by side, and the verbs of the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from autoencoder_toys import SHAPE, classifier, stripes, trained
from faultlight.autoencoder.comparison import as_text, asked_noises, compare_networks, file_names, usual_noises
from faultlight.cli import main
from faultlight.errors import InputError
from faultlight.models.subject import Subject
from toys import linear


def test_networks_are_set_side_by_side_with_pictures_and_a_record(tmp_path: Path) -> None:
    net = trained(tmp_path / "run", steps=2).net()
    subject = Subject(linear(2, shape=SHAPE), 2, "linear")
    noises = usual_noises(tmp_path / "run", aimed=True)
    assert noises == [
        *(("gaussian", 0.15), ("gaussian", 0.3), ("occlusion", 0.2), ("occlusion", 0.4)),
        *(("adversarial", 4 / 255), ("adversarial", 8 / 255)),
    ]
    assert ("adversarial", 8 / 255) not in usual_noises(tmp_path / "run", aimed=False)
    found = compare_networks({"one": net, "two": net}, stripes(6), noises[:2], subject)
    text = as_text(found)
    assert "one, 6 images" in text
    assert "On clean images the network costs" in text
    paths = found.save(tmp_path / "out")
    saved = json.loads(paths[0].read_text())
    assert saved["networks"]["one"] == saved["networks"]["two"]
    assert len(saved["networks"]["one"]["rows"]) == 3
    with np.load(tmp_path / "out" / "before-after-one.npz") as arrays:
        assert arrays["gaussian-0.15/given"].shape == (4, *SHAPE)


def test_runs_of_one_name_are_told_apart_by_their_paths(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for place, seed in (("a/x", 0), ("b/x", 1)):
        trained(Path(place), data="digits", seed=seed, steps=2)
    words = ["autoencoder", "compare", "a/x", "b/x", "--noise", "occlusion:0.3", "--n", "5", "--out", "out"]
    assert main([*words, "--json"]) == 0
    networks = json.loads(capsys.readouterr().out)["networks"]
    assert list(networks) == ["a/x", "b/x"]
    assert networks["a/x"] != networks["b/x"]
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"before-after-a-x.png", "before-after-b-x.png"}
    assert main(["autoencoder", "compare", "a/x", "./a/x"]) == 2
    assert "the run a/x is given twice" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["gaussian:0-0.6"], r"measured at one strength, and 'gaussian:0-0.6' is a range; give each strength by"),
        (["gaussian:0.5", "occlusion:0.2", "gaussian:0.50"], "the noise gaussian 0.5 is given twice"),
    ],
)
def test_noises_to_measure_are_of_one_strength_and_each_is_given_once(texts: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        asked_noises(texts)
    assert asked_noises(["gaussian:0.5", "gaussian:0.6"]) == [("gaussian", 0.5), ("gaussian", 0.6)]


def test_usual_noises_of_ranges_that_meet_are_each_measured_once(tmp_path: Path) -> None:
    ranges = [{"kind": "gaussian", "low": 0.0, "high": 0.25}, {"kind": "gaussian", "low": 0.25, "high": 0.5}]
    trained(tmp_path / "run", steps=1, tamper=ranges)
    assert usual_noises(tmp_path / "run", aimed=False) == [("gaussian", part) for part in (0.125, 0.25, 0.5)]


def test_a_classifier_that_is_none_is_told_by_every_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, study = tmp_path / "run", tmp_path / "study"
    trained(run, data="digits", steps=1)
    # A study of generators has no model.json of its own.
    study.mkdir()
    (study / "study.json").write_text("{}")
    train = [
        "train",
        "mnist-denoiser-1",
        "--data",
        "digits",
        "--noise",
        "adversarial:0.1",
        "--out",
        str(tmp_path / "o"),
    ]
    for folder, verb in ((run, "autoencoder page"), (study, "gan page")):
        for words in (train, ["compare", str(run), "--n", "4"], ["defend", str(run)]):
            assert main(["autoencoder", *words, "--classifier", str(folder)]) == 2
            told = f"{folder} holds no classifier; look into it with `faultlight {verb} {folder}`."
            assert told in capsys.readouterr().err


def test_adversarial_noise_without_a_classifier_names_the_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(tmp_path / "run", data="digits", steps=1)
    assert main(["autoencoder", "compare", str(tmp_path / "run"), "--noise", "adversarial:0.1", "--n", "4"]) == 2
    assert "none was given; name one by --classifier." in capsys.readouterr().err


def test_no_two_networks_share_a_file() -> None:
    assert file_names(["a/x", "a-x", "../b"]) == {"a/x": "a-x-1", "a-x": "a-x-2", "../b": "b-3"}


def test_the_verbs_do_it_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, small = tmp_path / "run", ["--set", "network.width=2", "--set", "network.depth=1", "--set", "batch=16"]
    noise = ["--noise", "gaussian:0.1-0.3"]
    words = ["autoencoder", "train", "mnist-denoiser-1", "--data", "digits", "--steps", "3", "--out", str(run)]
    assert main([*words, *small, *noise, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["noises"][0]["kind"] == "gaussian"
    assert main(["autoencoder", "compare", str(run), "--noise", "occlusion:0.3", "--n", "20"]) == 0
    assert "occlusion 0.3" in capsys.readouterr().out
    assert main(["autoencoder", "page", str(run), "--n", "40", "--sample", "3"]) == 0
    assert "mean squared error" in capsys.readouterr().out
    assert (run / "page" / "page.html").is_file()
    assert main(["autoencoder", "page", str(run), "--n", "1"]) == 2
    assert "greater than or equal to 2" in capsys.readouterr().err
    net = classifier(tmp_path / "net", (1, 8, 8))
    assert main(["autoencoder", "defend", str(run), "--classifier", str(net), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"].endswith("model.py:denoised")
    assert main(["autoencoder", "compare", str(run), "--noise", "fog:1"]) == 2
    assert "there is no noise named 'fog'" in capsys.readouterr().err
