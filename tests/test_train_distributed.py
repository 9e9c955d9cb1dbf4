"""Two processes that torchrun starts train what one would, and end as one does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from distributed_cases import CASES, FEW, LONG, REST, normalised, run
from faultlight import files
from faultlight.cli import main
from faultlight.errors import InputError
from faultlight.train import run as module_under_test
from faultlight.train.augment import augment
from faultlight.train.folder import check_same
from faultlight.train.launch import is_launched
from faultlight.train.ranks import ALONE, Ranks
from faultlight.train.recipe import Augment
from faultlight.train.state import CHECKPOINT, State, save

HERE = Path(__file__).parent
# Rounding alone; eighteen layers of batch norm over a few rows make more of it, in one process too when its sums run
# in another order.
TOLERANCE = {"batch-norm": 2e-4, "trades": 1e-4}


@contextmanager
def torchrun(*words: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*command, "--standalone", *words], env=environment, cwd=HERE, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def ended(*words: str) -> tuple[int, str, str]:
    with torchrun(*words) as process:
        out, error = process.communicate(timeout=250)
    return process.returncode, out, error


def interrupted_after_an_epoch(case: dict[str, Any], folder: Path) -> None:
    def save_and_stop(state: State, out: Path) -> None:
        save(state, out)
        if state.epoch == 1:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module_under_test, "save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            run(case, folder)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("few")
    code, _, error = ended(str(HERE / "distributed_cases.py"), "few", str(folder))
    assert code == 0, error
    return folder


@pytest.fixture(scope="module")
def rest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rest")
    interrupted_after_an_epoch(CASES["adversarial"] | {"epochs": 3}, folder / "resumed")
    code, _, error = ended(str(HERE / "distributed_cases.py"), "rest", str(folder))
    assert code == 0, error
    return folder


def furthest(one: Path, other: Path) -> float:
    """The largest difference of two weights, in units of the largest weight of its tensor."""
    first, second = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert first.keys() == second.keys()
    return max(
        float((first[name].double() - second[name].double()).abs().max() / first[name].abs().max().clamp(min=1e-6))
        for name in first
    )


def check_one_is_like(two: Path, case: str, folder: Path) -> None:
    run(CASES[case], folder)
    assert furthest(folder, two / case) < TOLERANCE.get(case, 1e-5)
    one, other = (files.read_json(each / "records/training.json") for each in (folder, two / case))
    for first, second in zip(one["epochs"], other["epochs"], strict=True):
        assert first.keys() == second.keys()
        assert second["train_loss"] == pytest.approx(first["train_loss"], rel=1e-4)


@pytest.mark.parametrize("case", FEW)
def test_two_processes_train_what_one_does(case: str, few: Path, tmp_path: Path) -> None:
    check_one_is_like(few, case, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("case", REST)
def test_two_processes_train_what_one_does_by_other_objectives_and_layers(
    case: str, rest: Path, tmp_path: Path
) -> None:
    check_one_is_like(rest, case, tmp_path)


@pytest.mark.slow
def test_a_run_of_one_process_is_gone_on_with_by_two(rest: Path, tmp_path: Path) -> None:
    run(CASES["adversarial"] | {"epochs": 3}, tmp_path)
    assert furthest(tmp_path, rest / "resumed") < 1e-5
    assert len(files.read_json(rest / "resumed/records/training.json")["epochs"]) == 3
    assert "processes" not in (rest / "resumed/run.toml").read_text(encoding="utf-8")


def test_the_records_tell_how_many_processes_there_were(few: Path) -> None:
    assert files.read_json(few / "standard/records/training.json")["processes"] == 2
    assert files.read_json(few / "standard/stamp.json")["processes"] == 2
    assert "processes = 2" in (few / "standard/run.toml").read_text(encoding="utf-8")


def test_batch_norm_over_two_parts_is_that_over_the_whole(few: Path) -> None:
    found, due = load_file(few / "normalised.safetensors"), normalised(slice(0, 7), ALONE)
    assert found.keys() == due.keys()
    for name, value in due.items():
        assert torch.allclose(found[name], value, rtol=1e-5, atol=1e-4 if name == "gradient" else 1e-5), name


@pytest.mark.slow
def test_ctrl_c_ends_all_with_the_state_kept_and_one_process_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "long"
    with torchrun(str(HERE / "distributed_cases.py"), "long", str(folder)) as process:
        until = time.monotonic() + 200
        while not (folder / CHECKPOINT).exists():
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < until
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=100)
    assert process.returncode != 0
    assert error.count("KeyboardInterrupt\n") <= 2, error  # one of ours, one of torchrun
    before = torch.load(folder / CHECKPOINT, weights_only=True)["epoch"]
    assert 0 < before < 400
    run(LONG, folder, resume=True)
    record = files.read_json(folder / "records/training.json")
    assert len(record["epochs"]) == 400
    assert "processes" not in record


@pytest.mark.slow
def test_a_loss_that_is_no_number_ends_all_with_one_sentence(run_folder: Path) -> None:
    settings = ["--set", "optimiser.name=sgd", "--set", "optimiser.lr=1e30", "--epochs", "1"]
    words = ["-m", "faultlight", "train", "digits-cnn", "--out", str(run_folder), *settings]
    code, out, error = ended(*words)
    assert code != 0
    assert out == ""
    assert error.count("faultlight: ") == 1, error
    assert "became NaN or infinite" in error


@pytest.mark.slow
def test_an_error_of_one_process_ends_all(tmp_path: Path) -> None:
    code, _, error = ended(str(HERE / "distributed_cases.py"), "unlike", str(tmp_path / "run"))
    assert code != 0
    assert error.count("process 1 differs from process 0 in data.test") == 1, error
    assert error.count("errors.InputError: ") == 1, error


def test_shares_lie_side_by_side_and_differ_by_a_row_at_most() -> None:
    for rows, count in ((25, 2), (64, 3), (5, 5)):
        shares = [Ranks(rank, count).share(rows) for rank in range(count)]
        assert [share.start for share in shares] == [0, *(share.stop for share in shares[:-1])]
        assert shares[-1].stop == rows
        sizes = [share.stop - share.start for share in shares]
        assert max(sizes) - min(sizes) <= 1
    with pytest.raises(InputError, match="a batch of 3 cannot be shared by 4 processes"):
        Ranks(0, 4).share(3)


def test_a_row_is_changed_alike_wherever_it_lies() -> None:
    x = torch.rand(7, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    spec = Augment(shift=1, flip=True, rotate=20.0)
    whole = augment(x, spec, 3, 1, 2)
    parts = [augment(Ranks(rank, 2).share(7).own(x), spec, 3, 1, 2, Ranks(rank, 2).share(7)) for rank in (0, 1)]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("rows", [None, torch.tensor([40, 2, 11, 3, 30, 1, 8])])
def test_a_row_is_mirrored_in_turn_alike_wherever_it_lies(rows: torch.Tensor | None) -> None:
    x = torch.rand(7, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    spec, shares = Augment(flip="alternate"), [Ranks(rank, 2).share(7) for rank in (0, 1)]
    whole = augment(x, spec, 3, 1, 2, rows=rows)
    own = [None if rows is None else share.own(rows) for share in shares]
    parts = [augment(share.own(x), spec, 3, 1, 2, share, each) for share, each in zip(shares, own, strict=True)]
    assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(whole, x)


def test_each_process_has_a_gpu_of_its_own() -> None:
    assert Ranks(3, 4, 1).device("cuda") == "cuda:1"
    assert Ranks(3, 4, 1).device("cpu") == "cpu"
    assert ALONE.device("cuda:1") == "cuda:1"
    with pytest.raises(InputError, match="say --device cuda, not cuda:0"):
        Ranks(3, 4, 1).device("cuda:0")


def test_the_number_of_processes_may_change_between_two_parts_of_a_run(tmp_path: Path) -> None:
    check_same(tmp_path, {"numerics": {"bf16": False}}, {"numerics": {"bf16": False, "processes": 2}})


def test_one_process_is_not_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert not is_launched()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert is_launched()


def test_alone_everything_is_the_whole(run_folder: Path) -> None:
    share = ALONE.share(4)
    rows = torch.arange(4)
    assert share.own(rows) is rows
    assert share.whole(rows) is rows
    assert share.weigh(rows) is rows
    assert ALONE.any(True, False) == (True, False)
    assert ALONE.told("word") == "word"
    assert main(["train", "digits-cnn", "--epochs", "1", "--json", "--out", str(run_folder)]) == 0
    assert "processes" not in (run_folder / "run.toml").read_text(encoding="utf-8")
