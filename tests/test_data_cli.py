"""`faultlight data`: list, fetch, check, describe, export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from faultlight.cli import main
from faultlight.data.export import export, folder_name
from faultlight.data.load import load_data
from faultlight.errors import InputError

Output = pytest.CaptureFixture[str]


def run(output: Output, *words: str) -> tuple[int, str, str]:
    code = main(["data", *words])
    printed = output.readouterr()
    return code, printed.out, printed.err


def run_json(output: Output, *words: str) -> dict[str, Any]:
    code, out, _ = run(output, *words, "--json")
    assert code == 0
    found: dict[str, Any] = json.loads(out)
    return found


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A set of eight colour images in three classes, one of them of an awkward name."""
    values = np.random.default_rng(0).integers(0, 256, (8, 3, 4, 5), dtype=np.uint8)
    path = tmp_path / "own.npz"
    names = np.array(["cat", "a/b", "\x1b[31m"])
    np.savez(path, x_train=values[:6], y_train=[0, 1, 2, 0, 1, 2], x_test=values[6:], y_test=[2, 0], classes=names)
    return path


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("FAULTLIGHT_DATA", raising=False)
    monkeypatch.setattr("faultlight.data.places.cache_folder", lambda: tmp_path / "cache")
    return tmp_path


def test_list_says_what_is_here(capsys: Output, nowhere: Path) -> None:
    code, out, _ = run(capsys, "list")
    assert code == 0
    assert "in scikit-learn" in out
    assert "`faultlight data fetch mnist`" in out
    batches = nowhere / "data" / "cifar-10-batches-py"
    batches.mkdir(parents=True)
    for name in ("test_batch", *(f"data_batch_{number}" for number in range(1, 6))):
        (batches / name).write_bytes(bytes(2**20))
    sets = {each["name"]: each for each in run_json(capsys, "list", "--folder", str(nowhere / "data"))["sets"]}
    assert sets["cifar10"] == {"name": "cifar10", "images": 60_000, "where": str(batches), "bytes": 6 * 2**20}
    assert sets["mnist"]["where"] is None
    assert sets["digits"]["images"] == 1_797


def test_fetch_of_what_needs_no_fetching(capsys: Output, own: Path, nowhere: Path) -> None:
    assert run(capsys, "fetch", "digits")[0] == 0
    code, _, err = run(capsys, "fetch", str(own))
    assert code == 2
    assert "only a set with a name can be fetched" in err


