"""Which images a stage is run on, and when: samples, triggers, norms, and the plans themselves."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

import runs
from faultlight.attacks.apgd import APGD
from faultlight.attacks.fab import FAB
from faultlight.attacks.pgd import PGD
from faultlight.attacks.square import Square
from faultlight.errors import InputError
from faultlight.evaluation.ledger import create_ledger
from faultlight.evaluation.plan import CANARY, EXACT_SAMPLE, PLANS, Stage, plan
from faultlight.evaluation.probing import Scene, default_slots, first_look, judge_of, search_models
from faultlight.evaluation.rows import ImageRow, Proof, Status
from faultlight.evaluation.stages import _shortfall, chosen_rows, run_stages, spared_images
from faultlight.threat import parse_threat

WEAK = PGD(steps=1, random_start=False)
STRONG = PGD(steps=20)
NEAR, FAR = parse_threat("linf:0.02"), parse_threat("linf:0.3")


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    subject, images = runs.subject(), runs.digits(40)
    judge = judge_of(subject, (), 0)
    rows, ranking = first_look(judge, images)
    ledger = create_ledger(tmp_path / "ledger.sqlite", {})
    ledger.add_images(rows)
    models, _ = search_models(subject, images, ())
    return Scene(subject, images, models, judge, ledger, ranking, 0, default_slots(images, subject.device), True)


def standing(scene: Scene) -> list[int]:
    return [row for row, image in enumerate(scene.ledger.images()) if image.status == "standing"]


def test_a_stage_runs_on_its_share_nearest_first(scene: Scene) -> None:
    before = scene.ledger.images()
    run_stages(scene, NEAR, (Stage("some", WEAK, share=0.25),))
    rows = chosen_rows("some", scene.ledger)
    margins = sorted((image.clean_margin for image in before if image.status == "standing"), reverse=True)
    assert [before[row].clean_margin for row in rows] == margins[: len(rows)]
    assert len(rows) == -(-len(margins) // 4)


def test_certified_images_count_for_a_share_but_are_left_out_of_it(scene: Scene) -> None:
    rows = sorted(standing(scene), key=lambda row: -scene.ledger.images()[row].clean_margin)  # type: ignore[operator]
    open_rows = rows[: len(rows) // 2]
    scene.ledger.record_proofs(Proof(scene.ledger.images()[row].id, "interval", 1.0) for row in rows[len(open_rows) :])
    stages = (Stage("quarter", WEAK, share=0.25), Stage("most", WEAK, share=0.75))
    run_stages(scene, parse_threat("linf:0.0001"), stages)
    assert chosen_rows("quarter", scene.ledger) == open_rows[: -(-len(rows) // 4)]
    assert sorted(chosen_rows("most", scene.ledger)) == sorted(open_rows)
    assert spared_images("quarter", scene.ledger) == 0
    assert spared_images("most", scene.ledger) == math.ceil(0.75 * len(rows)) - len(open_rows)


def test_a_sample_is_drawn_at_random_and_the_same_by_every_stage(scene: Scene) -> None:
    stages = tuple(Stage(name, WEAK, share=0.1, least=5, sample=True) for name in ("one", "two"))
    run_stages(scene, parse_threat("linf:0.0001"), stages)
    first, second = (chosen_rows(name, scene.ledger) for name in ("one", "two"))
    assert first == second
    assert len(first) == 5
    nearest = sorted(standing(scene), key=lambda row: -scene.ledger.images()[row].clean_margin)  # type: ignore[operator]
    assert set(first) != set(nearest[:5])


def test_another_seed_draws_another_sample(scene: Scene) -> None:
    stage = Stage("one", WEAK, share=0.1, least=5, sample=True)
    run_stages(scene, parse_threat("linf:0.0001"), (stage,))
    scene.ledger.note("attacked", False)
    run_stages(replace(scene, seed=1), parse_threat("linf:0.0001"), (replace(stage, name="two"),))
    assert set(chosen_rows("one", scene.ledger)) != set(chosen_rows("two", scene.ledger))


@pytest.mark.parametrize(("threat", "follows"), [(FAR, True), (parse_threat("linf:0.0001"), False)])
def test_a_success_on_a_sample_has_all_attacked(scene: Scene, threat: object, follows: bool) -> None:
    sample = Stage("sample", STRONG, share=0.05, least=2, sample=True)
    run_stages(scene, threat, (sample, Stage("all", STRONG, after=("other", "sample"))))  # type: ignore[arg-type]
    assert bool(scene.ledger.attempts("all")) == follows
    assert len(chosen_rows("sample", scene.ledger)) == 2
    if follows:
        assert len(chosen_rows("all", scene.ledger)) > 20


def test_the_rest_is_what_the_stage_before_was_not_run_on(scene: Scene) -> None:
    before = standing(scene)
    part = Stage("part", PGD(steps=1, loss="margin"), share=0.5)
    run_stages(scene, parse_threat("linf:0.05"), (part, Stage("rest", WEAK, after=("part",), rest=True)))
    tried, rest = (set(chosen_rows(name, scene.ledger)) for name in ("part", "rest"))
    assert any(attempt.broke for attempt in scene.ledger.attempts("part"))
    assert not tried & rest
    assert tried | rest == set(before)


def test_a_stage_whose_attack_is_not_made_for_the_norm_is_left_out(scene: Scene) -> None:
    run_stages(scene, parse_threat("l0:1"), (Stage("square", Square(steps=5)), Stage("pgd", WEAK)))
    assert not scene.ledger.attempts("square")
    assert scene.ledger.attempts("pgd")


def test_the_exact_plan_is_autoattacks_standard_version() -> None:
    """Croce & Hein 2020: APGD-CE, APGD-T and FAB-T with 100 steps and 9 targets, Square with 5,000 queries."""
    stages = {stage.name: stage for stage in plan("exact")}
    assert list(stages) == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert stages["apgd-ce"].attack == APGD(steps=100, loss="cross-entropy", restarts=1, targets=0)
    assert stages["apgd-t"].attack == APGD(steps=100, loss="dlr", restarts=1, targets=9)
    assert stages["fab-t"].attack == FAB(steps=100, targets=9, restarts=1, alpha_max=0.1, eta=1.05, beta=0.9)
    assert stages["square"].attack == Square(steps=5000, share=0.8, rescaled=False)
    assert {stage.share for stage in stages.values()} == {1.0}


def test_the_standard_plan_watches_itself() -> None:
    stages = {stage.name: stage for stage in plan("standard")}
    assert (stages[CANARY].share, stages[CANARY].least) == (0.25, 100)
    assert CANARY in stages["square-all"].after
    for name in EXACT_SAMPLE:
        assert stages[name].sample
        follower = stages[f"{name.removeprefix('sample-')}-all"]
        assert name in follower.after
        assert follower.share == 1


@pytest.mark.parametrize("effort", PLANS)
def test_names_of_stages_are_unique(effort: str) -> None:
    names = [stage.name for stage in plan(effort)]
    assert len(set(names)) == len(names)


def test_an_unknown_effort_is_named() -> None:
    with pytest.raises(InputError, match="effort 'exat' is unknown"):
        plan("exat")


def test_a_stage_reaches_only_what_the_attacks_moved_far() -> None:
    """Short by 1 after a gain of 4 is a quarter, by 3 after a gain of 1 three; what nothing attacked is unreached."""
    row = partial(ImageRow, label=0, prediction=0, status=Status.STANDING)
    assert _shortfall(row(1, clean_margin=-5.0, margin=-1.0)) == 0.25
    assert _shortfall(row(2, clean_margin=-4.0, margin=-3.0)) == 3
    assert _shortfall(row(3, clean_margin=-4.0)) == math.inf
    assert _shortfall(row(4, clean_margin=-4.0, margin=-4.0)) == math.inf


def test_skipped_targets_are_left_to_an_earlier_stage(scene: Scene) -> None:
    """Of nine wrong classes one stage aims at the four likeliest, the other at the rest."""
    aimed = PGD(steps=1, random_start=False, targets=4)
    few, rest = Stage("few", aimed, together=True), Stage("rest", replace(aimed, targets=5), skip=4, together=True)
    run_stages(scene, parse_threat("linf:0.0001"), (few, rest))
    for row in standing(scene):
        image = scene.ledger.images()[row].id
        aims = [[a.target for a in scene.ledger.attempts(name) if a.id == image] for name in ("few", "rest")]
        assert [sorted(aims[0]), sorted(aims[1])] == [
            sorted(part.tolist()) for part in scene.ranking[row].split([4, 5])
        ]


def test_a_stage_without_a_target_left_is_left_out(scene: Scene) -> None:
    aimed = PGD(steps=1, random_start=False, targets=4)
    run_stages(scene, NEAR, (Stage("none", aimed, skip=9),))
    assert not scene.ledger.attempts("none")
