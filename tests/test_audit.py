"""The audit as a whole: the same outcome however it is run, the verdict it gives, and what it refuses."""

from __future__ import annotations

import json
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import faultlight as fl
import runs
from faultlight.errors import InputError
from faultlight.evaluation import curve
from faultlight.evaluation.ledger import read_ledger
from faultlight.evaluation.probing import search_models
from faultlight.evaluation.rows import Status
from faultlight.models.inspect import check_subject
from faultlight.threat import parse_threat

THREAT = "linf:0.15"


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audits") / "first"
    fl.audit(runs.subject(), runs.digits(), THREAT, folder)
    return folder


def test_same_audit_twice_leaves_the_same(audited: Path, tmp_path: Path) -> None:
    fl.audit(runs.subject(), runs.digits(), THREAT, tmp_path / "again")
    assert runs.outcome(tmp_path / "again") == runs.outcome(audited)


@pytest.mark.parametrize("slots", [7, 33])
def test_number_of_slots_changes_nothing(audited: Path, tmp_path: Path, slots: int) -> None:
    fl.audit(runs.subject(), runs.digits(), THREAT, tmp_path / "other", slots=slots)
    assert runs.outcome(tmp_path / "other") == runs.outcome(audited)


@pytest.mark.slow
def test_another_seed_gives_other_twins(tmp_path: Path) -> None:
    """On a net this small all that stands is proven to, and nothing would be left for attacks that start at random."""
    for seed in (0, 1):
        fl.audit(runs.subject(), runs.digits(), THREAT, tmp_path / str(seed), seed=seed, cross_check=True)
    first, other = (runs.tables(tmp_path / str(seed))["attempts"] for seed in (0, 1))
    assert first != other


def test_every_claimed_break_holds_in_plain_torch(audited: Path) -> None:
    arrays, images, module = load_file(audited / "arrays" / "adversarial.safetensors"), runs.digits(), runs.templates()
    place = {int(image): row for row, image in enumerate(images.ids)}
    rows = torch.tensor([place[int(image)] for image in arrays["ids"]])
    with torch.no_grad():
        logits = module(arrays["x"])
    assert len(rows) > 5
    assert (logits.argmax(1) != images.y[rows]).all()
    assert float((arrays["x"].double() - images.x[rows].double()).abs().max()) <= 0.15
    assert float(arrays["x"].min()) >= 0
    assert float(arrays["x"].max()) <= 1


def test_verdict_counts_what_the_ledger_holds(audited: Path) -> None:
    verdict = json.loads((audited / "verdict.json").read_text())
    rows = read_ledger(audited / "ledger.sqlite").images()
    assert verdict["clean"]["count"] == sum(row.prediction == row.label for row in rows)
    assert verdict["attacked"]["count"] == sum(row.status == Status.STANDING for row in rows)
    assert verdict["attacked"]["value"] == verdict["attacked"]["count"] / verdict["n"]
    assert verdict["status"] == "sound"
    attempts = read_ledger(audited / "ledger.sqlite").attempts()
    assert verdict["cost"]["forward"] == len(rows) + sum(attempt.forwards for attempt in attempts)
    assert sum(row.forwards for row in rows) == verdict["cost"]["forward"]


def test_an_image_is_not_attacked_again_once_broken(audited: Path) -> None:
    ledger = read_ledger(audited / "ledger.sqlite")
    broken_by = {row.id: row.broken_by for row in ledger.images() if row.broken}
    order = ["fgsm", "pgd", "pgd-targeted", "pgd-long", "pgd-finish"]
    for attempt in ledger.attempts():
        if attempt.probe in order and attempt.id in broken_by:
            assert order.index(attempt.probe) <= order.index(broken_by[attempt.id])


def test_resuming_a_finished_run_changes_nothing(audited: Path) -> None:
    before = runs.outcome(audited)
    fl.audit(runs.subject(), runs.digits(), THREAT, audited, resume=True)
    assert runs.outcome(audited) == before


def test_the_seconds_before_a_kill_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, slept = time.monotonic, 0.0
    monkeypatch.setattr(time, "monotonic", lambda: real() + slept)

    def killed(scene: Any, *_: Any) -> None:
        nonlocal slept
        slept += 1000
        scene.ledger.note("last words", "")
        raise SystemError

    with monkeypatch.context() as patched:
        patched.setattr(curve, "draw_curve", killed)
        with pytest.raises(SystemError):
            fl.audit(runs.subject(), runs.digits(20), THREAT, tmp_path / "run", effort="quick")
    assert not (tmp_path / "run" / "verdict.json").exists()
    fl.audit(runs.subject(), runs.digits(20), THREAT, tmp_path / "run", effort="quick", resume=True)
    verdict = json.loads((tmp_path / "run" / "verdict.json").read_text())
    assert 1000 < verdict["cost"]["seconds"] < 1300


