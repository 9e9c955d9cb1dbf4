"""The `faultlight` command: one file a verb in this folder, each a function (or a `typer` app) named after its file.

Only the verb that is asked for is imported. The summaries of all others are read from their source, so `--help` is
quick however much a verb needs.
"""

from __future__ import annotations

import ast
import errno
import importlib
import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from faultlight import __version__
from faultlight.errors import ExitCode, FaultlightError
from faultlight.progress import inert
from faultlight.runtime import keep_allocator

# The order of the help page is that of the work; verbs that other files add follow by name.
_ORDER = (
    "audit",
    "train",
    "attack",
    "view",
    "study",
    "defend",
    "compare",
    "report",
    "runs",
    "recipes",
    "data",
    "doctor",
)
_BROKEN_PIPE = 141  # what a shell reports of any program whose reader went away: 128 + SIGPIPE
# The machine or its owner said no, so the sentence is the user's to act on and no traceback would help.
_REFUSED = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


@dataclass(frozen=True)
class Verb:
    """One file of the folder: the verb's name, its docstring, and whether it has verbs of its own."""

    name: str
    doc: str
    group: bool

    @property
    def summary(self) -> str:
        """The first sentence of the docstring, whole: typer would cut it to what fits one line."""
        return " ".join(self.doc.partition("\n\n")[0].split()).partition(". ")[0].rstrip(".") + "."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    _spell_what_a_terminal_cannot_show()
    _share_the_cores()
    try:
        code = _run(words)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        return _leave_quietly()
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except typer.TyperException as error:
        return _say(error, f"{error.format_message()} (see {_command(error)} --help)", ExitCode.BAD_INPUT)
    except FaultlightError as error:
        return _say(error, str(error), error.exit_code)
    except Exception as error:
        return _unexpected(error)


def verbs() -> list[Verb]:
    """Return the verbs whose files stand in this folder, in the order of the help page."""
    files = sorted(path for folder in __path__ for path in Path(folder).glob("[!_]*.py"))
    found = {path.stem: verb for path in files if (verb := _read(path))}
    known = [name for name in _ORDER if name in found]
    return [found[name] for name in [*known, *(name for name in found if name not in known)]]


def build(words: Sequence[str]) -> typer.Typer:
    """Return the application, with those verbs imported that occur among the words of the command line."""
    app = typer.Typer(
        help="Finds where an image classifier breaks, shows why, and mends it.",
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.callback()(_root)
    for verb in verbs():
        _add(app, verb, verb.name in words)
    return app


def _print_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"faultlight {__version__}")
        raise typer.Exit
    return False


def _root(
    version: bool = typer.Option(
        False, "--version", is_eager=True, callback=_print_version, help="Print the version and stop."
    ),
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error; so does FAULTLIGHT_DEBUG=1."),
) -> None:
    del version  # its callback has printed it
    if debug:
        os.environ["FAULTLIGHT_DEBUG"] = "1"
    # Here and not in the library: the memory of somebody else's program is not ours to hold on to.
    keep_allocator()


def _run(words: list[str]) -> int:
    completing = f"{os.environ.get('COMP_WORDS', '')} {os.environ.get('_TYPER_COMPLETE_ARGS', '')}".split()
    command = typer.main.get_command(build([*words, *completing]))
    try:
        code = command.main(words or ["--help"], prog_name="faultlight", standalone_mode=False)
    except SystemExit as stop:
        # typer ends the process itself on a broken pipe, with the code that here means "gate failed".
        if isinstance(stop.__context__, BrokenPipeError):
            raise stop.__context__ from None
        raise
    if code == ExitCode.INTERRUPTED:
        return _interrupted()
    return code if isinstance(code, int) else ExitCode.DONE


def _read(path: Path) -> Verb | None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == path.stem:
            return Verb(path.stem, ast.get_docstring(node) or "", group=False)
    targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    if any(isinstance(target, ast.Name) and target.id == "app" for target in targets):
        return Verb(path.stem, ast.get_docstring(tree) or "", group=True)
    return None


def _add(app: typer.Typer, verb: Verb, wanted: bool) -> None:
    if not wanted:
        app.command(verb.name, short_help=verb.summary)(_not_imported)
        return
    module = importlib.import_module(f"{__name__}.{verb.name}")
    if verb.group:
        app.add_typer(module.app, name=verb.name, help=verb.doc, short_help=verb.summary, no_args_is_help=False)
    else:
        app.command(verb.name, short_help=verb.summary)(getattr(module, verb.name))


def _not_imported() -> None:
    raise AssertionError("a verb was reached that the command line did not name")


def _say(error: BaseException, sentence: str, code: int) -> int:
    if os.environ.get("FAULTLIGHT_DEBUG"):
        sys.stderr.write(_traceback(error))
    sys.stderr.write(f"faultlight: {inert(sentence)}\n")
    return int(code)


def _interrupted() -> int:
    sys.stderr.write("faultlight: interrupted; what was finished is kept.\n")
    return ExitCode.INTERRUPTED


def _unexpected(error: Exception) -> int:
    if isinstance(error, OSError) and error.errno in _REFUSED:
        where = f"{error.filename}: " if error.filename else ""
        return _say(error, f"{where}{error.strerror}; free some space or choose another folder.", ExitCode.BAD_INPUT)
    what = f"an error inside Faultlight: {type(error).__name__}: {error}"
    return _say(error, f"{what}; {_keep_traceback(error)}.", ExitCode.INTERNAL)


def _keep_traceback(error: Exception) -> str:
    import tempfile

    from faultlight.files import write_text

    if os.environ.get("FAULTLIGHT_DEBUG"):
        return "its traceback is above"
    try:
        path = Path(tempfile.mkdtemp(prefix="faultlight-")) / "traceback.txt"
        write_text(path, _traceback(error))
    except (OSError, FaultlightError):
        return "its traceback could not be written; run again with FAULTLIGHT_DEBUG=1 to see it"
    return f"its traceback is in {path}, please report it"


def _traceback(error: BaseException) -> str:
    import traceback

    lines = "".join(traceback.format_exception(error)).splitlines()
    return "".join(f"{inert(line)}\n" for line in lines)


def _command(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    return context.command_path if context else "faultlight"


def _leave_quietly() -> int:
    # The interpreter flushes once more at its end; into the closed pipe that would print a complaint.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return _BROKEN_PIPE


def _share_the_cores() -> None:
    """Have libgomp's threads sleep soon at a barrier, in place of spinning for milliseconds.

    On a busy machine the spinning costs more than the work. It must be said before torch is loaded, and what the user
    has set comes first.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def _spell_what_a_terminal_cannot_show() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
