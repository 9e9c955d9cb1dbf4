"""`faultlight study` on the command line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from faultlight.catalogue import catalogue
from faultlight.cli import main

MODEL = "zoo:digits-cnn"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_study_writes_its_files_and_says_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "epsilon-curve", MODEL, "--n", "30", "--set", "points=3", "--set", "samples=2"]) == 0
    spoken = capsys.readouterr().out
    assert "Accuracy of digits-cnn on 30 images under fgsm (linf)." in spoken
    for suffix in ("npz", "json", "png", "svg"):
        assert f"wrote studies/epsilon-curve/epsilon-curve.{suffix}" in spoken
        assert (tmp_path / "studies" / "epsilon-curve" / f"epsilon-curve.{suffix}").stat().st_size > 0
    record = json.loads((tmp_path / "studies" / "epsilon-curve" / "epsilon-curve.json").read_text(encoding="utf-8"))
    assert record["study"] == "epsilon-curve"
    with np.load(tmp_path / "studies" / "epsilon-curve" / "epsilon-curve.npz") as arrays:
        assert arrays["epsilon"].tolist() == pytest.approx([0, 0.05, 0.1])


def test_the_training_split_is_loaded_for_what_is_fitted(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--n", "20", "--set", "fit=30", "--set", "epochs=1", "--threat", "l2:1", "--json"]
    assert main(["study", "universal", MODEL, *words]) == 0
    record = json.loads(capsys.readouterr().out)
    assert "fitted to 30 train images" in record["text"]
    assert record["facts"]["threat"] == "l2:1"
    assert record["arrays"]["prediction"] == [20]


def test_models_that_are_called_alike_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "transfer", MODEL, MODEL, "--n", "40", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["facts"]["models"] == ["digits-cnn", "digits-cnn (2)"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["univrsal", MODEL], "no study named 'univrsal'; did you mean 'universal'?"),
        (["universal", MODEL, "--set", "epoch=2"], "no setting 'epoch'; did you mean 'epochs'?"),
        (["transfer", MODEL], "name at least two"),
        (["universal", MODEL, MODEL], "looks at one model, not at 2"),
        (["universal", MODEL, "--threat", "l0:1", "--n", "5"], "made for linf and l2, not for l0"),
        (["transfer", MODEL, MODEL, "--weights", "a.safetensors"], "2 models were named and 1 files of weights"),
        (["universal"], "Missing argument"),
    ],
)
def test_mistakes_are_one_sentence_and_write_nothing(
    words: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["study", *words]) == 2
    assert sentence in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_help_page_lists_every_study_and_imports_no_torch() -> None:
    program = (
        "import sys; from faultlight.cli import main; code = main(['study', '--help']); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    for entry in catalogue("studies").values():
        assert f"{entry.name}: {entry.summary}" in done.stdout
    assert done.stdout.splitlines()[-1] == "False"


def test_the_page_of_studies_has_every_study_and_commands_that_exist() -> None:
    page = (Path(__file__).parents[1] / "docs" / "studies.md").read_text(encoding="utf-8")
    named = re.findall(r"^    faultlight study ([\w-]+) zoo:mnist-cnn", page, flags=re.MULTILINE)
    assert set(named) == set(catalogue("studies"))
    for name in catalogue("studies"):
        assert re.search(rf"^\| `{name}` \| .*\?  ?\| (one|two or more) \|$", page, flags=re.MULTILINE)
