"""The table of many runs, from folders made by hand: figures, spreads, damage, and names that must stay inert."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from faultlight.cli import main
from faultlight.errors import InputError
from faultlight.files import write_json, write_text
from faultlight.report import results_table as table
from faultlight.report.results import Result, group, spread
from faultlight.report.results_reading import read_result, read_results

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def trained(folder: Path, seed: int = 0, test: float = 0.9, **changes: Any) -> Path:
    """Write what a training run leaves; `changes` are of the recipe."""
    recipe = {"name": "digits-cnn", "model": "digits-cnn", "data": "digits", "seed": seed, "epochs": 2} | changes
    asked = {"schema": 1, "verb": "train", "recipe": recipe, "data": {"test": "abc"}, "numerics": {"threads": seed}}
    write_text(folder / "run.toml", tomli_w.dumps(asked))
    record = {
        "schema": 1,
        "epochs": [{"epoch": 1, "train_loss": 1.0}, {"epoch": 2, "train_loss": 0.5}],
        "best_epoch": 2,
        "validation_accuracy": test - 0.01,
        "test_accuracy": test,
        "test_count": 1000,
        "seconds": 3.5,
        "met": test >= 0.9,
        "robust_target": {"threat": "linf:0.3", "by": "pgd", "steps": 20, "accuracy": 0.25, "at_least": 0.2},
    }
    write_json(folder / "records/training.json", record)
    write_json(folder / "stamp.json", {"git": {"commit": "c" * 40, "dirty": True}, "device": {"name": "a chip"}})
    return folder


def audited(folder: Path, model: str, seed: int = 0, attacked: float = 0.4) -> Path:
    asked = {"model": {"spec": model}, "data": {"name": "digits"}, "audit": {"threat": "linf:0.1", "seed": seed}}
    write_text(folder / "run.toml", tomli_w.dumps(asked))
    rate = {"low": 0.0, "high": 1.0, "count": 1}
    verdict = {
        "schema": 1, "status": "sound", "complete": True, "n": 40, "threat": "linf:0.1", "effort": "quick",
        "data": {"name": "digits"}, "model": {"name": "digits-cnn"}, "cost": {"seconds": 7.0},
        "clean": {"value": 0.9, **rate}, "attacked": {"value": attacked, **rate}, "certified": None,
    }  # fmt: skip
    write_json(folder / "verdict.json", verdict)
    return folder


def test_the_deviation_is_the_sample_s() -> None:
    found = spread([2, 4, 4, 4, 5, 5, 7, 9])
    assert (found.mean, found.n) == (5, 8)
    assert found.deviation == pytest.approx(math.sqrt(32 / 7), rel=1e-12)


def test_a_training_run_and_an_audit_are_rows(tmp_path: Path) -> None:
    run = read_result(trained(tmp_path / "a", seed=3))
    assert (run.state, run.recipe, run.data, run.model, run.seed) == ("finished", "digits-cnn", "digits", run.recipe, 3)
    assert (run.epochs, run.best_epoch, run.validation, run.test, run.count) == (2, 2, 0.89, 0.9, 1000)
    assert (run.robust, run.threat, run.met, run.seconds) == (0.25, "pgd-20 linf:0.3", True, 3.5)
    assert (run.commit, run.dirty, run.device) == ("c" * 40, True, "a chip")
    audit = read_result(audited(tmp_path / "b", str(tmp_path / "a")))
    assert (audit.kind, audit.recipe, audit.test, audit.robust) == ("audit", "digits-cnn", 0.9, 0.4)
    assert (audit.threat, audit.certified, audit.met) == ("audit quick linf:0.1, sound", None, None)


def test_runs_that_differ_in_seed_alone_are_summarised(tmp_path: Path) -> None:
    for seed, test in enumerate((0.90, 0.92, 0.97)):
        trained(tmp_path / f"s{seed}", seed, test)
    trained(tmp_path / "again", 0, 0.90)
    trained(tmp_path / "longer", 4, 0.99, epochs=9)
    found = group(read_results([tmp_path]))
    assert [(each.seeds, each.repeated) for each in found] == [((0, 1, 2), 1)]
    assert found[0].test is not None
    assert found[0].test.mean == pytest.approx(0.93)
    assert found[0].test.deviation == pytest.approx(math.sqrt((0.03**2 + 0.01**2 + 0.04**2) / 2))
    assert table.spread_text(found[0].test, "test", 1000) == "93.00 ± 3.61 %"


def test_audits_of_runs_that_differ_in_seed_are_summarised(tmp_path: Path) -> None:
    for seed, attacked in enumerate((0.4, 0.6)):
        model = trained(tmp_path / f"s{seed}", seed)
        audited(tmp_path / f"a{seed}", str(model), attacked=attacked)
    audited(tmp_path / "other", "zoo:mnist-cnn")
    found = {each.like.kind: each for each in group(read_results([tmp_path]))}
    assert found["audit"].robust is not None
    assert (found["audit"].robust.mean, found["audit"].robust.n) == (0.5, 2)
    assert set(found) == {"train", "audit"}


def test_unfinished_and_damaged_runs_are_listed(tmp_path: Path) -> None:
    half = trained(tmp_path / "half")
    (half / "records/training.json").unlink()
    write_json(half / "records/history.json", {"schema": 1, "epochs": [{"epoch": 1}]})
    broken = trained(tmp_path / "json")
    write_text(broken / "records/training.json", "{")
    wrong = trained(tmp_path / "wrong")
    record = json.loads((wrong / "records/training.json").read_text())
    write_json(wrong / "records/training.json", record | {"test_accuracy": "0.9"})
    bare = trained(tmp_path / "bare")
    (bare / "run.toml").unlink()
    found = {Path(row.folder).name: row for row in read_results([tmp_path])}
    assert (found["half"].state, found["half"].epochs) == ("unfinished", 1)
    assert "not valid JSON" in found["json"].state
    assert found["json"].recipe == "digits-cnn", "what could be read is kept"
    assert found["wrong"].state.startswith("damaged: training.json at 'test_accuracy'")
    assert found["bare"].state == "damaged: run.toml is not there."
    assert group(list(found.values())) == []


def test_a_network_that_is_no_classifier_has_its_loss_shown(tmp_path: Path) -> None:
    run = trained(tmp_path / "gru")
    write_json(run / "records/training.json", {"kind": "text", "held_out_loss": 1.5, "seconds": 2, "met": True})
    row = read_result(run)
    assert (row.kind, row.state, row.loss, row.seconds, row.met) == ("text", "finished", 1.5, 2.0, True)
    assert "1.5000" in table.as_text([row])


@pytest.mark.parametrize("kind", ["text", "gan", "autoencoder"])
def test_an_unfinished_network_that_is_no_classifier_is_called_what_it_is(tmp_path: Path, kind: str) -> None:
    write_text(tmp_path / "run.toml", f'verb = "train"\n[recipe]\nkind = "{kind}"\nname = "r"\nseed = 3\n')
    row = read_result(tmp_path)
    assert (row.kind, row.state, row.recipe, row.seed) == (kind, "unfinished", "r", 3)


def test_a_run_given_twice_is_listed_once(tmp_path: Path) -> None:
    trained(tmp_path / "a/b")
    assert len(read_results([tmp_path, tmp_path / "a", tmp_path / "a/b"])) == 1


def test_a_folder_without_runs_is_the_user_s_mistake(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no run in .* or below"):
        read_results([tmp_path])
    with pytest.raises(InputError, match="there is no folder"):
        read_results([tmp_path / "nothing"])


def test_rows_are_ordered_by_any_column_with_the_unknown_last() -> None:
    rows = [Result("a", test=0.5), Result("b"), Result("c", test=0.9)]
    assert [row.folder for row in table.ordered(rows, "test")] == ["a", "c", "b"]
    assert [row.folder for row in table.ordered(rows, "test", reverse=True)] == ["c", "a", "b"]
    for column in table.COLUMNS:
        assert len(table.ordered(rows, column.name)) == 3
    with pytest.raises(InputError, match="did you mean 'test'"):
        table.ordered(rows, "tset")


HOSTILE = "=cmd()<script>alert(1)</script>\x1b[31m\u202e"


def test_names_stay_inert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained(tmp_path / "<b>\x1b[31m", name=HOSTILE)
    assert main(["runs", str(tmp_path), "--csv", str(tmp_path / "t.csv"), "--html", str(tmp_path / "t.html")]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "\u202e" not in said
    row = next(csv.DictReader(io.StringIO((tmp_path / "t.csv").read_text(encoding="utf-8"))))
    assert row["recipe"] == "'" + HOSTILE
    assert float(row["test"]) == 0.9
    page = (tmp_path / "t.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "\x1b" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_the_command_prints_figures_and_spreads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, test in enumerate((0.90, 0.94)):
        trained(tmp_path / f"s{seed}", seed, test)
    assert main(["runs", str(tmp_path), "--sort", "test", "--reverse"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "s1" in lines[2]
    assert "94.00 %" in lines[2]
    assert "92.00 ± 2.83 %" in lines[-1]
    assert main(["runs", str(tmp_path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [run["test"] for run in said["runs"]] == [0.90, 0.94]
    assert said["groups"][0]["test"] == {"mean": pytest.approx(0.92), "deviation": pytest.approx(0.0008**0.5), "n": 2}


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine, so no page can be opened")
def test_the_page_is_silent_and_sorts(tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    for seed, test in enumerate((0.90, 0.97, 0.94)):
        trained(tmp_path / f"s{seed}", seed, test)
    path = tmp_path / "t.html"
    write_text(path, table.as_html(read_results([tmp_path])))
    said: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
        page.goto(path.as_uri())
        place = [each.text_content() for each in page.locator("#runs thead th").all()].index("test") + 1
        cells = page.locator(f"#runs tbody td:nth-child({place})")
        head = page.locator(f"#runs thead th:nth-child({place}) button")
        head.click()
        assert cells.all_inner_texts() == ["90.00 %", "94.00 %", "97.00 %"]
        head.click()
        assert cells.all_inner_texts() == ["97.00 %", "94.00 %", "90.00 %"]
        page.locator("#theme").click()
        browser.close()
    assert said == []
