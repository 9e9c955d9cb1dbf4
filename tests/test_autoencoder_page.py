"""The page, the sentences on it, and a denoiser in front of a classifier."""

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
from autoencoder_toys import SHAPE, classifier, recipe, splits, stripes, trained
from faultlight.autoencoder.defence import Denoised, load_denoised, save_denoised
from faultlight.autoencoder.page import write_page
from faultlight.autoencoder.sentences import sentences
from faultlight.errors import InputError
from faultlight.models.load import load_model
from report_reader import read_page
from toys import linear

RGB = (3, 8, 8)


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
