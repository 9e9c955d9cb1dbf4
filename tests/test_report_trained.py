"""How an audited model was trained: from the record of its run into the audit's folder, and onto the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from faultlight.evaluation.trained import write_trained
from faultlight.files import write_json
from faultlight.models import zoo
from faultlight.models.load import load_model
from faultlight.models.saved import save_model
from faultlight.models.subject import Subject
from faultlight.report.write import write_report
from report_fixture import Plan, write_run
from report_reader import read_page

ENDING = {
    "schema": 1,
    "recipe": "digits-cnn",
    "epochs": [{"epoch": 1}, {"epoch": 2}, {"epoch": 3}],
    "best_epoch": 2,
    "test_accuracy": 0.984,
    "test_count": 360,
    "seconds": 41.26,
    "robust_target": {"threat": "linf:0.1", "by": "pgd", "steps": 20, "accuracy": 0.625, "count": 200, "at_least": 0.6},
}


def trained(folder: Path, record: Any = ENDING) -> Subject:
    family = zoo.family("digits-cnn")
    save_model(folder, "digits-cnn", family, zoo.build_family(family))
    write_json(folder / "records" / "training.json", record)
    return load_model(str(folder))


def audited(folder: Path, subject: Subject) -> Path:
    write_run(folder, Plan(n=40, gallery=2))
    write_trained(folder, subject)
    return folder


def test_the_record_holds_what_training_ended_with(tmp_path: Path) -> None:
    run = audited(tmp_path / "audits" / "a", trained(tmp_path / "plain"))
    assert json.loads((run / "records/trained.json").read_text(encoding="utf-8")) == {
        "schema": 1,
        "folder": "../../plain",
        "recipe": "digits-cnn",
        "epochs": 3,
        "best_epoch": 2,
        "test_accuracy": 0.984,
        "test_count": 360,
        "seconds": 41.26,
        "robust": {"threat": "linf:0.1", "by": "pgd", "accuracy": 0.625, "count": 200},
    }


def test_the_page_tells_of_it_and_links_the_page_beside_it(tmp_path: Path) -> None:
    run = audited(tmp_path / "audit", trained(tmp_path / "my net"))
    page = read_page(write_report(run))
    told = "Recipe digits-cnn, 3 epochs in 41.3 s, epoch 2 kept; 98.4 % of 360 test images classified correctly, 62.5 %"
    assert f"{told} of 200 by pgd within linf:0.1." in " ".join(page.text.split())
    assert "The page of its training" not in page.text
    (tmp_path / "my net" / "report.html").write_text("the page")
    (link,) = [each for each in read_page(write_report(run)).all("a") if each.text == "The page of its training"]
    assert link.attributes["href"] == "../my%20net/report.html"


def test_a_folder_with_the_name_of_an_address_stays_a_folder(tmp_path: Path) -> None:
    run = audited(tmp_path / "audit", trained(tmp_path / "audit" / "javascript:alert(1)"))
    (run / "javascript:alert(1)" / "report.html").write_text("the page")
    (link,) = [each for each in read_page(write_report(run)).all("a") if each.text == "The page of its training"]
    assert link.attributes["href"] == "javascript%3Aalert%281%29/report.html"


@pytest.mark.parametrize("record", [{"schema": 1}, ["no", "record"], {**ENDING, "epochs": None}])
def test_a_damaged_record_of_training_says_nothing_and_stops_nothing(tmp_path: Path, record: Any) -> None:
    run = audited(tmp_path / "audit", trained(tmp_path / "plain", record))
    assert not (run / "records/trained.json").exists()
    assert "How it was trained" not in read_page(write_report(run)).text


def test_a_model_from_nowhere_or_with_other_weights_has_no_past(tmp_path: Path) -> None:
    trained(tmp_path / "plain")
    other = load_model(str(tmp_path / "plain"), weights=tmp_path / "plain" / "model.safetensors")
    for number, subject in enumerate([Subject(nn.Flatten(), 64), other]):
        run = audited(tmp_path / str(number), subject)
        assert not (run / "records/trained.json").exists()
