"""Features over training: the strongest image of each checkpoint and its projection, against values by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import faultlight as fl
from faultlight import cli
from faultlight.errors import InputError
from faultlight.models.subject import Subject
from faultlight.train.recipe import load_recipe
from faultlight.train.run import train
from faultlight.views.evolution import _lifted

WEIGHTS = (0.5, -1.0, 2.0)


class Scaled(nn.Module):
    """Two feature maps: w·x and −w·x, rectified."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.conv, self.relu, self.head = nn.Conv2d(1, 2, 1, bias=False), nn.ReLU(), nn.Linear(8, 2)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([weight, -weight]).view(2, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.relu(self.conv(x)).flatten(1))
        return logits


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for epoch, weight in enumerate(WEIGHTS):
        save_file(Scaled(weight).state_dict(), tmp_path / f"epoch-{epoch:04}.safetensors")
    return tmp_path


def images() -> fl.Images:
    x = torch.zeros(3, 1, 2, 2)
    x[0, 0, 0, 1], x[1, 0, 1, 0], x[2, 0, 1, 1] = 0.2, 0.8, 0.6
    return fl.Images(x, torch.tensor([0, 1, 0]), torch.tensor([10, 11, 12]), ("a", "b"), name="dots")


def test_each_checkpoint_shows_its_own_strongest_image(folder: Path) -> None:
    """Of the map relu(w·x) it is the brightest dot, projected to w²·0.8 where it lies; for w < 0 the other map's."""
    found = fl.views.Evolution(checkpoints=str(folder), layer="relu", channels=1)(Subject(Scaled(), 2), images())
    assert found.arrays["channel"].tolist() == [0]
    assert found.arrays["activation"][:, 0].tolist() == pytest.approx([0.4, 0.0, 1.6])
    assert (found.arrays["id"][0, 0], found.arrays["id"][2, 0]) == (11, 11)
    expected = np.zeros((3, 1, 1, 2, 2))
    expected[0, 0, 0, 1, 0], expected[2, 0, 0, 1, 0] = 0.5 * 0.4, 2.0 * 1.6
    assert found.arrays["projection"] == pytest.approx(expected)
    assert len(found.panels) == 3


def test_the_subject_keeps_its_own_weights(folder: Path) -> None:
    subject = Subject(Scaled(7.0), 2)
    fl.views.Evolution(checkpoints=str(folder), layer="relu")(subject, images())
    assert float(subject.module.state_dict()["conv.weight"][0]) == 7.0


def test_training_keeps_the_epochs_asked_for(tmp_path: Path) -> None:
    recipe = load_recipe("digits-cnn", {"epochs": 2})
    train(recipe, out=tmp_path / "run", quiet=True, keep_epochs=(0, 2))
    kept = sorted(path.name for path in (tmp_path / "run" / "epochs").iterdir())
    assert kept == ["epoch-0000.safetensors", "epoch-0002.safetensors"]
    subject = fl.load_model(str(tmp_path / "run"))
    found = fl.views.Evolution(checkpoints=str(tmp_path / "run"))(subject, fl.load_data("digits", n=20))
    assert found.facts["checkpoints"] == ["epoch-0000", "epoch-0002"]
    assert (found.arrays["activation"][1] > found.arrays["activation"][0]).all()


def test_epochs_that_are_no_numbers_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "digits-cnn", "--keep-epochs", "1;2"]) == 2
    assert (
        "--keep-epochs needs whole numbers with commas between, such as 0,1,2,5, not '1;2'" in capsys.readouterr().err
    )


def test_a_folder_without_checkpoints_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no checkpoints \(\.safetensors\).*--keep-epochs"):
        fl.views.Evolution(checkpoints=str(tmp_path))(Subject(Scaled(), 2), images())


def test_weights_of_another_net_are_refused(tmp_path: Path) -> None:
    save_file({"other": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(InputError):
        fl.views.Evolution(checkpoints=str(tmp_path), layer="relu")(Subject(Scaled(), 2), images())


def test_no_channels_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="channels must be 1 or more, not 0"):
        fl.views.Evolution(checkpoints=str(folder), channels=0)(Subject(Scaled(), 2), images())


def test_weak_values_are_lifted_and_the_ends_of_the_scale_stay() -> None:
    lifted = _lifted(np.array([-8.0, -1.0, 0.0, 0.008, 8.0]), 8.0)
    assert lifted == pytest.approx([-8.0, -4.0, 0.0, 0.8, 8.0])
    assert not _lifted(np.zeros(3), 0.0).any()