def test_fetch_offline_is_exit_2(capsys: Output, nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAULTLIGHT_MIRROR", "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    code, out, err = run(capsys, "fetch", "mnist")
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    assert "`faultlight data fetch mnist`" in err


def test_describe_digits(capsys: Output) -> None:
    found = run_json(capsys, "describe", "digits")
    assert [(split["split"], split["n"], split["shape"]) for split in found["splits"]] == [
        ("train", 1257, [1, 8, 8]),
        ("validation", 180, [1, 8, 8]),
        ("test", 360, [1, 8, 8]),
    ]
    test = found["splits"][2]
    images = load_data("digits")
    assert test["histogram"] == torch.bincount(images.y).tolist()
    assert test["fingerprint"] == images.fingerprint()
    assert (test["low"], test["high"]) == (0, 1)
    assert test["mean"] == pytest.approx([float(images.x.double().mean())])
    again = run_json(capsys, "describe", "digits", "--split-seed", "1")
    assert again["split_hash"] != found["split_hash"]
    assert again["splits"][2] == test
    assert run_json(capsys, "describe", "digits") == found


def test_describe_prints_the_same_figures(capsys: Output) -> None:
    found = run_json(capsys, "describe", "digits")
    code, out, _ = run(capsys, "describe", "digits")
    assert code == 0
    assert f"split hash {found['split_hash']}" in out
    assert "train: 1,257 images of 1×8×8" in out
    assert all(split["fingerprint"] in out for split in found["splits"])


def test_hostile_class_names_are_inert(capsys: Output, own: Path) -> None:
    code, out, _ = run(capsys, "describe", str(own))
    assert code == 0
    assert "\x1b" not in out
    assert "\\x1b[31m" in out
    assert run_json(capsys, "describe", str(own))["classes"] == ["cat", "a/b", "\x1b[31m"]


def test_check_counts_and_refuses(capsys: Output, own: Path) -> None:
    found = run_json(capsys, "check", str(own))
    assert found["ok"] is True
    assert found["found"] == [
        "train+validation: 6 images of 3×4×5, 3 classes, all pixels in [0, 1]",
        "test: 2 images of 3×4×5, 3 classes, all pixels in [0, 1]",
    ]
    own.write_bytes(own.read_bytes()[:-30])
    code, out, err = run(capsys, "check", str(own))
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "is no .npz archive" in err


def test_bad_pictures_are_skipped_only_when_asked(capsys: Output, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Image.new("L", (2, 2)).save(tmp_path / "a" / "1.png")
    (tmp_path / "a" / "2.png").write_bytes(b"no picture")
    assert run(capsys, "check", str(tmp_path))[0] == 2
    code, out, _ = run(capsys, "check", str(tmp_path), "--skip-bad", "--resize", "4")
    assert code == 0
    assert "1 of 2 pictures were skipped" in out
    assert "1×4×4" in out
    assert run(capsys, "check", str(tmp_path), "--resize", "huge")[0] == 2


def test_export_and_load_again(capsys: Output, own: Path, tmp_path: Path) -> None:
    code, out, _ = run(capsys, "export", str(own), str(tmp_path / "laid-out"))
    assert code == 0
    assert out.startswith("8 images in ")
    for split in ("test", "train", "validation"):
        before, after = load_data(str(own), split), load_data(str(tmp_path / "laid-out"), split)
        assert torch.equal(before.x, after.x)
        assert [folder_name(before.classes[label]) for label in before.y] == [after.classes[label] for label in after.y]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_export_of_digits_keeps_the_order(tmp_path: Path) -> None:
    done = export("digits", tmp_path / "out", n=30)
    before, after = load_data("digits", n=30), load_data(str(tmp_path / "out"))
    assert done.images == 90
    assert 0 < done.rounding <= 0.5 / 255 + 1e-7  # sixteenths are no multiples of 1/255
    assert (before.x - after.x).abs().max() <= done.rounding + 1e-7
    assert before.y.tolist() == after.y.tolist()
    assert sorted(path.name for path in (tmp_path / "out" / "test" / "8").iterdir())[0].startswith("014")


def test_export_never_writes_over(capsys: Output, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_bytes(b"mine")
    code, _, err = run(capsys, "export", "digits", str(tmp_path / "out"))
    assert code == 2
    assert "is not written over" in err
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine"]


def test_interrupted_export_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []

    def fill_the_disk(self: Image.Image, path: Path, *_: Any) -> None:
        written.append(path)
        if len(written) == 20:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fill_the_disk)
    with pytest.raises(InputError, match="No space left on device; choose another folder"):
        export("digits", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    assert len(written) == 20


def test_leftovers_of_a_killed_export_are_cleared(tmp_path: Path) -> None:
    leftover = tmp_path / ".out.part" / "train" / "0"
    leftover.mkdir(parents=True)
    (leftover / "half.png").write_bytes(b"half")
    export("digits", tmp_path / "out", n=2)
    assert not list(tmp_path.rglob("half.png"))


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("cat", "cat"),
        ("hot dog", "hot dog"),
        ("Käfer", "Käfer"),
        ("a/b", "a%2Fb"),
        ("..", "%2E%2E"),
        (".hidden", "%2Ehidden"),
        ("50%", "50%25"),
        ("</script>", "%3C%2Fscript%3E"),
        ("a\0b\n", "a%00b%0A"),
        ("end.", "end%2E"),
        ("", "%"),
    ],
)
def test_class_names_as_folder_names(name: str, folder: str) -> None:
    assert folder_name(name) == folder


def test_check_of_the_real_sets(capsys: Output, real_data: Path) -> None:
    found = run_json(capsys, "check", "mnist")["found"]
    assert sum("the publisher's content" in line for line in found) == 4
    found = run_json(capsys, "check", "cifar10")["found"]
    assert any(
        "channel means 0.4914 0.4822 0.4465, deviations 0.2470 0.2435 0.2616, as published" in line for line in found
    )
