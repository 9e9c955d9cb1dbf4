"""What can go wrong, and the exit code that says so.

Every message is one sentence for the user: what was wrong, the value found, what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of the `faultlight` command, fixed from the first release on."""

    DONE = 0
    GATE_FAILED = 1
    BAD_INPUT = 2
    INTERNAL = 3
    WITHHELD = 4
    INTERRUPTED = 130


class FaultlightError(Exception):
    """A failure that Faultlight understands; its text is the sentence shown to the user."""

    exit_code = ExitCode.INTERNAL


class InputError(FaultlightError, ValueError):
    """The user's input or usage is at fault: exit code 2, no traceback, nothing written over."""

    exit_code = ExitCode.BAD_INPUT


class GateFailed(FaultlightError):
    """A `--gate` condition was measured and does not hold: exit code 1."""

    exit_code = ExitCode.GATE_FAILED


class Withheld(FaultlightError):
    """A `--gate` was asked of a verdict that had to be withheld: exit code 4."""

    exit_code = ExitCode.WITHHELD


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a clause naming the known words, the nearest first: "did you mean 'pgd'? (known: …)"."""
    words = sorted(known)
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known: {', '.join(words)}"
