"""The benchmark's contenders solve one problem, and its bare loop finds what the engine finds."""

from __future__ import annotations

import warnings
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("benchmarks.contenders", reason="the benchmarks lie beside the tests in the source tree only")

from benchmarks import contenders, ladder, learning, tables, training
from benchmarks.contenders import Problem

from faultlight.data.images import Images

PROBLEM = Problem("", 24, "0.1", 0.1, 0.03, 12, (24,))
PEERS = [("torchattacks", "torchattacks"), ("torchattacks, careful", "torchattacks"), ("foolbox", "foolbox")]


def _linear() -> nn.Module:
    """z = (0, w·x − 2) with w = ±1: an image of mean m breaks exactly when its margin is below ε·16 = 1.6."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    with torch.no_grad():
        module[1].weight.copy_(torch.stack([torch.zeros(16), torch.tensor([1.0, -1.0] * 8)]))
        module[1].bias.copy_(torch.tensor([0.0, 0.0]))
    return module.eval()


def _images() -> Images:
    """Images of class 1 whose margins w·x run from −0.4 to 4.2 in steps of 0.2, away from the box's walls."""
    margin = torch.arange(24) * 0.2 - 0.4
    signs = torch.tensor([1.0, -1.0] * 8).view(1, 1, 4, 4)
    x = 0.5 + signs * margin.view(-1, 1, 1, 1) / 16
    return Images(x, torch.ones(24, dtype=torch.int64), torch.arange(24), ("no", "yes"))


def _standing(x: Tensor, images: Images) -> list[bool]:
    assert float((x - images.x).abs().max()) <= PROBLEM.radius + 1e-6
    return (_linear()(x).argmax(1) == images.y).tolist()


# The margin of image i is 0.2·i − 0.4, and ε moves it by 1.6 at most: images 0 … 9 fall, 11 … 23 stand, and image 10,
# whose margin is 1.6 itself, is left to rounding.
def _check(x: Tensor, images: Images) -> None:
    standing = _standing(x, images)
    assert standing[:10] == [False] * 10
    assert standing[11:] == [True] * 13


def test_faultlight_finds_the_closed_form() -> None:
    images = _images()
    _check(contenders.faultlight(_linear(), images, PROBLEM, 0), images)
    _check(contenders.faultlight_float32(_linear(), images, PROBLEM, 0), images)


@pytest.mark.parametrize(("name", "package"), PEERS)
def test_each_peer_finds_the_closed_form(name: str, package: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the peers' own, of names that SciPy will drop
        pytest.importorskip(package, reason="the peers are installed by `make peers` only")
        images = _images()
        _check(contenders.PEERS[name](_linear(), images, PROBLEM, 7), images)


@pytest.mark.parametrize("name", [name for name, rung in ladder.LADDER.items() if not rung.low])
def test_each_float32_rung_finds_the_closed_form(name: str) -> None:
    images = _images()
    _check(ladder.climb(ladder.LADDER[name], _linear(), images, PROBLEM, 7), images)


def test_every_rung_moves_only_images_that_it_may_attack() -> None:
    images = _images()
    wrong = torch.arange(24) < 2
    for name, rung in ladder.LADDER.items():
        moved = (ladder.climb(rung, _linear(), images, PROBLEM, 24) != images.x).flatten(1).any(1)
        assert moved[~wrong & (torch.arange(24) > 2)].all(), name
        assert bool(moved[:2].any()) != rung.right, name


def test_a_page_keeps_the_words_around_a_table(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- a -->\nold\n<!-- /a -->\nafter\n")
    tables.put(page, "a", tables.table(["x", "y"], [["1", "2"]]))
    assert page.read_text() == "before\n<!-- a -->\n| x | y |\n| --- | ---: |\n| 1 | 2 |\n<!-- /a -->\nafter\n"
    with pytest.raises(ValueError, match="no markers"):
        tables.put(page, "b", "text")


def test_the_plain_loops_attack_finds_the_closed_form() -> None:
    images = _images()
    torch.manual_seed(0)
    x = training._pgd(_linear(), images.x, images.y, PROBLEM.radius, PROBLEM.length, PROBLEM.steps)
    _check(x, images)


def test_both_training_loops_count_the_timed_images_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that moves 4 seconds a look, 2 steps of 16 images are 8 a second."""
    clock = SimpleNamespace(perf_counter=count(0, 4).__next__)
    monkeypatch.setattr(training, "time", clock)
    case = training.Case("", "digits-cnn", 16, 2)
    assert training.plain(case) == 8
    assert training.product(case) == 8


def test_the_training_table_by_hand() -> None:
    """Ratios 2, 3 and 2.5, round by round; the medians of the speeds stand beside them."""
    found = {"s1": {"plain loop": [100.0, 100.0, 200.0], "faultlight": [200.0, 300.0, 500.0]}}
    assert training.table(found).splitlines()[-1] == "| S1 (mnist-cnn) | 256 | 100 | 300 | 2.50× | 2.00 – 3.00 |"


def test_the_plain_loop_learns_and_stops_in_time(tmp_path: Path) -> None:
    path = tmp_path / "short.toml"
    path.write_text('name = "short"\ntitle = ""\nmodel = "digits-cnn"\ndata = "digits"\nepochs = 3\nbatch = 32\n')
    points, right = learning.plain(str(path), looks=2, limit=1e9)
    assert len(points) == 2 * 3
    assert points == sorted(points, key=lambda point: point[0])
    assert right > 0.5
    (stopped,), after_a_step = learning.plain(str(path), looks=1, limit=0.0)
    assert stopped[0] > 0
    assert after_a_step < right


def test_time_to_an_accuracy_by_hand(tmp_path: Path) -> None:
    case = learning.Case("a case", "", "", 1, (0.5, 0.9, 0.99))
    found = {
        "faultlight": ([(2.0, 0.6), (4.0, 0.95)], 0.94),
        "plain loop": ([(3.0, 0.4), (6.0, 0.7), (9.0, 0.6)], 0.61),
    }
    rows = learning.table(case, found).splitlines()[2:]
    assert rows == [
        "| 50 % | 2 s | 6 s | 3.0× |",
        "| 90 % | 4 s | never |  |",
        "| 99 % | never | never |  |",
        "| on the test images at the end | 94.00 % after 4 s | 61.00 % after 9 s |  |",
    ]
    learning.picture(case, found, tmp_path / "a.svg")
    drawn = (tmp_path / "a.svg").read_text(encoding="utf-8")
    learning.picture(case, found, tmp_path / "b.svg")
    assert "plain loop" in drawn
    assert drawn == (tmp_path / "b.svg").read_text(encoding="utf-8")


def test_the_training_race_ends_in_its_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    speeds = {"plain loop": 10.0, "faultlight": 25.0}
    monkeypatch.setattr(training, "run_apart", lambda module, order, threads: speeds[order[1]])
    threads = str(torch.get_num_threads())
    monkeypatch.setattr("sys.argv", ["training", "--only", "s1", "--rounds", "2", "--threads", threads])
    training.main()
    said = capsys.readouterr().out
    assert "| S1 (mnist-cnn) | 256 | 10 | 25 | 2.50× | 2.50 – 2.50 |" in said
    assert "2 rounds." in said
