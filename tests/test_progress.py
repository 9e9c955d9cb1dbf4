"""Progress: a line at each tenth without a terminal, a bar with one, and never a control character."""

from __future__ import annotations

import io
import sys

import pytest

from faultlight.progress import Progress, inert


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines_of(captured: pytest.CaptureFixture[str]) -> list[str]:
    return captured.readouterr().err.splitlines()


def test_without_a_terminal_there_is_one_line_a_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("audit", 200) as progress:
        for done in range(1, 201):
            progress.update(done)
    lines = lines_of(capsys)
    assert [line.split()[1] for line in lines] == [f"{done}/200" for done in range(20, 201, 20)]
    assert lines[4].startswith("audit: 100/200 (50 %) after ")


def test_a_jump_over_several_tenths_gives_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("resume", 10) as progress:
        progress.update(7, "3 broken")
        progress.update(7, "3 broken")
    (line,) = lines_of(capsys)
    assert line.startswith("resume: 7/10 (70 %)")
    assert line.endswith(" · 3 broken")


@pytest.mark.parametrize("terminal", [False, True])
def test_what_is_said_stays_on_a_line_of_its_own(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with Progress("train", 10) as progress:
        progress.update(1)
        progress.say("epoch 3 [red]fell[/red]\x1b")
    assert "train: epoch 3 [red]fell[/red]\\x1b\n" in stream.getvalue()


def test_nothing_is_said_quietly(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("train", 10, quiet=True) as progress:
        progress.say("epoch 3 fell")
    assert lines_of(capsys) == []


def test_nothing_to_do_is_no_division_by_zero(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("audit", 0) as progress:
        progress.update(0)
    assert lines_of(capsys) == []


def test_quiet_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("audit", 2, quiet=True) as progress:
        progress.update(2)
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out == ""


def test_a_terminal_gets_a_bar_with_label_and_note(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with Progress("audit", 4) as progress:
        progress.update(4, "3 broken [bold]")
    assert "audit" in screen.getvalue()
    assert "4/4" in screen.getvalue()
    assert "3 broken [bold]" in screen.getvalue()


def test_a_hostile_label_and_note_reach_the_screen_inert(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("a\x1b[2Jb", 1) as progress:
        progress.update(1, "\x1b]0;title\x07")
    (line,) = lines_of(capsys)
    assert line.startswith("a\\x1b[2Jb: 1/1")
    assert line.endswith(" · \\x1b]0;title\\x07")


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("plain ε ≤ 8/255 · 貓", "plain ε ≤ 8/255 · 貓"),
        ("two\nlines\tand a tab\r", "two lines and a tab "),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\x9b31m", "\\x9b31m"),
        ("bell\x07 null\x00 delete\x7f", "bell\\x07 null\\x00 delete\\x7f"),
        ("gnp\u202e.exe", "gnp\\u202e.exe"),
        ("bad\udcffbytes", "bad\\udcffbytes"),
    ],
)
def test_control_characters_are_spelled_out(hostile: str, shown: str) -> None:
    assert inert(hostile) == shown
