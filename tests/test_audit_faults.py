"""The audit command under bad luck and bad input: kill -9, Ctrl-C, full disks, wrong words."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

import runs

PROGRAM = [sys.executable, "-c", "import sys; from faultlight.cli import main; sys.exit(main())"]
FACTORY = """
import torch
from torch import nn

def net():
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.ReLU(), nn.Linear(10, 10))
    module.load_state_dict(torch.load({weights!r}, weights_only=True))
    return module.eval()

def thousand():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 1000)).eval()

def detached():
    class Detached(nn.Module):
        def forward(self, x):
            return net()((x * 16).round().detach() / 16)
    return Detached()
"""


@pytest.fixture(scope="module")
def factory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("factory")
    weights = folder / "weights.pt"
    torch.save(runs.templates().state_dict(), weights)
    path = folder / "nets.py"
    path.write_text(FACTORY.format(weights=str(weights)))
    return path


def words(factory: Path, out: Path, *more: str, net: str = "net") -> list[str]:
    asked = ["--n", "40", "--threat", "linf:0.15", "--trust", "--out", str(out)]
    return [*PROGRAM, "audit", f"{factory}:{net}", *asked, *more]


def call(command: Sequence[str], before: Callable[[], None] | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, preexec_fn=before, timeout=250)


def sentence(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in done.stderr.splitlines() if line.startswith("faultlight: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


@pytest.fixture(scope="module")
def unbroken(factory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    done = call(words(factory, folder))
    assert done.returncode == 0, done.stderr
    return folder


def kill_at(command: list[str], moment: Callable[[], bool], limit: float = 120) -> int:
    """Start a command and kill it with SIGKILL as soon as the moment has come; return its exit code."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as process:
        end = time.monotonic() + limit
        while process.poll() is None and time.monotonic() < end:
            if moment():
                process.kill()
                break
            time.sleep(0.005)
        return process.wait()


def started(command: list[str], run: Path) -> float:
    """Run a command to its end and return when its ledger appeared."""
    seen: list[float] = []

    def look() -> bool:
        if not seen and (run / "ledger.sqlite").exists():
            seen.append(time.monotonic())
        return False

    assert kill_at(command, look) == 0
    return seen[0]


def delayed(event: Callable[[], bool], seconds: float) -> Callable[[], bool]:
    """A moment that comes some seconds after an event."""
    seen: list[float] = []

    def moment() -> bool:
        if not seen and event():
            seen.append(time.monotonic())
        return bool(seen) and time.monotonic() - seen[0] >= seconds

    return moment


def resume_until_done(command: list[str]) -> None:
    done = call([*command, "--resume"])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", [pytest.param("ledger.sqlite", marks=pytest.mark.slow), "records/probes.json"])
def test_killed_when_a_file_appears_and_resumed_ends_the_same(
    factory: Path, unbroken: Path, tmp_path: Path, name: str
) -> None:
    command = words(factory, tmp_path / "run")
    code = kill_at(command, lambda: (tmp_path / "run" / name).exists())
    assert code == -signal.SIGKILL
    resume_until_done(command)
    assert runs.outcome(tmp_path / "run") == runs.outcome(unbroken)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_at_twenty_random_moments_and_resumed_ends_the_same(
    factory: Path, unbroken: Path, tmp_path: Path
) -> None:
    chance = random.Random(0)
    began = started(words(factory, tmp_path / "timed"), tmp_path / "timed")
    work = time.monotonic() - began
    kills = 0
    for trial in range(20):
        command, ledger = words(factory, tmp_path / f"run{trial}"), tmp_path / f"run{trial}" / "ledger.sqlite"
        kills += kill_at(command, delayed(ledger.exists, chance.uniform(0, work))) == -signal.SIGKILL
        resume_until_done(command)
        assert runs.outcome(tmp_path / f"run{trial}") == runs.outcome(unbroken)
    # A trial that finished before its moment came proves nothing.
    assert kills >= 10


@pytest.mark.slow
def test_interrupt_keeps_the_ledger_and_marks_the_report(factory: Path, unbroken: Path, tmp_path: Path) -> None:
    command = words(factory, tmp_path / "run")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        while process.poll() is None and not _attempted(tmp_path / "run"):
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)
    assert process.returncode == 130
    verdict = json.loads((tmp_path / "run" / "verdict.json").read_text())
    assert verdict["complete"] is False
    assert "interrupted" in verdict["sentence"]
    assert "incomplete" in (tmp_path / "run" / "report.html").read_text().lower()
    resume_until_done(command)
    assert runs.outcome(tmp_path / "run") == runs.outcome(unbroken)


