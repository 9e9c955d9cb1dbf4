"""The stamp of a run: true to the machine, complete, plain JSON, and never the reason that torch is loaded."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from faultlight import stamp


def git(folder: Path, *words: str) -> str:
    names = {
        f"GIT_{who}_{what}": "somebody@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    command = ["git", "-c", "commit.gpgsign=false", "-C", str(folder), *words]
    return subprocess.run(command, env=os.environ | names, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    (tmp_path / "code.py").write_text("x = 1\n")
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "-q", "-m", "One line")
    return tmp_path


def collect() -> dict[str, Any]:
    return stamp.collect(seed=7, device="cpu", hashes={"model": "ab12"}, timings={"attack": 1.5})


def test_what_was_asked_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["faultlight", "audit", "--seed", "7"])
    record = collect()
    assert record["seed"] == 7
    assert record["command"] == ["faultlight", "audit", "--seed", "7"]
    assert record["hashes"] == {"model": "ab12"}
    assert record["timings"] == {"attack": 1.5}
    assert record["schema"] == 1


def test_versions_are_those_that_would_be_imported() -> None:
    import numpy
    import torch

    import faultlight

    record = collect()
    assert record["faultlight"] == faultlight.__version__
    assert record["versions"]["python"] == platform.python_version()
    assert record["versions"]["numpy"] == numpy.__version__
    assert record["versions"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    for name in ("typer", "scipy", "pytest"):
        assert record["packages"][name] == importlib.metadata.version(name)


def test_it_is_plain_json_and_dated_now() -> None:
    record = json.loads(json.dumps(collect(), allow_nan=False))
    age = datetime.now(UTC) - datetime.fromisoformat(record["written"])
    assert -2 < age.total_seconds() < 600


def test_a_clean_work_tree_has_its_commit(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)
    assert collect()["git"] == {"commit": git(repository, "rev-parse", "HEAD"), "dirty": False}


@pytest.mark.parametrize("name", ["code.py", "untracked.py"])
def test_a_changed_or_new_file_makes_it_dirty(repository: Path, name: str) -> None:
    (repository / name).write_text("x = 2\n")
    assert stamp.git_state(repository) == {"commit": git(repository, "rev-parse", "HEAD"), "dirty": True}


def test_outside_a_repository_there_is_no_commit(tmp_path: Path) -> None:
    assert stamp.git_state(tmp_path) is None


def test_a_repository_without_a_commit_has_none(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    assert stamp.git_state(tmp_path) is None


def test_without_git_there_is_no_commit(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert stamp.git_state(repository) is None


CPUINFO = """processor\t: 0
model name\t: Some Chip @ 2.00GHz
flags\t\t: fpu avx2 avx512f amx_bf16 avx512_bf16_not_quite

processor\t: 1
model name\t: Another Chip
flags\t\t: fpu
"""


def test_the_processor_is_read_from_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda self, encoding: CPUINFO)
    facts = stamp.cpu()
    assert facts["name"] == "Some Chip @ 2.00GHz"
    assert facts["features"] == ["avx2", "avx512f", "amx_bf16"]
    assert 1 <= facts["cores"] <= (os.cpu_count() or 1)
    assert stamp.device_name("cpu") == "Some Chip @ 2.00GHz"


def test_a_machine_without_proc_still_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(self: Path, encoding: str) -> str:
        raise FileNotFoundError(str(self))

    monkeypatch.setattr(Path, "read_text", absent)
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    assert stamp.cpu()["name"] == "arm"
    assert stamp.cpu()["features"] == []


def test_a_stamp_never_loads_torch() -> None:
    program = """
import sys
from faultlight import stamp
record = stamp.collect(seed=0, device="cuda:0", hashes={}, timings={})
print(record["device"]["name"], record["versions"]["torch"] != "", "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["cuda:0", "True", "False"]
