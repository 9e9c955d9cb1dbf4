"""The audit from both sides: what is proved is not attacked, and who contradicts a proof withholds the verdict."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import faultlight as fl
import runs
from faultlight.certify.certificate import CASCADE, Certificate
from faultlight.evaluation import certificates
from faultlight.evaluation.audit import Run
from faultlight.evaluation.ledger import read_ledger
from faultlight.evaluation.rows import Status

THREAT = "linf:0.05"
# What attacks a sample at many radii, for the curve and not for the verdict.
OF_THE_CURVE = ("curve", "nearest")


def audit(folder: Path, module: nn.Module | None = None, n: int = 40, **more: Any) -> Run:
    return fl.audit(runs.subject(module), runs.digits(n), more.pop("threat", THREAT), folder, **more)


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return audit(tmp_path_factory.mktemp("audits") / "first").folder


def test_the_verdict_is_two_sided(audited: Path) -> None:
    verdict, ledger = json.loads((audited / "verdict.json").read_text()), read_ledger(audited / "ledger.sqlite")
    proved = [proof.id for proof in ledger.proofs() if proof.holds]
    assert 0 < len(proved) == verdict["certified"]["count"] <= verdict["attacked"]["count"] < verdict["clean"]["count"]
    assert "provably" in verdict["sentence"]
    assert not [finding for finding in verdict["findings"] if "certificate" in finding["check"]]
    assert "Certified" in (audited / "report.html").read_text(encoding="utf-8")


def test_every_correct_image_was_tried(audited: Path) -> None:
    ledger = read_ledger(audited / "ledger.sqlite")
    correct = {image.id for image in ledger.images() if image.prediction == image.label}
    assert {proof.id for proof in ledger.proofs()} == correct
    record = json.loads((audited / "records" / "certificates.json").read_text())
    assert record["tried"] == len(correct)
    assert sum(bound["proved"] for bound in record["bounds"]) == sum(proof.holds for proof in ledger.proofs())


def test_what_is_proved_is_not_attacked(audited: Path) -> None:
    ledger = read_ledger(audited / "ledger.sqlite")
    proved = {proof.id for proof in ledger.proofs() if proof.holds}
    of_stages = [attempt for attempt in ledger.attempts() if not attempt.probe.startswith(OF_THE_CURVE)]
    assert of_stages
    assert not proved & {attempt.id for attempt in of_stages}
    assert all(image.status == Status.STANDING for image in ledger.images() if image.id in proved)


@pytest.mark.slow
def test_a_cross_check_attacks_everything_and_finds_no_contradiction(audited: Path, tmp_path: Path) -> None:
    run = audit(tmp_path / "run", cross_check=True)
    first, ledger = read_ledger(audited / "ledger.sqlite"), read_ledger(run.folder / "ledger.sqlite")
    assert ledger.proofs() == first.proofs()
    proved = {proof.id for proof in ledger.proofs() if proof.holds}
    assert proved <= {attempt.id for attempt in ledger.attempts() if not attempt.probe.startswith(OF_THE_CURVE)}
    assert [image.status for image in ledger.images()] == [image.status for image in first.images()]
    assert "certificate-contradicted" not in {finding.check for finding in run.verdict.findings}


def test_an_attack_that_contradicts_a_proof_withholds_the_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def believe_everything(*arguments: Any) -> Certificate:
        y: Tensor = arguments[2]
        return Certificate(torch.ones_like(y, dtype=torch.bool), torch.ones(len(y)).double(), torch.zeros_like(y))

    monkeypatch.setattr(certificates, "certify_images", believe_everything)
    run = audit(tmp_path / "run", threat="linf:0.3", cross_check=True)
    (finding,) = [finding for finding in run.verdict.findings if finding.check == "certificate-contradicted"]
    assert finding.severity == "fatal"
    broken = [image.id for image in read_ledger(run.folder / "ledger.sqlite").images() if image.broken]
    assert str(broken[0]) in finding.evidence
    assert f"{len(broken)} images" in finding.evidence
    assert (run.verdict.status, run.verdict.certified, run.verdict.attacked) == ("withheld", None, None)


def test_the_curve_alone_contradicts_a_false_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a cross-check the sample of the curve is attacked all the same."""

    def believe_everything(*arguments: Any) -> Certificate:
        y: Tensor = arguments[2]
        return Certificate(torch.ones_like(y, dtype=torch.bool), torch.ones(len(y)).double(), torch.zeros_like(y))

    monkeypatch.setattr(certificates, "certify_images", believe_everything)
    run = audit(tmp_path / "run", threat="linf:0.3")
    assert "certificate-contradicted" in {finding.check for finding in run.verdict.findings}


