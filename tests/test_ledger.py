"""The ledger: what goes in comes out, once; what does not belong together is refused; damage is found and named."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from faultlight.errors import InputError
from faultlight.evaluation._sqlite import SCHEMA, condition
from faultlight.evaluation.ledger import Ledger, create_ledger, read_ledger, resume_ledger
from faultlight.evaluation.rows import Attempt, Finding, ImageRow, Outcome, Proof, Status, record_of

FINGERPRINT = {"version": "0.1.0", "model": "a" * 64, "data": "b" * 64, "threat": "linf:0.1", "seed": 0, "n": 3}
ROWS = [
    ImageRow(7, 1, 1, Status.STANDING, clean_margin=-2.5, forwards=1),
    ImageRow(3, 0, 2, Status.MISCLASSIFIED, clean_margin=0.125, forwards=1),
    ImageRow(9, 2, 2, Status.STANDING, clean_margin=-0.5, forwards=1),
    ImageRow(4, 2, 0, Status.INVALID, forwards=1),
]
STOOD = Attempt(7, "pgd", "linf:0.1", 0, -1, Outcome.STOOD, -1.5, None, None, False, 40, 41, 40, 2)
BROKE = Attempt(7, "pgd", "linf:0.1", 1, -1, Outcome.BROKE, 0.75, 0.0999, 3, True, 12, 13, 12, 0)
PIXELS = bytes(range(16))
Opener = Callable[[Path, dict[str, Any]], Ledger]


def reader(path: Path, _: dict[str, Any]) -> Ledger:
    return read_ledger(path)


opening = pytest.mark.parametrize("opened", [resume_ledger, reader])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "ledger.sqlite"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with closing(create_ledger(path, FINGERPRINT)) as made:
        made.add_images(ROWS)
        yield made


def image(ledger: Ledger, identity: int) -> ImageRow:
    return next(row for row in ledger.images() if row.id == identity)


def test_images_come_back_as_they_went_in_by_id(ledger: Ledger) -> None:
    assert ledger.images() == sorted(ROWS, key=lambda row: row.id)
    ledger.add_images([replace(ROWS[0], label=2)])
    assert ledger.images() == sorted(ROWS, key=lambda row: row.id), "an image is added once"


def test_attempts_come_back_as_they_went_in(ledger: Ledger) -> None:
    other = replace(STOOD, id=9, probe="fgsm")
    ledger.record([BROKE, STOOD, other], [PIXELS, None, None], audited=True)
    assert ledger.attempts() == [STOOD, BROKE, other]
    assert ledger.attempts("fgsm") == [other]
    assert ledger.attempts("none") == []


def test_rows_are_records_of_plain_values(ledger: Ledger) -> None:
    record = record_of(ledger.images()[0])
    assert record["id"] == 3
    assert record["status"] == "misclassified"
    assert type(record["broken"]) is bool


def test_a_break_is_written_into_its_image(ledger: Ledger) -> None:
    ledger.record([STOOD], [None], audited=True)
    assert image(ledger, 7) == replace(ROWS[0], margin=-1.5)
    ledger.record([BROKE], [PIXELS], audited=True)
    expected = replace(
        ROWS[0],
        status=Status.BROKEN,
        broken=True,
        broken_by="pgd",
        distance=0.0999,
        margin=0.75,
        fragile=True,
        twin_prediction=3,
    )
    assert image(ledger, 7) == expected
    assert ledger.twins() == [(7, PIXELS)]


def test_an_image_is_broken_once(ledger: Ledger) -> None:
    """A second break, or a later attempt that fails, leaves image and twin as they are."""
    ledger.record([BROKE], [PIXELS], audited=True)
    before = image(ledger, 7)
    again = replace(BROKE, probe="other", margin=9.0, distance=0.01)
    late = replace(STOOD, probe="late", margin=-0.1)
    nan = replace(STOOD, probe="nan", margin=None, outcome=Outcome.INVALID)
    ledger.record([again, late, nan], [b"x" * 16, None, None], audited=True)
    assert image(ledger, 7) == before
    assert ledger.twins() == [(7, PIXELS)]
    assert len(ledger.attempts()) == 4


def test_the_margin_of_an_image_is_the_largest_seen(ledger: Ledger) -> None:
    for probe, margin in (("a", -2.0), ("b", -0.25), ("c", None), ("d", -1.0)):
        ledger.record([replace(STOOD, probe=probe, margin=margin)], [None], audited=True)
    assert image(ledger, 7).margin == -0.25


def test_the_curves_attempts_leave_images_alone(ledger: Ledger) -> None:
    ledger.record([replace(BROKE, threat="linf:0.5")], [PIXELS], audited=False)
    assert image(ledger, 7) == ROWS[0]
    assert ledger.twins() == []
    assert len(ledger.attempts()) == 1


def test_an_attempt_that_met_nan_makes_its_image_invalid(ledger: Ledger) -> None:
    ledger.record([replace(STOOD, outcome=Outcome.INVALID, margin=None)], [None], audited=True)
    assert image(ledger, 7).status == Status.INVALID
    assert image(ledger, 9).status == Status.STANDING


def test_an_attempt_is_recorded_once(ledger: Ledger) -> None:
    """A job that was in flight when the process was killed is run again, with the same outcome."""
    ledger.record([STOOD], [None], audited=True)
    ledger.record([STOOD], [None], audited=True)
    assert ledger.attempts() == [STOOD]


def test_a_break_and_its_proof_are_one_transaction(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="zip"):
        ledger.record([BROKE, STOOD], [PIXELS], audited=True)
    assert ledger.attempts() == []
    assert ledger.twins() == []
    assert not image(ledger, 7).broken


def test_passes_of_all_attempts_are_summed(ledger: Ledger) -> None:
    ledger.record([STOOD, BROKE], [None, PIXELS], audited=True)
    ledger.record([replace(STOOD, probe="curve", threat="linf:0.5")], [None], audited=False)
    for _ in range(2):  # counting twice changes nothing
        ledger.count_passes()
        row = image(ledger, 7)
        assert (row.forwards, row.backwards) == (1 + 41 + 13 + 41, 40 + 12 + 40)
        assert (image(ledger, 9).forwards, image(ledger, 9).backwards) == (1, 0)


def test_findings_are_replaced_whole(ledger: Ledger) -> None:
    first, second = Finding("b", "warning", "seen"), Finding("a", "info", "also seen")
    ledger.replace_findings([first, second])
    assert ledger.findings() == [second, first]
    ledger.replace_findings([first])
    assert ledger.findings() == [first]


def test_notes_are_kept_beside_the_fingerprint(ledger: Ledger, path: Path) -> None:
    ledger.note("chosen", [1, 2])
    ledger.note("chosen", {"größe": None})
    ledger.close()
    with closing(read_ledger(path)) as again:
        assert again.meta() == {"schema": SCHEMA, **FINGERPRINT, "chosen": {"größe": None}}


def test_a_closed_ledger_is_one_file_and_reads_the_same(ledger: Ledger, path: Path) -> None:
    ledger.record([STOOD, BROKE], [None, PIXELS], audited=True)
    images, attempts = ledger.images(), ledger.attempts()
    ledger.close()
    assert [file.name for file in path.parent.iterdir()] == ["ledger.sqlite"]
    with closing(read_ledger(path)) as again:
        assert (again.images(), again.attempts(), again.twins()) == (images, attempts, [(7, PIXELS)])


def test_a_ledger_that_is_read_cannot_be_written(ledger: Ledger, path: Path) -> None:
    ledger.close()
    with closing(read_ledger(path)) as again, pytest.raises(InputError, match="could not be written"):
        again.note("a", 1)


def test_a_second_ledger_in_the_folder_is_refused(ledger: Ledger, path: Path) -> None:
    with pytest.raises(InputError, match=r"holds a run already; continue it with --resume or choose another --out"):
        create_ledger(path, FINGERPRINT)
    assert ledger.images() == sorted(ROWS, key=lambda row: row.id)


def test_resuming_goes_on_with_what_is_there(ledger: Ledger, path: Path) -> None:
    ledger.record([STOOD], [None], audited=True)
    ledger.note("attacked", True)
    ledger.close()
    with closing(resume_ledger(path, FINGERPRINT)) as resumed:
        assert resumed.attempts() == [STOOD]
        resumed.record([BROKE], [PIXELS], audited=True)
    with closing(read_ledger(path)) as again:
        assert again.attempts() == [STOOD, BROKE]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"threat": "linf:0.2"}, r'threat was "linf:0.1" and is now "linf:0.2"'),
        ({"seed": 5}, "seed was 0 and is now 5"),
        ({"model": "c" * 64}, 'model was "aaaaaaaaaaa….* and is now "ccccccccccc….*'),
        ({"version": "0.2.0", "n": 9}, 'version was "0.1.0" and is now "0.2.0"; n was 3 and is now 9'),
        ({"effort": "exact"}, 'effort was null and is now "exact"'),
    ],
)
def test_resuming_another_run_shows_the_difference(
    ledger: Ledger, path: Path, changed: dict[str, object], said: str
) -> None:
    ledger.close()
    before = path.read_bytes()
    with pytest.raises(InputError, match=said):
        resume_ledger(path, {**FINGERPRINT, **changed})
    assert path.read_bytes()[100:] == before[100:], "past the file header, which counts how often it was opened"
    read_ledger(path).close()


@opening
def test_a_newer_schema_is_refused(ledger: Ledger, path: Path, opened: Opener) -> None:
    ledger.note("schema", SCHEMA + 1)
    ledger.close()
    with pytest.raises(InputError, match=f"schema {SCHEMA + 1}, newer than {SCHEMA}"):
        opened(path, FINGERPRINT)


def test_proofs_come_back_as_they_went_in_by_id(ledger: Ledger, path: Path) -> None:
    assert ledger.proofs() == []
    proofs = [Proof(9, "crown", 0.25), Proof(7, "", -1.5)]
    ledger.record_proofs(proofs)
    ledger.close()
    with closing(read_ledger(path)) as again:
        assert again.proofs() == proofs[::-1]
        assert [proof.holds for proof in again.proofs()] == [False, True]


@pytest.fixture
def older(ledger: Ledger, path: Path) -> Path:
    """A ledger as schema 1 wrote it."""
    ledger.record([STOOD], [None], audited=True)
    ledger.close()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP TABLE proofs")
        connection.execute("UPDATE meta SET value = '1' WHERE key = 'schema'")
    return path


def test_a_ledger_of_the_first_schema_is_read(older: Path) -> None:
    with closing(read_ledger(older)) as again:
        assert again.attempts() == [STOOD]
        assert again.proofs() == []
        assert again.meta()["schema"] == 1


def test_a_ledger_of_the_first_schema_is_gone_on_with(older: Path) -> None:
    with closing(resume_ledger(older, {**FINGERPRINT, "cross_check": False})) as again:
        assert again.meta()["schema"] == SCHEMA
        again.record_proofs([Proof(7, "crown", 0.25)])
        assert again.attempts() == [STOOD]
    with closing(resume_ledger(older, FINGERPRINT)) as again:
        assert again.proofs() == [Proof(7, "crown", 0.25)]


def test_what_the_first_schema_did_not_do_is_another_audit(older: Path) -> None:
    with pytest.raises(InputError, match=r"cross_check was .* and is now true"):
        resume_ledger(older, {**FINGERPRINT, "cross_check": True})
    with closing(read_ledger(older)) as again:
        assert again.meta()["schema"] == 1, "a refused ledger stays as it was"


def test_a_missing_ledger_is_named(path: Path) -> None:
    with pytest.raises(InputError, match=r"is not there; is .* the folder of an audit"):
        read_ledger(path)


def full(path: Path) -> None:
    """A ledger of many pages."""
    made = create_ledger(path, FINGERPRINT)
    made.add_images(replace(ROWS[0], id=i) for i in range(300))
    for start in range(0, 300, 50):
        some = [replace(BROKE, id=i) for i in range(start, start + 50)]
        made.record(some, [bytes(256)] * 50, audited=True)
    made.replace_findings([Finding(f"check {i}", "info", "seen") for i in range(20)])
    made.close()


def test_a_large_ledger_is_opened_at_once(path: Path) -> None:
    """300 × 300 × 300 × 20 rows would be joined by a check that looks at all tables in one question."""
    full(path)
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    with closing(sqlite3.connect(path)) as connection:
        connection.set_progress_handler(count, 10_000)
        assert condition(connection) == "ok"
    assert steps < 50  # half a million of SQLite's instructions


WAY_ON = r"images and attempts are lost\. Move ledger\.sqlite away and run the same command without --resume"


@opening
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9])
def test_pages_overwritten_in_the_middle_are_found(path: Path, share: float, opened: Opener) -> None:
    full(path)
    content = bytearray(path.read_bytes())
    start = int(share * len(content)) // 4096 * 4096
    content[start : start + 4096] = b"\xa5" * 4096
    path.write_bytes(bytes(content))
    with pytest.raises(InputError, match=rf"damaged .*{WAY_ON}"):
        opened(path, FINGERPRINT)
    assert path.read_bytes()[4096:] == bytes(content)[4096:], "left as it was, for whoever can save something"


@opening
@pytest.mark.parametrize("left", [0.5, 0.97])
def test_a_truncated_ledger_is_found(path: Path, left: float, opened: Opener) -> None:
    full(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(left * len(content))])
    with pytest.raises(InputError, match=rf"damaged .*{WAY_ON}"):
        opened(path, FINGERPRINT)


@opening
@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"\0" * 5000], ids=["empty", "a page", "zeros"])
def test_what_is_no_ledger_is_found(path: Path, content: bytes, opened: Opener) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"Move ledger\.sqlite away"):
        opened(path, FINGERPRINT)


def test_damaged_notes_are_found(ledger: Ledger, path: Path) -> None:
    ledger.close()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE meta SET value = '{' WHERE key = 'seed'")
    with pytest.raises(InputError, match=WAY_ON):
        read_ledger(path)


def test_a_full_disk_is_the_users_to_solve(ledger: Ledger) -> None:
    """SQLite is told that no page may be added; what was there stays."""
    ledger._connection.execute("PRAGMA max_page_count = 1")
    with pytest.raises(InputError, match=r"could not be written .*full.*; free some space and run again with --resume"):
        ledger.record([replace(BROKE, id=i) for i in (7, 9)], [bytes(20_000)] * 2, audited=True)
    assert ledger.attempts() == []
    assert ledger.images() == sorted(ROWS, key=lambda row: row.id)


def test_a_folder_that_cannot_be_made_is_the_users_to_solve(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="could not be written"):
        create_ledger(tmp_path / "file" / "ledger.sqlite", FINGERPRINT)


def test_a_ledger_is_whole_or_not_there(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever stops its making leaves no file that a resumed run would take for a ledger."""

    def stopped(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr("faultlight.evaluation.ledger.lay_out", stopped)
    with pytest.raises(InputError, match="disk I/O error"):
        create_ledger(path, FINGERPRINT)
    assert list(path.parent.iterdir()) == []


def test_the_log_of_a_ledger_that_was_moved_away_is_not_played_into_the_new_one(path: Path) -> None:
    """As the message on a damaged ledger advises: the killed run's write-ahead log stays behind."""
    program = f"""
        import os, signal
        from pathlib import Path
        from faultlight.evaluation.ledger import create_ledger
        from faultlight.evaluation.rows import ImageRow
        made = create_ledger(Path({str(path)!r}), {FINGERPRINT!r})
        made.add_images(ImageRow(i, 0, 0, "standing") for i in range(100))
        os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert path.with_name("ledger.sqlite-wal").stat().st_size > 0
    path.rename(path.with_name("damaged"))
    with closing(create_ledger(path, {**FINGERPRINT, "seed": 1})) as fresh:
        assert fresh.images() == []
        assert fresh.meta()["seed"] == 1
    with closing(read_ledger(path)) as again:
        assert again.images() == []


def test_what_a_killed_process_recorded_is_kept(path: Path) -> None:
    program = f"""
        import os, signal
        from pathlib import Path
        from faultlight.evaluation.ledger import create_ledger
        from faultlight.evaluation.rows import ImageRow
        made = create_ledger(Path({str(path)!r}), {FINGERPRINT!r})
        for i in range(50):
            made.add_images([ImageRow(i, 0, 0, "standing")])
        os.kill(os.getpid(), signal.SIGKILL)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False)
    for opened in (read_ledger(path), resume_ledger(path, FINGERPRINT)):
        with closing(opened) as ledger:
            assert [row.id for row in ledger.images()] == list(range(50))


def test_the_seconds_of_all_sittings_add_up_though_each_is_killed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    first = create_ledger(path, FINGERPRINT)
    first.count_from(98.0)
    now = 105.0
    first.add_images(ROWS)
    # Nothing of the three seconds before the kill is known; they are what a kill costs.
    now = 108.0
    first._connection.close()
    now = 5000.0
    second = resume_ledger(path, FINGERPRINT)
    second.count_from(4999.0)
    now = 5003.0
    assert second.seconds() == 7.0 + 4.0
    assert second.meta()["seconds"] == 11.0
    second.close()


def test_a_ledger_that_is_not_told_when_it_began_keeps_no_seconds(path: Path) -> None:
    opened = create_ledger(path, FINGERPRINT)
    opened.add_images(ROWS)
    assert "seconds" not in opened.meta()
    assert opened.seconds() == 0.0
    opened.close()
