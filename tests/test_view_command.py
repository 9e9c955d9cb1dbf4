"""`faultlight view` on the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from faultlight.catalogue import catalogue, lookup
from faultlight.cli import main
from faultlight.errors import InputError
from faultlight.models import zoo
from faultlight.models.saved import save_model
from faultlight.settings import build
from faultlight.views.occlusion import Occlusion


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def view(*words: str) -> int:
    return main(["view", "zoo:digits-cnn", *words])


def test_a_view_writes_its_files_and_says_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert view("--view", "occlusion", "--n", "2", "--set", "patch=4", "--set", "stride=2") == 0
    spoken = capsys.readouterr()
    assert "A patch of 4 × 4 pixels at 3 × 3 positions, 2 apart." in spoken.out
    for suffix in ("npz", "json", "png", "svg"):
        assert f"wrote views/occlusion/occlusion.{suffix}" in spoken.out
        assert (tmp_path / "views" / "occlusion" / f"occlusion.{suffix}").stat().st_size > 0
    with np.load(tmp_path / "views" / "occlusion" / "occlusion.npz") as arrays:
        assert arrays["probability"].shape == (2, 3, 3)


def test_a_net_of_the_zoo_without_weights_is_said_to_be_untrained(capsys: pytest.CaptureFixture[str]) -> None:
    view("--view", "kernels")
    assert "'digits-cnn' has its initial weights: it was never trained" in capsys.readouterr().err


def test_json_is_one_object_on_standard_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert view("--view", "activations", "--layer", "conv2", "--n", "1", "--out", "seen", "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["view"] == "activations"
    assert record["arrays"] == {"conv2": [1, 32, 8, 8]}
    assert record["files"] == [f"seen/activations.{suffix}" for suffix in ("npz", "json", "png", "svg")]
    assert all((tmp_path / name).exists() for name in record["files"])


def test_a_table_is_printed_and_written_only_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert view("--view", "layers") == 0
    assert "multiply-adds" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    assert view("--view", "layers", "--out", "table") == 0
    assert (tmp_path / "table" / "layers.png").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--view", "oclusion"], "no view named 'oclusion'; did you mean 'occlusion'?"),
        (["--view", "activations", "--layer", "cnov1"], "no layer 'cnov1'; did you mean 'conv1'?"),
        (["--view", "occlusion", "--set", "pach=3"], "no setting 'pach'; did you mean 'patch'?"),
        (["--view", "occlusion", "--set", "patch"], "the setting 'patch' has no value; write it like patch=12"),
        (
            ["--view", "occlusion", "--set", "patch=big"],
            "the setting patch=big cannot be used: input should be a valid",
        ),
        (["--view", "occlusion", "--set", "patch=9"], "a patch of 9 pixels is larger than the image of 8 × 8"),
        (["--view", "evolution"], "needs the setting 'checkpoints'; write it like checkpoints=path/to/folder"),
        (["--view", "projection", "--layer", "conv1#3"], "did you mean 'conv1'? known: conv1"),
        (["--view", "saliency", "--layer", "conv1"], "the view 'saliency' has no setting 'layer'"),
        (["--view", "occlusion", "--layer", "conv1", "--set", "layer=conv2"], "'layer' is given twice"),
    ],
)
def test_mistakes_are_one_sentence_and_write_nothing(
    words: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert view(*words) == 2
    assert sentence in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_shown_on_the_data_it_was_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    family = zoo.family("mnist-cnn")
    save_model(tmp_path / "run", "mnist-cnn", family, zoo.build_family(family, 0))
    (tmp_path / "run" / "run.toml").write_text('[recipe]\ndata = "pixels.npz"\n')
    pixels = np.zeros((3, 1, 28, 28), np.float32)
    np.savez(tmp_path / "pixels.npz", x=pixels, y=np.arange(3), classes=[str(label) for label in range(10)])
    assert main(["view", "run", "--view", "activations", "--layer", "conv1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["arrays"]["conv1"][0] == 3
    assert main(["view", "run", "--view", "layers", "--data", "digits"]) == 2


PROGRAM = """
import faultlight as fl
from faultlight.catalogue import catalogue
from faultlight.errors import InputError

for entry in catalogue("views").values():
    needed = {field.name: "here" for field in entry.fields if not field.default}
    for field in entry.fields:
        try:
            getattr(fl.views, entry.class_name)(**{**needed, field.name: object()})
        except InputError as error:
            assert str(error).startswith(f"{field.name} cannot be <object"), error
        else:
            print(entry.name, field.name)
"""


def test_every_view_refuses_settings_of_another_kind() -> None:
    # In a process of its own, for here the types are checked before any setting is.
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["correspondence", "corners"]), done.stderr


def test_settings_become_what_the_fields_say() -> None:
    settings = ["patch=12", "stride=none", "fill=0.25", "layer=conv1", "channel=3"]
    assert build(lookup("views", "occlusion"), settings, "view") == Occlusion(12, None, 0.25, "conv1", 3)
    with pytest.raises(InputError, match="fill=x cannot be used"):
        build(lookup("views", "occlusion"), ["fill=x"], "view")


def test_the_help_page_lists_every_view_and_imports_no_torch() -> None:
    program = (
        "import sys; from faultlight.cli import main; code = main(['view', '--help']); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    for entry in catalogue("views").values():
        assert f"{entry.name}: {entry.summary}" in done.stdout
    assert "--set patch, stride, fill=0.5, layer, channel" in done.stdout
    assert "--set checkpoints (required), layer," in done.stdout
    assert done.stdout.splitlines()[-1] == "False"
