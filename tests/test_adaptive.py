"""Symptoms and what they ask for; cross-checks that pass a success on a sample on to all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import faultlight as fl
import runs
import toys
from faultlight.evaluation import adaptive
from faultlight.evaluation.adaptive import adaptive_stages, cross_checks, is_gradient_search
from faultlight.evaluation.judge import Judge
from faultlight.evaluation.ledger import create_ledger, read_ledger
from faultlight.evaluation.plan import CANARY, Stage, plan
from faultlight.evaluation.probing import Scene, first_look
from faultlight.evaluation.symptoms import Symptoms, look
from faultlight.models.inspect import check_subject
from faultlight.models.subject import Subject
from faultlight.threat import parse_threat

LINF = parse_threat("linf:0.05")
MODELS: Any = dict.fromkeys(("fast", "exact", "straight-through", "smoothed"), torch.relu)
SOUND = Symptoms(sample=50)


def names(symptoms: Symptoms, threat: str = "linf:0.05", models: Any = MODELS) -> list[str]:
    return [stage.name for stage in adaptive_stages(symptoms, models, parse_threat(threat), "standard")]


STRAIGHT = ["straight-through", "straight-through-targeted"]
SMOOTHED = ["smoothed", "smoothed-all"]


@pytest.mark.parametrize(
    ("symptoms", "asked"),
    [
        (SOUND, []),
        (Symptoms(50, silent=3, unstable=9), []),
        (Symptoms(50, useless=1), [*STRAIGHT, "black-box"]),
        (Symptoms(50, tied=1), [*STRAIGHT, "black-box"]),
        (Symptoms(50, flat=1), [*STRAIGHT, *SMOOTHED, "black-box"]),
        (Symptoms(50, agreement=0.3), [*SMOOTHED, "black-box"]),
        (Symptoms(50, unexplained=0.6), [*SMOOTHED, "black-box"]),
    ],
)
def test_symptoms_choose_the_searches(symptoms: Symptoms, asked: list[str]) -> None:
    assert names(symptoms) == asked


def test_a_dear_search_goes_to_a_part_first_and_on_to_all_where_it_succeeds() -> None:
    part, rest = adaptive_stages(Symptoms(50, flat=1), MODELS, LINF, "standard")[2:4]
    assert (part.share, part.least, part.after) == (0.25, 200, ())
    assert (rest.share, rest.after, rest.attack) == (1, (part.name,), part.attack)


def test_searches_that_do_not_apply_are_left_out() -> None:
    assert names(Symptoms(50, useless=50), "l1:3") == STRAIGHT
    assert names(Symptoms(50, useless=50), models={"fast": torch.relu, "exact": torch.relu}) == ["black-box"]


def test_cross_checks_take_a_small_sample_and_pass_successes_on() -> None:
    stages = cross_checks(plan("standard"), MODELS, "linf", 4000)
    assert [stage.name for stage in stages] == ["check-noise", "check-transfer", "transfer", "check-doubled", "doubled"]
    sampled = [stage for stage in stages if not stage.after]
    assert {stage.share * 4000 for stage in sampled} == {100}
    after = {stage.after: stage.share for stage in stages if stage.after}
    assert after == {("check-transfer",): 1, ("check-doubled",): 1}


def test_what_is_doubled_is_the_longest_attack_on_all_images() -> None:
    stages = [Stage("a", fl.attacks.FGSM()), Stage("b", fl.attacks.PGD(steps=7, targets=9, restarts=3))]
    stages += [Stage("c", fl.attacks.PGD(steps=50), share=0.1), Stage("d", fl.attacks.UniformNoise(steps=99))]
    (doubled,) = [stage for stage in cross_checks(stages, MODELS, "linf", 10) if stage.name == "check-doubled"]
    assert doubled.attack == fl.attacks.PGD(steps=14)


@pytest.mark.parametrize("effort", ["quick", "standard"])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
def test_what_is_doubled_is_made_for_the_norm_and_ran_on_all(effort: str, norm: Any) -> None:
    """A longer attack of another norm, or one that waits for a success, would leave the check without an image."""
    stages = (*plan(effort), *adaptive_stages(Symptoms(50, agreement=0.3), MODELS, parse_threat(f"{norm}:1"), effort))
    ran = [stage for stage in stages if norm in stage.norms and stage.share == 1 and not stage.after]
    found = [stage for stage in cross_checks(stages, MODELS, norm, 40) if stage.name == "check-doubled"]
    assert len(found) == any(is_gradient_search(stage.attack) for stage in ran)
    for doubled in found:
        assert norm in doubled.norms
        assert doubled.attack.steps == 2 * max(s.attack.steps for s in ran if is_gradient_search(s.attack))


class After(nn.Module):
    """A linear net with something done to its logits."""

    def __init__(self, function: Any):
        super().__init__()
        self.inner, self.function = toys.linear(4), function

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.function(self.inner(x))
        return logits


def sharp(logits: Tensor) -> Tensor:
    return torch.sigmoid(20 * (logits - logits.topk(2, dim=1).values.mean(1, keepdim=True)))


def looked(folder: Path, function: Any) -> Symptoms:
    net = After(function)
    images = toys.images(net, 4, n=30, spread=0.5)
    subject = Subject(net, 4)
    judge = Judge(subject)
    rows, ranking = first_look(judge, images)
    models = adaptive.further_models(subject, {"fast": subject, "exact": subject}, images.x)
    ledger = create_ledger(folder / "ledger.sqlite", {})
    scene = Scene(subject, images, models, judge, ledger, ranking, 0, 8, True)
    found = look(scene, LINF, rows)
    ledger.close()
    return found


def test_a_linear_net_has_no_symptom(tmp_path: Path) -> None:
    found = looked(tmp_path, lambda z: z)
    assert (found.sample, found.useless, found.flat, found.tied, found.silent) == (30, 0, 0, 0, 0)
    assert found.agreement == pytest.approx(1)
    assert found.unexplained == pytest.approx(0, abs=1e-4)


def test_the_trapezoid_rule_explains_a_parabola(tmp_path: Path) -> None:
    """The first order alone would be wrong by the curvature; the two ends' gradients are exact."""
    assert looked(tmp_path, lambda z: 3 * z + z**2).unexplained == pytest.approx(0, abs=1e-3)