def test_a_break_beyond_the_ball_contradicts_nothing(audited: Path) -> None:
    """The curve goes on to radii where certified images fall too."""
    ledger = read_ledger(audited / "ledger.sqlite")
    proved = {proof.id for proof in ledger.proofs() if proof.holds}
    assert proved & {attempt.id for attempt in ledger.attempts("curve") if attempt.broke}


class Softmax(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = runs.templates()

    def forward(self, x: Tensor) -> Tensor:
        return torch.log_softmax(self.inner(x), 1)


@pytest.mark.slow
def test_what_has_no_bound_is_said_and_the_audit_goes_on(tmp_path: Path) -> None:
    run = audit(tmp_path / "run", Softmax(), effort="standard")
    (finding,) = [finding for finding in run.verdict.findings if finding.check == "no-certificate"]
    assert finding.severity == "info"
    assert finding.evidence == "no certificate: there is no bound for log_softmax"
    assert run.verdict.certified is None
    assert run.verdict.attacked is not None
    assert "provably" not in run.verdict.sentence


def test_where_the_surest_cannot_be_certified_no_other_is_tried(tmp_path: Path) -> None:
    run = audit(tmp_path / "run", threat="linf:0.4")
    ledger = read_ledger(run.folder / "ledger.sqlite")
    (finding,) = [finding for finding in run.verdict.findings if finding.check == "no-certificate"]
    assert finding.evidence.startswith(
        f"none of the {certificates._SUREST} surest images could be certified within L∞ distance 0.4"
    )
    assert len(ledger.proofs()) == certificates._SUREST
    assert run.verdict.certified is None


def test_a_quick_audit_does_without(tmp_path: Path) -> None:
    run = audit(tmp_path / "run", effort="quick")
    assert run.verdict.certified is None
    assert read_ledger(run.folder / "ledger.sqlite").proofs() == []
    assert "no-certificate" not in {finding.check for finding in run.verdict.findings}


def test_stopped_while_proving_and_gone_on_with_it_is_the_same(
    audited: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificates, "_MOST_AT_ONCE", 8)
    whole = audit(tmp_path / "whole").folder
    real, calls = certificates.certify_images, []

    def stop(*arguments: Any) -> Certificate:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(certificates, "certify_images", stop)
    with pytest.raises(KeyboardInterrupt):
        audit(tmp_path / "run")
    partial = json.loads((tmp_path / "run" / "verdict.json").read_text())
    assert (partial["complete"], partial["certified"]) == (False, None)
    assert len(read_ledger(tmp_path / "run" / "ledger.sqlite").proofs()) == certificates._SUREST + 8
    audit(tmp_path / "run", resume=True)
    assert runs.outcome(tmp_path / "run") == runs.outcome(whole)


def test_an_older_run_without_certificates_is_gone_on_with(audited: Path, tmp_path: Path) -> None:
    folder = audit(tmp_path / "run").folder
    with closing(sqlite3.connect(folder / "ledger.sqlite")) as connection, connection:
        connection.execute("DROP TABLE proofs")
        connection.execute("UPDATE meta SET value = '1' WHERE key = 'schema'")
        connection.execute("DELETE FROM meta WHERE key IN ('certificates', 'cross_check')")
    run = audit(folder, resume=True)
    assert read_ledger(folder / "ledger.sqlite").proofs() == read_ledger(audited / "ledger.sqlite").proofs()
    assert run.verdict.certified is not None


def test_cascade_is_named_as_the_ledger_names_it() -> None:
    assert list(CASCADE) == ["interval", "crown-interval", "crown"]