def _attempted(run: Path) -> bool:
    try:
        return (run / "ledger.sqlite").exists() and bool(runs.tables(run)["attempts"])
    except Exception:  # the tables may not be there yet
        return False


def test_second_process_in_the_folder_is_refused(factory: Path, tmp_path: Path) -> None:
    from faultlight.runtime import lock

    with lock(tmp_path / "run"):
        done = call(words(factory, tmp_path / "run"))
    assert done.returncode == 2
    assert "another run is using this folder" in sentence(done)


@pytest.mark.parametrize("size", [20_000, pytest.param(120_000, marks=pytest.mark.slow)])
def test_full_disk_is_said_and_the_run_goes_on_later(factory: Path, unbroken: Path, tmp_path: Path, size: int) -> None:
    def small_files_only() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    command = words(factory, tmp_path / "run")
    done = call(command, small_files_only)
    assert done.returncode == 2, done.stderr
    assert "could not be" in sentence(done)
    resume_until_done(command)
    assert runs.outcome(tmp_path / "run") == runs.outcome(unbroken)


def test_folder_that_cannot_be_made_is_said(factory: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    done = call(words(factory, tmp_path / "file" / "run"))
    assert done.returncode == 2
    assert str(tmp_path / "file" / "run") in sentence(done)
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--threat", "linf:8"], "linf:8/255"),
        (["--threat", "linf:0"], "above 0"),
        (["--threat", "linf:-0.1"], "above 0"),
        (["--threat", "linf:1.5"], "above 1"),
        (["--threat", "lnf:0.1"], "linf"),
        (["--effort", "standart"], "standard"),
        (["--gate", "attacked>0.4"], "attacked>=0.45"),
        (["--gate", "atacked>=0.4"], "attacked"),
        (["--data", "mnits"], "mnist"),
        (["--thread", "linf:0.1"], "--thread"),
    ],
)
def test_wrong_words_are_named_before_anything_is_written(
    factory: Path, tmp_path: Path, more: list[str], said: str
) -> None:
    done = call(words(factory, tmp_path / "run", *more))
    assert done.returncode == 2
    assert said in sentence(done)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("more", [["--threat", "linf:8"], ["--effort", "silly"], ["--threat", "l2:9"]])
def test_wrong_words_are_named_before_a_net_is_trained(tmp_path: Path, more: list[str]) -> None:
    done = call([*PROGRAM, "audit", "--out", str(tmp_path / "run"), *more])
    assert done.returncode == 2
    assert sentence(done)
    assert not (tmp_path / "run").exists()


def test_code_needs_trust(factory: Path, tmp_path: Path) -> None:
    command = [word for word in words(factory, tmp_path / "run") if word != "--trust"]
    done = call(command)
    assert done.returncode == 2
    assert "--trust" in sentence(done)


def test_head_of_a_thousand_classes_is_refused(factory: Path, tmp_path: Path) -> None:
    done = call(words(factory, tmp_path / "run", net="thousand"))
    assert done.returncode == 2
    assert "1000" in sentence(done)


def test_gate_holds_the_lower_end_of_the_interval(factory: Path, unbroken: Path, tmp_path: Path) -> None:
    verdict = json.loads((unbroken / "verdict.json").read_text())
    value, low = verdict["attacked"]["value"], verdict["attacked"]["low"]
    assert low < value
    command = words(factory, unbroken, "--resume")
    assert call([*command, "--gate", f"attacked>={low - 0.01:.4f}"]).returncode == 0
    between = call([*command, "--gate", f"attacked>={(low + value) / 2:.4f}"])
    assert between.returncode == 1
    assert "lower end" in sentence(between)


@pytest.mark.slow
def test_gate_on_a_withheld_verdict_exits_4(factory: Path, tmp_path: Path) -> None:
    done = call(words(factory, tmp_path / "run", "--gate", "attacked>=0.1", net="detached"))
    assert done.returncode == 4
    assert "gradient" in sentence(done)


def test_json_holds_the_verdict_and_nothing_else(factory: Path, unbroken: Path) -> None:
    done = call(words(factory, unbroken, "--resume", "--json"))
    assert done.returncode == 0
    printed = json.loads(done.stdout)
    assert printed.pop("folder") == str(unbroken)
    assert printed == json.loads((unbroken / "verdict.json").read_text())
