"""The page, the sentences on it, the tables of `compare`, and a denoiser in front of a classifier."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import faultlight as fl
from autoencoder_toys import SHAPE, recipe, splits, stripes, trained
from faultlight.autoencoder.comparison import as_text, asked_noises, compare_networks, file_names, usual_noises
from faultlight.autoencoder.defence import Denoised, load_denoised, save_denoised
from faultlight.autoencoder.page import write_page
from faultlight.autoencoder.sentences import sentences
from faultlight.cli import main
from faultlight.errors import InputError
from faultlight.models import zoo
from faultlight.models.load import load_model
from faultlight.models.saved import save_model
from faultlight.models.subject import Subject
from report_reader import read_page
from toys import linear

RGB = (3, 8, 8)


def classifier(folder: Path, shape: tuple[int, int, int] = SHAPE) -> Path:
    """A folder with an untrained classifier of stripes."""
    folder.mkdir()
    family = zoo.family("mlp", classes=2, shape=shape)
    save_model(folder, "mlp", family, zoo.build_family(family))
    return folder


def record() -> dict[str, Any]:
    """What is measured of a network, small and made up."""
    shares = {"brightness": 0.1, "edge": 0.7, "pattern": 0.2, "colour": 0.0}
    red = {"brightness": 0.3, "edge": 0.0, "pattern": 0.0, "colour": 0.7}
    kernels = [
        {"index": 0, "shares": shares, "angle": 90.0, "energy": 1.0, "kind": "edge"},
        {"index": 1, "shares": red, "angle": 0.0, "energy": 3.0, "kind": "colour"},
    ]
    return {
        "n": 100,
        "mse": 0.01,
        "psnr": 20.0,
        "variance": 0.05,
        "code_numbers": 256,
        "pixels": 3072,
        "principal_mse": 0.02,
        "learnt": 1000,
        "skips": False,
        "residual": False,
        "ends": [{"name": "conv1", "reads": True, "kernels": kernels}],
        "code": [
            {"index": 0, "mse": 0.02, "active": 0.5, "mean": 1.0},
            {"index": 1, "mse": 0.01, "active": 0.0, "mean": 0.0},
        ],
        "classes": [{"name": "ship", "mse": 0.02}, {"name": "deer", "mse": 0.005}],
        "frequencies": [
            {"up_to": 0.25, "power": 1.0, "lost": 0.01, "ratio": 0.01},
            {"up_to": 0.5, "power": 0.05, "lost": 0.03, "ratio": 0.6},
        ],
    }


def test_every_sentence_says_what_the_record_holds() -> None:
    said = {name: " ".join(each) for name, each in sentences(record()).items()}
    assert "0.01000, a PSNR of 20.00 dB: 20.0 % of the images' variance" in said["error"]
    assert "256 numbers for the 3,072 of an image (8.3 %)" in said["error"]
    assert "0.50 times that, less than the best linear code" in said["error"]
    assert "1 edge, 1 colour" in said["kernels"]
    # Colour is 0.7 of three quarters of the energy; edge 0.7 of one quarter.
    assert "brightness 25 %, edge 18 %, pattern 5 %, colour 52 %" in said["kernels"]
    assert "kernel 0: 70 % of it is a ramp that grows brighter at 90°" in said["kernels"]
    assert "Without channel 0 of the code the error is 0.02000, 2.0 times that of the whole" in said["code"]
    assert "without use: channel 1." in said["code"]
    assert "Nearest to the image comes deer (0.00500), farthest ship (0.02000), 4.0 times as far" in said["classes"]
    assert (
        "From 0.250 cycles a pixel on, where a wave is 4.0 pixels long, it has more than half of it"
        in said["frequencies"]
    )
    assert "up to 0.500 holds 75 % of the whole error" in said["frequencies"]


def test_other_numbers_make_other_sentences() -> None:
    other = record() | {"principal_mse": 0.005}
    assert "2.00 times that, more than the best linear code" in " ".join(sentences(other)["error"])
    whole = [band | {"ratio": 0.1} for band in other["frequencies"]]
    assert "half of it" not in " ".join(sentences(other | {"frequencies": whole})["frequencies"])


@pytest.mark.parametrize(
    ("ways", "words"),
    [
        ({"skips": True}, "Maps of the encoder reach the decoder beside the code, so the code is not all"),
        ({"residual": True}, "The image itself bypasses the code, for the network predicts the noise"),
        ({"skips": True, "residual": True}, "beside the code, and the image itself bypasses the code"),
    ],
)
def test_what_bypasses_the_code_is_named(tmp_path: Path, ways: dict[str, bool], words: str) -> None:
    trained(tmp_path / "run", network={"depth": 1, "width": 2, **ways}, steps=1)
    found = write_page(tmp_path / "run", stripes(4), stripes(8, seed=1), tmp_path / "page")
    said = " ".join(found["sentences"])
    assert words in said
    assert ("Maps of the encoder" in said) == ways.get("skips", False)
    assert found["principal_mse"] is None


def test_no_share_is_named_where_there_is_nothing_to_divide_by() -> None:
    nothing = {"n": 1, "mse": 0.0, "psnr": None, "variance": 0.0, "principal_mse": 0.0}
    classes = [{"name": "ship", "mse": 0.02}, {"name": "deer", "mse": 0.0}]
    said = sentences(record() | nothing | {"classes": classes})
    assert said["error"][0] == "On 1 test image the mean squared error is 0.00000."
    assert said["error"][2] == "As many principal components of 1,000 training images leave 0.00000."
    assert said["code"][0].startswith("Without channel 0 of the code the error is 0.02000; without channel 1,")
    assert said["code"][0].endswith("which is missed least, 0.01000.")
    assert said["classes"] == ["Nearest to the image comes deer (0.00000), farthest ship (0.02000)."]


def test_of_images_that_are_all_alike_the_variance_is_nought(tmp_path: Path) -> None:
    trained(tmp_path / "run", steps=1)
    alike = stripes(8).take(torch.zeros(7, dtype=torch.int64))
    found = write_page(tmp_path / "run", alike, stripes(8, seed=1), tmp_path / "page")
    assert found["variance"] == 0
    assert "variance" not in " ".join(found["sentences"])


@pytest.mark.parametrize(
    ("ratio", "words"),
    [(4.6, "has 460 % of"), (4600, "460,000 %"), (0.012, "1.2 %"), (0.0, "0 %"), (1e-7, "less than 0.0001 %")],
)
def test_shares_of_any_size_are_plain_numbers(ratio: float, words: str) -> None:
    bands = [band | {"ratio": ratio} for band in record()["frequencies"]]
    said = sentences(record() | {"frequencies": bands})["frequencies"][0]
    assert words in said
    assert "e+" not in said


@pytest.mark.parametrize("family", ["convolutional", "encoder-decoder"])
def test_a_page_stands_alone_and_every_figure_has_its_arrays(tmp_path: Path, family: str) -> None:
    tamper = [] if family == "convolutional" else recipe().model_dump()["tamper"]
    trained(tmp_path / "run", RGB, network={"family": family, "depth": 1, "width": 2}, tamper=tamper, steps=3)
    out = tmp_path / "page"
    found = write_page(tmp_path / "run", stripes(12, RGB), stripes(30, RGB, 1, "train"), out, sample="down")
    text = (out / "page.html").read_text()
    assert json.loads((out / "analysis.json").read_text()) == found
    assert all(sentence.replace("'", "&#39;") in text for sentence in found["sentences"])
    assert text.count("data:image/png;base64,") == 3
    assert "http" not in text.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    assert (found["sample"]["class"], found["sample"]["id"]) == ("down", 3)
    first = "encoder.conv1" if family == "convolutional" else "stem.0"
    with np.load(out / "kernels.npz") as arrays:
        assert arrays[first].shape[1:] == (3, 3, 3)
    with np.load(out / "activations.npz") as arrays:
        assert arrays[first].shape[0] == 1
    assert (out / "before-after.png").is_file()
    assert [each["count"] for each in found["classes"]] == [6, 6]
    page = read_page(out / "page.html")
    assert [each.text for each in page.all("th") if each.text in ("across", "down")] == ["across", "down"]
    # No figure is wider than its frame, but on a screen too narrow to show anything.
    assert "max-width: max(100%, 44rem)" in text


def test_a_hostile_class_name_stays_text(tmp_path: Path) -> None:
    trained(tmp_path / "run", steps=2)
    images = replace(stripes(8), classes=("<script>alert(1)</script>", "down"))
    write_page(tmp_path / "run", images, stripes(20), tmp_path / "page", sample="down")
    assert "<script>alert" not in (tmp_path / "page" / "page.html").read_text()


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


def test_a_denoised_classifier_is_both_in_turn_and_gradients_pass() -> None:
    class Half(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 0.5 * x

    net = linear(2, shape=SHAPE)
    x = torch.rand(2, *SHAPE, requires_grad=True)
    logits = Denoised(Half(), net)(x)
    assert torch.allclose(logits, net(0.5 * x))
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), x)
    weight = net[1].weight[0].detach().view(SHAPE)  # type: ignore[operator, index]
    assert torch.allclose(gradient[0], 0.5 * weight)


def test_a_saved_defence_is_loaded_by_its_factory_and_attacked_through_both(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", steps=2)
    place = save_denoised(tmp_path / "both", tmp_path / "run", str(classifier(tmp_path / "net")))
    subject = load_model(f"{place}:denoised", trust=True)
    images = splits().test.first(4)
    alone = load_model(str(tmp_path / "net"))
    with torch.no_grad():
        assert torch.allclose(subject(images.x), alone(run.net()(images.x)), atol=1e-6)
    found = fl.attack(subject, images, fl.attacks.PGD(steps=3), "linf:0.2")
    assert found.broken.shape == (4,)
    assert isinstance(load_denoised(tmp_path / "both"), Denoised)
    with pytest.raises(InputError, match="already holds a denoiser and a classifier"):
        save_denoised(tmp_path / "both", tmp_path / "run", str(tmp_path / "net"))


def test_what_cannot_be_put_together_is_told(tmp_path: Path) -> None:
    trained(tmp_path / "run", steps=2)
    other = classifier(tmp_path / "net", RGB)
    with pytest.raises(InputError, match="for images of"):
        save_denoised(tmp_path / "both", tmp_path / "run", str(other))
    with pytest.raises(InputError, match="cannot be kept"):
        save_denoised(tmp_path / "both", tmp_path / "run", "zoo:mlp")
    assert not (tmp_path / "both").exists()


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
