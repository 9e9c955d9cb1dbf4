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
    assert done.stdout.splitlines()[-1] == "False"
