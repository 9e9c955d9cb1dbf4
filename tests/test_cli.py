"""The command line: what scripts rest on (verbs, exit codes), and what a user sees when something is wrong."""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest

import faultlight
from faultlight import cli

PROGRAM = "import sys; from faultlight.cli import main; sys.exit(main())"
HEAVY = {
    "torch",
    "numpy",
    "scipy",
    "sklearn",
    "rich",
    "matplotlib",
    "safetensors",
    "jinja2",
    "PIL",
    "pooch",
}
TOY = '''
import errno
import typer
from faultlight.errors import FaultlightError, GateFailed, InputError, Withheld

ERRORS = {
    "input": InputError("the file \\x1b[31mred\\x07.npz is no archive; choose another."),
    "gate": GateFailed("attacked 0.31 is below the gate 0.45."),
    "withheld": Withheld("the verdict was withheld: clean accuracy at chance."),
    "understood": FaultlightError("the engine gave up."),
    "interrupt": KeyboardInterrupt(),
    "abort": typer.Abort(),
    "full": OSError(errno.ENOSPC, "No space left on device", "runs/a\\x1b[0m/ledger.sqlite"),
    "crash": RuntimeError("the \\x1b[2Jimpossible\\nhappened"),
    "exit": typer.Exit(1),
}

def toy(how: str, much: int = typer.Option(1, "--much", help="How much.")) -> None:
    """Do as told. Nothing else.

    A second paragraph.
    """
    if how in ERRORS:
        raise ERRORS[how]
    typer.echo(f"{how} × {much}")
'''
GROUP = '''"""A verb with verbs of its own."""
import typer
app = typer.Typer()

@app.command()
def one() -> None:
    """The first."""
    typer.echo("one")

@app.command()
def two() -> None:
    """The second."""
'''
SLOW = '''
import time

def slow() -> None:
    """Sleep."""
    print("on", flush=True)
    time.sleep(600)
'''


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Verbs of a temporary folder, beside the real ones."""
    (tmp_path / "toy.py").write_text(TOY)
    (tmp_path / "toys.py").write_text(GROUP)
    (tmp_path / "heavy.py").write_text('raise RuntimeError("imported")\n\ndef heavy():\n    """Weigh a lot."""\n')
    (tmp_path / "helper.py").write_text('raise RuntimeError("imported")\n')
    monkeypatch.setattr(cli, "__path__", [*cli.__path__, str(tmp_path)])
    monkeypatch.delenv("FAULTLIGHT_DEBUG", raising=False)
    monkeypatch.setattr(tempfile, "mkdtemp", lambda prefix: mkdtemp(prefix=prefix, dir=tmp_path))
    yield tmp_path
    for name in ("toy", "toys", "heavy"):
        sys.modules.pop(f"faultlight.cli.{name}", None)
        vars(cli).pop(name, None)


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, *words]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)


def help_rows(page: str) -> dict[str, str]:
    """The first line of each verb's row; what is indented further continues the row above."""
    rows = re.findall(r"^  (\S+) +(.+)$", page.partition("Commands:\n")[2], re.MULTILINE)
    return dict(rows)


@pytest.mark.parametrize(
    ("how", "code", "sentence"),
    [
        ("input", 2, "the file \\x1b[31mred\\x07.npz is no archive; choose another."),
        ("gate", 1, "attacked 0.31 is below the gate 0.45."),
        ("withheld", 4, "the verdict was withheld: clean accuracy at chance."),
        ("understood", 3, "the engine gave up."),
        ("interrupt", 130, "interrupted; what was finished is kept."),
        ("abort", 130, "interrupted; what was finished is kept."),
        ("full", 2, "runs/a\\x1b[0m/ledger.sqlite: No space left on device; free some space or choose another folder."),
    ],
)
def test_each_failure_is_one_sentence_and_its_code(
    toys: Path, capfd: pytest.CaptureFixture[str], how: str, code: int, sentence: str
) -> None:
    assert cli.main(["toy", how]) == code
    captured = capfd.readouterr()
    assert captured.err == f"faultlight: {sentence}\n"
    assert captured.out == ""


