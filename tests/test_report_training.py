"""The page of a training run, from records made by hand: every figure worked out twice, every number in its record."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from safetensors.numpy import save

from faultlight.cli import main
from faultlight.errors import InputError
from faultlight.files import write_bytes, write_json, write_text
from faultlight.report.charts.confusion import confusion_chart
from faultlight.report.charts.learning import learning_chart
from faultlight.report.numbers import look_up
from faultlight.report.training import differences
from faultlight.report.training_figures import calibration, figures, first_above, per_class
from faultlight.report.training_records import read_run
from faultlight.report.write import write_report
from report_reader import read_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = ["cat", "</script><script>window.hacked = 1</script>", "\x1b[31m\u202edog"]
CONFUSION = [[40, 0, 0], [2, 36, 2], [0, 10, 10]]


def trained(folder: Path, classes: list[str] | None = None, best: int = 2, **changes: Any) -> Path:
    """Write what training leaves of a net of three classes, 100 test images and three epochs."""
    names = classes or ["cat", "dog", "owl"]
    recipe = {"name": "toy", "title": "A toy", "model": "mlp", "data": "npz", "seed": 0, "epochs": 3, "batch": 8}
    recipe |= {"optimiser": {"name": "adam", "lr": 0.01}, "objective": {"name": "standard"}} | changes
    write_text(folder / "run.toml", tomli_w.dumps({"schema": 1, "verb": "train", "recipe": recipe}))
    rows = [
        {
            "epoch": e,
            "train_loss": 1 / e,
            "validation_loss": 1.2 / e,
            "validation_accuracy": a,
            "lr": 0.01,
            "seconds": 1.0,
        }
        for e, a in ((1, 0.5), (2, 0.9), (3, 0.85))
    ]
    training = {
        "schema": 1, "recipe": "toy", "epochs": rows, "guards": [{"text": "It overfitted robustly."}],
        "best_epoch": best, "validation_accuracy": 0.9, "seconds": 3.0, "test_accuracy": 0.86, "test_count": 100,
        "target": {"metric": "test_accuracy", "at_least": 0.9}, "met": False, "confusion": CONFUSION,
        "robust_target": {"threat": "linf:0.1", "by": "pgd", "steps": 20, "at_least": 0.5, "accuracy": 0.4,
                          "count": 50},
    }  # fmt: skip
    write_json(folder / "records/training.json", training)
    record = {"schema": 1, "name": "npz", "split": "test", "classes": names, "n": 100, "validation_count": 20}
    write_json(folder / "records/test.json", record)
    labels = np.concatenate([np.full(sum(row), label) for label, row in enumerate(CONFUSION)])
    read = np.concatenate([np.repeat(np.arange(3), row) for row in CONFUSION])
    loss = np.linspace(0.1, 4.0, 100, dtype=np.float32)
    worst = np.argsort(-loss)[:4]
    arrays = {
        "ids": np.arange(100), "labels": labels, "predictions": read, "loss": loss, "worst": worst,
        "confidence": np.full(100, 0.95, dtype=np.float32),
        "worst_x": np.random.default_rng(0).random((4, 1, 8, 8), dtype=np.float32),
    }  # fmt: skip
    write_bytes(folder / "arrays/test.safetensors", save(arrays))
    write_json(
        folder / "stamp.json",
        {"schema": 1, "seed": 0, "command": ["faultlight", "train", "toy"], "timings": {"train": 3.0}},
    )
    return folder


def test_the_calibration_error_is_the_paper_s() -> None:
    confidence = np.array([0.2, 0.25, 0.9, 0.95, 1.0], dtype=np.float32)
    right = np.array([True, False, True, True, False])
    found = calibration(confidence, right, bins=2)
    # (0, ½]: mean 0.225 and accuracy ½; (½, 1]: mean 0.95 and accuracy ⅔.
    assert found["ece"] == pytest.approx(2 / 5 * 0.275 + 3 / 5 * (0.95 - 2 / 3), abs=1e-7)
    assert [(row["n"], row["from"], row["to"]) for row in found["bins"]] == [(2, 0.0, 0.5), (3, 0.5, 1.0)]
    assert (found["accuracy"], found["confidence"]) == (0.6, pytest.approx(0.66))


def test_a_bin_holds_its_upper_edge_and_the_first_one_zero() -> None:
    found = calibration(np.array([0.0, 0.5, 0.75, 1.0], dtype=np.float32), np.ones(4, dtype=bool), bins=4)
    assert [(row["to"], row["n"]) for row in found["bins"]] == [(0.25, 1), (0.5, 1), (0.75, 1), (1.0, 1)]


def test_a_network_as_sure_as_it_is_right_has_no_calibration_error() -> None:
    right = np.arange(100) < 80
    assert calibration(np.full(100, 0.8, dtype=np.float32), right)["ece"] == pytest.approx(0, abs=1e-7)


def test_classes_stand_in_order_of_their_accuracy() -> None:
    rows = per_class([*CONFUSION, [0, 0, 0]])
    assert [(row["label"], row["value"], row["n"]) for row in rows] == [(2, 0.5, 20), (1, 0.9, 40), (0, 1.0, 40)]
    # Clopper–Pearson for 40 of 40: the lower end is (0.025)^(1/40).
    assert rows[2]["low"] == pytest.approx(0.025 ** (1 / 40))
    assert rows[2]["high"] == 1.0


def test_the_first_epoch_above_a_mark(tmp_path: Path) -> None:
    run = read_run(trained(tmp_path / "a")).training
    found = {row["mark"]: row["epochs"] for row in first_above([run, run])}
    assert found == {0.6: [2, 2], 0.7: [2, 2], 0.8: [2, 2], 0.9: [2, 2]}


def test_the_figures_of_a_run(tmp_path: Path) -> None:
    found = figures(read_run(trained(tmp_path / "a")))
    assert (found["test"]["value"], found["test"]["count"], found["test"]["n"]) == (0.86, 86, 100)
    assert (found["validation"]["count"], found["robust"]["count"]) == (18, 20)
    assert found["calibration"]["ece"] == pytest.approx(0.09, abs=1e-6)
    assert [each["id"] for each in found["worst"]] == [99, 98, 97, 96]
    assert found["loss"] == pytest.approx(2.05, abs=1e-5)


def test_learning_curves_hold_every_epoch_and_mark_the_kept_one(tmp_path: Path) -> None:
    rows = read_run(trained(tmp_path / "a")).training.epochs
    chart = learning_chart({"a": rows, "b": rows[:2]}, ("train_loss", "absent"), "loss", {"a": 2, "b": 1})
    assert chart is not None
    values = chart["data"]["values"]
    assert [(each["run"], each["epoch"], each["value"]) for each in values if each["kept"]] == [
        ("a", 2, 0.5),
        ("b", 1, 1.0),
    ]
    assert len(values) == 5
    assert learning_chart({"a": rows}, ("absent",), "loss", {"a": 1}) is None


def test_many_classes_are_shown_by_their_most_frequent_mistakes() -> None:
    confusion = (5 * np.eye(20, dtype=int)).tolist()
    confusion[3][7] = 4
    chart = confusion_chart(confusion, [f"c{i}" for i in range(20)])
    assert chart is not None
    assert [(each["mistake"], each["count"]) for each in chart["data"]["values"]] == [("c3 → c7", 4)]
    assert confusion_chart((5 * np.eye(20, dtype=int)).tolist(), [str(i) for i in range(20)]) is None


def test_what_was_asked_differently_is_listed() -> None:
    one = {"recipe": {"name": "a", "seed": 0, "optimiser": {"lr": 0.1}}, "data": {"test": "x"}}
    other = {"recipe": {"name": "b", "seed": 0, "optimiser": {"lr": 0.2}, "swa": 0.5}, "data": {"test": "y"}}
    assert differences(one, other) == [("recipe.optimiser.lr", "0.1", "0.2"), ("recipe.swa", "not set", "0.5")]


def test_every_number_equals_its_record(tmp_path: Path) -> None:
    page = read_page(write_report(trained(tmp_path / "a"), trained(tmp_path / "b", best=3)))
    records = page.data("records")
    shown = [each.attributes for each in page.elements if "data-record" in each.attributes]
    assert len(shown) > 70
    for each in shown:
        found = look_up(records, each["data-record"])
        assert json.loads(each["data-value"]) == found
        assert math.isfinite(found)
    assert records["training"] == json.loads((tmp_path / "a/records/training.json").read_text())
    assert "Target not met" in page.text
    assert "It overfitted robustly." in page.text
    assert "of 100 test images are classified correctly." in page.one("h1").text


@pytest.mark.parametrize(("by", "shown"), [("pgd", True), ("certificate", False)])
def test_a_robust_figure_says_which_layer_its_attack_passed(tmp_path: Path, by: str, shown: bool) -> None:
    run = trained(tmp_path / "a")
    record = json.loads((run / "records/training.json").read_text())
    record["robust_target"] |= {"by": by, "straight_through": "threshold"}
    (run / "records/training.json").write_text(json.dumps(record))
    assert ("straight through threshold, within linf:0.1" in read_page(write_report(run)).text) is shown


def test_a_run_without_its_arrays_says_what_is_missing(tmp_path: Path) -> None:
    run = trained(tmp_path / "a")
    for name in ("records/test.json", "arrays/test.safetensors", "stamp.json"):
        (run / name).unlink()
    page = write_report(run).read_text(encoding="utf-8")
    assert page.count('class="missing"') == 4


def test_what_cannot_be_reported_is_the_user_s_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(tmp_path / "a")
    damaged = trained(tmp_path / "b")
    write_bytes(damaged / "arrays/test.safetensors", b"nothing")
    assert main(["report", str(run), "--beside", str(damaged)]) == 2
    assert "test.safetensors cannot be read" in capsys.readouterr().err
    (run / "records/training.json").rename(run / "records/history.json")
    assert main(["report", str(run)]) == 2
    assert "finish the run with" in capsys.readouterr().err
    assert not (run / "report.html").exists()
    write_json(tmp_path / "c/verdict.json", {})
    with pytest.raises(InputError, match="is no training run"):
        write_report(tmp_path / "c", damaged)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine, so no page can be opened")
def test_the_page_is_silent_and_draws_every_chart(tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    path = write_report(trained(tmp_path / "a", HOSTILE), trained(tmp_path / "b", HOSTILE))
    said: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_context(offline=True, color_scheme="dark").new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]")
        for name in ("accuracy", "loss", "rate", "confusion", "reliability"):
            assert page.locator(f"[data-chart={name}] svg path").count() > 3, name
        page.locator("#theme").click()
        assert page.evaluate("window.hacked") is None
        browser.close()
    assert said == []