def test_resuming_where_there_is_no_run_says_that_it_begins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        fl.audit(runs.subject(), runs.digits(20), THREAT, tmp_path / "run", effort="quick", resume=True, quiet=False)
    assert capsys.readouterr().err.count(f"{tmp_path / 'run'} holds no audit to go on with; it begins anew") == 1


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"threat": "linf:0.2"}, "threat was"),
        ({"seed": 5}, "seed was 0 and is now 5"),
        ({"effort": "quick"}, "effort was"),
        ({"n": 50}, "data was"),
        ({"module": runs.templates(sharpness=3.0)}, "model was"),
    ],
)
def test_resuming_another_run_is_refused_with_the_difference(audited: Path, change: dict[str, Any], named: str) -> None:
    before = runs.outcome(audited)
    subject, images = runs.subject(change.pop("module", None)), runs.digits(change.pop("n", 60))
    threat = change.pop("threat", THREAT)
    with pytest.raises(InputError, match=named):
        fl.audit(subject, images, threat, audited, resume=True, **change)
    assert runs.outcome(audited) == before


def test_resuming_under_another_version_is_refused(audited: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("faultlight.evaluation.audit.__version__", "9.9")
    with pytest.raises(InputError, match=r'version was "0\.1\.0" and is now "9\.9"'):
        fl.audit(runs.subject(), runs.digits(), THREAT, audited, resume=True)


def test_a_second_run_in_the_folder_is_refused(audited: Path) -> None:
    before = runs.outcome(audited)
    with pytest.raises(InputError, match="holds a run already"):
        fl.audit(runs.subject(), runs.digits(), THREAT, audited)
    assert runs.outcome(audited) == before


def test_damaged_ledger_is_named_with_a_way_on(tmp_path: Path) -> None:
    fl.audit(runs.subject(), runs.digits(20), THREAT, tmp_path / "run", effort="quick")
    path = tmp_path / "run" / "ledger.sqlite"
    content = bytearray(path.read_bytes())
    content[4096:8192] = b"\xff" * 4096
    path.write_bytes(bytes(content))
    with pytest.raises(InputError, match=r"damaged .* are lost. Move ledger.sqlite away"):
        fl.audit(runs.subject(), runs.digits(20), THREAT, tmp_path / "run", effort="quick", resume=True)


def test_images_on_which_the_model_gives_nan_are_invalid(tmp_path: Path) -> None:
    run = fl.audit(runs.subject(runs.Sometimes(0.3)), runs.digits(), THREAT, tmp_path / "run", effort="quick")
    rows = read_ledger(tmp_path / "run" / "ledger.sqlite").images()
    images = runs.digits()
    bright = set(images.ids[images.x[:, 0, :, 2].sum(1) > 0.3].tolist())
    invalid = {row.id for row in rows if row.status == Status.INVALID}
    assert bright
    assert bright <= invalid
    assert not any(row.broken for row in rows if row.id in bright)
    assert run.verdict.invalid == len(invalid)
    assert run.verdict.n == 60 - len(invalid)
    assert "not-finite" in {finding.check for finding in run.verdict.findings}


class Guess(nn.Module):
    """The same class for every image."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(torch.full((len(x),), 3), 10).float() + 0 * x.flatten(1)[:, :10]


def test_verdict_on_a_guesser_is_withheld(tmp_path: Path) -> None:
    run = fl.audit(runs.subject(Guess()), runs.digits(), THREAT, tmp_path / "run", effort="quick")
    assert run.verdict.status == "withheld"
    assert run.verdict.attacked is None
    assert "chance" in run.verdict.sentence


class Probabilities(nn.Module):
    """The templates' probabilities, so sharp that float32 rounds most to 0 and 1."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = runs.templates(sharpness=16.0)

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.inner(x), 1)


def test_probabilities_are_found_and_attacked_all_the_same(tmp_path: Path) -> None:
    plain = fl.audit(runs.subject(runs.templates(16.0)), runs.digits(), THREAT, tmp_path / "logits", effort="quick")
    run = fl.audit(runs.subject(Probabilities()), runs.digits(), THREAT, tmp_path / "run", effort="quick")
    assert "probabilities" in {finding.check for finding in run.verdict.findings}
    assert plain.verdict.attacked is not None
    assert run.verdict.attacked is not None
    assert run.verdict.attacked.count <= plain.verdict.attacked.count + 1