def test_a_margin_that_moves_by_jumps_is_unexplained(tmp_path: Path) -> None:
    """Stairs of 0.01 under a slope of a tenth: the gradients show a tenth of the change."""
    found = looked(tmp_path, lambda z: (z * 100).round().detach() / 100 + 0.1 * z)
    assert found.agreement == pytest.approx(1)
    assert found.unexplained == pytest.approx(1 / 1.1, abs=0.05)


def test_a_cut_gradient_is_useless_and_can_be_lent(tmp_path: Path) -> None:
    found = looked(tmp_path, lambda z: z.detach())
    assert (found.useless, found.lent) == (30, 30)


def test_steep_sigmoids_are_flat_or_useless(tmp_path: Path) -> None:
    found = looked(tmp_path, sharp)
    assert found.flat > 10


def test_logits_held_at_zero_tie(tmp_path: Path) -> None:
    found = looked(tmp_path, lambda z: torch.relu(z - z.amax(1, keepdim=True) + 0.1))
    assert found.tied > 20


def test_equal_logits_are_an_abstention(tmp_path: Path) -> None:
    assert looked(tmp_path, lambda z: torch.where(z.amax(1, keepdim=True) < 2, torch.zeros_like(z), z)).silent > 0


class Inner(nn.Module):
    """Takes a step of its own along a gradient before it answers."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = runs.templates()

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            moved = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.inner(moved).logsumexp(1).sum(), moved)
        logits: Tensor = self.inner(x + 0.01 * gradient.sign())
        return logits


class Quiet(nn.Module):
    """Computes without gradients, as anybody may."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = runs.templates()

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = x.clamp(0, 1)
        logits: Tensor = self.inner(x)
        return logits


def test_an_optimisation_inside_the_forward_pass_is_seen() -> None:
    (note,) = check_subject(Subject(Inner().eval(), 10), runs.digits(8))
    assert note.check == "inner-optimisation"
    assert "autograd" in note.evidence
    assert check_subject(Subject(Quiet().eval(), 10), runs.digits(8)) == ()


def test_what_breaks_a_sample_is_tried_on_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan too weak to break anything: twice its steps, and the transfer, find what it left."""
    weak = (Stage("pgd", fl.attacks.PGD(steps=2, step_size=0.01, random_start=False)),)
    monkeypatch.setattr("faultlight.evaluation.audit.plan", lambda effort: weak)
    run = fl.audit(runs.subject(), runs.digits(), "linf:0.15", tmp_path / "run", cross_check=True)
    ledger = read_ledger(tmp_path / "run" / "ledger.sqlite")
    strong = {"check-transfer", "transfer", "check-doubled", "doubled"}
    assert {row.broken_by for row in ledger.images() if row.broken} & strong
    assert ledger.attempts("transfer")
    assert "transfer-stronger" in {finding.check for finding in run.verdict.findings}
    assert run.verdict.status == "doubtful"


def test_a_plan_is_extended_by_what_symptoms_ask_for() -> None:
    """The search by queries stands for the canary; AutoAttack's protocol stays as it is."""
    threat, masked, standard = parse_threat("linf:0.1"), Symptoms(50, useless=50), plan("standard")
    healthy = adaptive.extended(standard, Symptoms(50), MODELS, threat, "standard", 40)
    assert healthy[: len(standard)] == standard
    found = [stage.name for stage in adaptive.extended(standard, masked, MODELS, threat, "standard", 40)]
    assert "black-box" in found
    assert CANARY not in found
    assert adaptive.extended(plan("exact"), masked, MODELS, threat, "exact", 40) == plan("exact")
