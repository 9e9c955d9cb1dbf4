"""Progress of long work, on standard error: a bar on a terminal, a plain line at each tenth elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as RichBar
    from rich.progress import TaskID

_LINES = 10


def inert(text: str) -> str:
    """Return `text` with every control character spelled out, so that no name can steer a terminal.

    A tab or newline becomes a space, and escape becomes the four characters `\\x1b`; the invisible marks that reverse
    the reading direction are spelled out too.
    """
    return "".join(_inert_character(character) for character in text)


class Progress:
    """The progress of one piece of work, as a context manager.

    Args:
        label: what is being done, a few words.
        total: number of units (images, steps, bytes) in the whole; at least 0.
        quiet: show nothing at all.
    """

    def __init__(self, label: str, total: int, quiet: bool = False) -> None:
        self.label = inert(label)
        self.total = total
        self.quiet = quiet
        self._bar: RichBar | None = None
        self._task: TaskID | None = None
        self._tenth = 0
        self._began = 0.0

    def __enter__(self) -> Progress:
        self._began = time.monotonic()
        if not self.quiet and sys.stderr.isatty():
            self._bar, self._task = _start_bar(self.label, self.total)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: int, note: str = "") -> None:
        """Show that `done` of `total` units are finished, with a short note (a loss, a count of broken images)."""
        if self.quiet:
            return
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, note=inert(note))
            return
        tenth = done * _LINES // max(self.total, 1)
        if tenth > self._tenth:
            self._tenth = tenth
            self._line(done, note)

    def say(self, text: str) -> None:
        """Write a line that stays: something happened that the reader must know."""
        if self.quiet:
            return
        line = inert(f"{self.label}: {text}")
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
            return
        sys.stderr.write(line + "\n")
        sys.stderr.flush()

    def _line(self, done: int, note: str) -> None:
        seconds = time.monotonic() - self._began
        text = f"{self.label}: {done}/{self.total} ({100 * done // max(self.total, 1)} %) after {seconds:.0f} s"
        sys.stderr.write(f"{text}{' · ' if note else ''}{inert(note)}\n")
        sys.stderr.flush()


def _start_bar(label: str, total: int) -> tuple[RichBar, TaskID]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichBar

    name = TextColumn("{task.description}", markup=False)
    note = TextColumn("{task.fields[note]}", style="dim", markup=False)
    bar = RichBar(name, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), note, console=Console(stderr=True))
    bar.start()
    return bar, bar.add_task(label, total=total, note="")


def _inert_character(character: str) -> str:
    if character in "\t\n\r":
        return " "
    return character if character.isprintable() else character.encode("unicode_escape").decode()