def test_ctrl_c_at_work_is_code_130(toys: Path) -> None:
    (toys / "slow.py").write_text(SLOW)
    program = (
        f"import sys; from faultlight import cli; cli.__path__.append({str(toys)!r}); sys.exit(cli.main(['slow']))"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "on\n"
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate()
    assert (process.returncode, complaint) == (130, "faultlight: interrupted; what was finished is kept.\n")


def test_work_that_is_done_is_code_0(toys: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["toy", "work", "--much", "3"]) == 0
    assert capfd.readouterr() == ("work × 3\n", "")


def test_a_verb_may_choose_its_exit_code(toys: Path) -> None:
    assert cli.main(["toy", "exit"]) == 1


def test_an_unexpected_error_says_where_its_traceback_is(toys: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["toy", "crash"]) == 3
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("faultlight: an error inside Faultlight: RuntimeError: the \\x1b[2Jimpossible happened; ")
    (path,) = toys.glob("faultlight-*/traceback.txt")
    assert line.endswith(f"its traceback is in {path}, please report it.")
    kept = path.read_text()
    assert "RuntimeError: the \\x1b[2Jimpossible" in kept
    assert "in toy" in kept
    assert "\x1b" not in kept


@pytest.mark.parametrize(("before", "variable"), [(["--debug"], ""), ([], "1")])
def test_debug_shows_the_traceback(
    toys: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, before: list[str], variable: str
) -> None:
    monkeypatch.setenv("FAULTLIGHT_DEBUG", variable)
    assert cli.main([*before, "toy", "crash"]) == 3
    shown = capfd.readouterr().err
    assert shown.startswith("Traceback (most recent call last):\n")
    assert "in toy" in shown
    assert shown.endswith("its traceback is above.\n")
    assert "\x1b" not in shown
    assert not list(toys.glob("faultlight-*"))


def test_when_no_traceback_can_be_kept_the_error_is_still_said(
    toys: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "mkdtemp", lambda prefix: mkdtemp(prefix=prefix, dir=toys / "absent"))
    assert cli.main(["toy", "crash"]) == 3
    assert "impossible happened; its traceback could not be written;" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["heavvy", "x"], "No such command 'heavvy'. Did you mean 'heavy'? (see faultlight --help)"),
        (["doctr"], "No such command 'doctr'. Did you mean 'doctor'? (see faultlight --help)"),
        (["\x1b[31m"], "No such command '\\x1b[31m'. (see faultlight --help)"),
        (["toy"], "Missing argument 'how'. (see faultlight toy --help)"),
        (["toy", "x", "--mch", "2"], "No such option: --mch (Possible options: --much) (see faultlight toy --help)"),
        (["toys"], "Missing command. (see faultlight toys --help)"),
        (["toys", "tow"], "No such command 'tow'. Did you mean 'two'? (see faultlight toys --help)"),
    ],
)
def test_bad_usage_is_code_2_with_a_suggestion(
    toys: Path, capfd: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    assert cli.main(words) == 2
    captured = capfd.readouterr()
    assert captured.err == f"faultlight: {sentence}\n"
    assert captured.out == ""


def test_a_word_that_is_no_number_is_code_2(toys: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["toy", "x", "--much", "\x1bm"]) == 2
    message = capfd.readouterr().err
    assert "'--much'" in message
    assert "integer" in message
    assert "\x1b" not in message


def test_help_lists_the_verbs_of_the_folder_without_importing_them(
    toys: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["--help"]) == 0
    rows = help_rows(capfd.readouterr().out)
    assert rows["toy"] == "Do as told."
    assert rows["toys"] == "A verb with verbs of its own."
    assert rows["heavy"] == "Weigh a lot."
    assert "helper" not in rows
    assert list(rows) == [verb.name for verb in cli.verbs()]
    assert "faultlight.cli.toy" not in sys.modules


def test_a_broken_verb_breaks_only_itself(toys: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["heavy"]) == 3
    assert "RuntimeError: imported" in capfd.readouterr().err
    assert cli.main(["toys", "one"]) == 0
    assert capfd.readouterr().out == "one\n"


def test_no_word_at_all_shows_the_help(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    bare = capfd.readouterr().out
    assert cli.main(["--help"]) == 0
    assert bare == capfd.readouterr().out


def test_the_version_is_the_package_s(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capfd.readouterr().out == f"faultlight {faultlight.__version__}\n"


def test_every_file_of_the_folder_is_a_verb_with_a_summary() -> None:
    found = {verb.name: verb.doc for verb in cli.verbs()}
    assert set(found) == {path.stem for path in Path(cli.__file__).parent.glob("[!_]*.py")}
    assert all(found.values()), found


@pytest.mark.parametrize("verb", [verb.name for verb in cli.verbs()])
def test_the_help_of_a_verb_loads_nothing_heavy(verb: str) -> None:
    program = f"""
import sys
from faultlight.cli import main
code = main([{verb!r}, "--help"])
print(sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)
sys.exit(code)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, ast.literal_eval(done.stderr)) == (0, [])
    assert done.stdout.startswith(f"Usage: faultlight {verb}")


def test_the_package_and_the_help_page_load_nothing_heavy() -> None:
    program = f"""
import sys
import faultlight
from faultlight.cli import main
main(["--help"])
print(sorted({HEAVY | {"pydantic"}!r} & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ast.literal_eval(done.stderr) == []


def test_the_installed_command_is_this_one() -> None:
    script = Path(sys.executable).with_name("faultlight")
    if not script.exists():
        pytest.skip(f"{script} is not there: the package was not installed as a command")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"faultlight {faultlight.__version__}\n"


def test_a_reader_that_goes_away_is_no_error_to_speak_of() -> None:
    command = [sys.executable, "-c", PROGRAM, "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        complaint = process.stderr.read()
    assert (process.returncode, complaint) == (141, "")


def test_a_terminal_without_greek_gets_it_spelled_out() -> None:
    program = "import sys\nfrom faultlight import cli\nprint_it = cli.main(['--version'])\nprint('ε')"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[1] == "\\u03b5"


@pytest.mark.parametrize(("line", "completion"), [("faultlight doct", "doctor"), ("faultlight doctor --js", "--json")])
def test_the_shell_completes_verbs_and_options(line: str, completion: str) -> None:
    words = line.split()
    done = run(_FAULTLIGHT_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=str(len(words) - 1))
    assert done.stdout.split() == [completion]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_calls_the_command(shell: str) -> None:
    done = run(_FAULTLIGHT_COMPLETE=f"source_{shell}")
    assert "_FAULTLIGHT_COMPLETE=complete_" in done.stdout
    page = run("--help").stdout
    assert "--install-completion" in page
    assert "--show-completion" in page


def test_the_doctor_tells_what_there_is(tmp_path: Path) -> None:
    done = run("doctor", "--json", FAULTLIGHT_DATA=str(tmp_path), XDG_CACHE_HOME=str(tmp_path))
    facts = json.loads(done.stdout)
    assert done.returncode == 0
    assert facts["faultlight"] == faultlight.__version__
    assert facts["device"][0] == "cpu"
    assert facts["data"]["FAULTLIGHT_DATA"] == str(tmp_path)
    assert facts["data"]["digits"] == "embedded"
    assert facts["data"]["mnist"] == "absent"
    assert facts["disk"]["free GiB"] > 0
    assert set(facts["bfloat16"]) == {"amx", "avx512"}


def test_the_doctor_finds_real_data(real_data: Path) -> None:
    facts = json.loads(run("doctor", "--json", FAULTLIGHT_DATA=str(real_data)).stdout)
    for name in ("mnist", "cifar10"):
        assert Path(facts["data"][name]).is_relative_to(real_data)


def test_the_doctor_s_page_says_the_same(tmp_path: Path) -> None:
    hostile = tmp_path / "a\x1b[31mb"
    hostile.mkdir()
    page = run("doctor", FAULTLIGHT_DATA=str(hostile)).stdout
    facts = json.loads(run("doctor", "--json", FAULTLIGHT_DATA=str(hostile)).stdout)
    lines = dict(line.split(maxsplit=1) for line in page.splitlines())
    assert list(lines) == list(facts)
    assert lines["torch"] == facts["torch"]
    assert "a\\x1b[31mb" in lines["data"]
    assert "\x1b" not in page