class Detached(nn.Module):
    """The templates behind rounding: right answers, no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = runs.templates()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner((x * 16).round().detach() / 16)
        return logits


@pytest.mark.slow
def test_verdict_without_gradients_is_withheld(tmp_path: Path) -> None:
    run = fl.audit(runs.subject(Detached()), runs.digits(), THREAT, tmp_path / "run", effort="quick")
    assert run.verdict.status == "withheld"
    assert "zero-gradients" in {finding.check for finding in run.verdict.findings}


@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes_are_audited(tmp_path: Path, classes: int) -> None:
    images = fl.load_data("digits", split="train")
    few = images.take(images.y < classes).first(40)
    few = fl.Images(few.x, few.y, few.ids, tuple("0123456789"[:classes]), "few", "train")
    inner = runs.templates()
    module = nn.Sequential(inner, nn.Linear(10, classes, bias=False))
    with torch.no_grad():
        module[1].weight.copy_(torch.eye(10)[:classes])
    run = fl.audit(runs.subject(module, classes), few, THREAT, tmp_path / "run")
    assert run.verdict.status == "sound"
    assert run.verdict.attacked is not None
    assert 0 < run.verdict.attacked.count < run.verdict.clean.count


def test_head_of_another_size_is_refused_before_any_compute(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 1000))
    with pytest.raises(InputError, match="1000"):
        fl.audit(fl.Subject(module, 1000), runs.digits(), THREAT, tmp_path / "run")
    assert not (tmp_path / "run" / "ledger.sqlite").exists()


def test_radius_above_the_largest_distance_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="larger than 8"):
        fl.audit(runs.subject(), runs.digits(), "l2:9", tmp_path / "run")


def test_l2_audit_keeps_every_twin_in_its_ball(tmp_path: Path) -> None:
    fl.audit(runs.subject(), runs.digits(), "l2:0.8", tmp_path / "run", effort="quick")
    arrays, images = load_file(tmp_path / "run" / "arrays" / "adversarial.safetensors"), runs.digits()
    place = {int(image): row for row, image in enumerate(images.ids)}
    rows = torch.tensor([place[int(image)] for image in arrays["ids"]])
    distance = (arrays["x"].double() - images.x[rows].double()).flatten(1).norm(dim=1)
    assert len(rows) > 3
    assert float(distance.max()) <= 0.8


def test_ledger_of_a_finished_run_is_one_file(audited: Path) -> None:
    assert [path.name for path in audited.glob("ledger*")] == ["ledger.sqlite"]
    assert sqlite3.connect(audited / "ledger.sqlite").execute("PRAGMA journal_mode").fetchone() == ("delete",)


class Brittle(nn.Module):
    """NaN wherever a pixel is not a sixteenth, as the pixels of every clean digit are; right answers else."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = runs.templates()

    def forward(self, x: Tensor) -> Tensor:
        odd = ((x * 16 - (x * 16).round()).abs() > 1e-3).flatten(1).any(1, keepdim=True)
        return torch.where(odd, torch.nan, self.inner(x))


def test_nan_under_attack_alone_makes_images_invalid(tmp_path: Path) -> None:
    run = fl.audit(runs.subject(Brittle()), runs.digits(), "linf:0.1", tmp_path / "run", effort="quick")
    rows = read_ledger(tmp_path / "run" / "ledger.sqlite").images()
    assert run.verdict.invalid == sum(row.status == Status.INVALID for row in rows) > 20
    assert not any(row.broken for row in rows)
    assert json.loads((tmp_path / "run" / "records" / "curve.json").read_text())["n"] == 60


class WithoutNumbers(nn.Module):
    """The templates' logits, with a gradient that is NaN everywhere: 0 · √0 differentiates to 0 · ∞."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = runs.templates()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x)
        return logits + (x * 0).sqrt().flatten(1).sum(1, keepdim=True) * 0


@pytest.mark.slow
def test_gradients_that_are_not_numbers_withhold_the_verdict(tmp_path: Path) -> None:
    run = fl.audit(runs.subject(WithoutNumbers()), runs.digits(), THREAT, tmp_path / "run", effort="quick")
    assert run.verdict.status == "withheld"
    assert "not a number" in run.verdict.sentence


def test_twin_changed_in_the_ledger_is_found(tmp_path: Path) -> None:
    fl.audit(runs.subject(), runs.digits(20), THREAT, tmp_path / "run", effort="quick")
    base = sqlite3.connect(tmp_path / "run" / "ledger.sqlite")
    ((image, pixels),) = base.execute("SELECT id, x FROM twins ORDER BY id LIMIT 1")
    base.execute("UPDATE twins SET x = ? WHERE id = ?", (b"\0" * 120 + pixels[120:], image))
    base.commit()
    base.close()
    with pytest.raises(InputError, match=f"damaged: the twins of 1 images \\(ids {image}\\)"):
        fl.audit(runs.subject(), runs.digits(20), THREAT, tmp_path / "run", effort="quick", resume=True)


def test_a_radius_half_done_is_no_point_of_the_curve(audited: Path) -> None:
    ledger = read_ledger(audited / "ledger.sqlite")
    attempts, images = ledger.attempts(), ledger.images()
    balls = curve.radii(parse_threat(THREAT), (1, 8, 8))
    whole = curve.curve_points(images, attempts, balls)
    last = [a for a in attempts if a.probe == curve.PROBE and a.threat == str(balls[-1])]
    assert [p.text for p in whole] == ["0", *(ball.text for ball in balls)]
    assert curve.curve_points(images, [a for a in attempts if a is not last[0]], balls) == whole[:-1]


def test_exact_searches_of_probabilities_use_their_logarithm_too() -> None:
    subject, images = runs.subject(Probabilities()), runs.digits(30)
    models, how = search_models(subject, images, check_subject(subject, images))
    assert "logarithm" in how
    for model in models.values():
        assert torch.equal(model(images.x), subject(images.x).clamp(min=torch.finfo(torch.float32).tiny).log())
