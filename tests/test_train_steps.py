"""The loop that counts steps: resumption to the bit, NaN, Ctrl-C, and the folder around it."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from faultlight.errors import InputError
from faultlight.train import steps, steps_recipe
from faultlight.train.recipe import Optimiser
from faultlight.train.state import CHECKPOINT
from faultlight.train.steps import StepPlan, StepState, build_optimiser, fit, restore, save
from faultlight.train.steps_run import StepRun, fill_weights, read_facts, run_in_folder, save_weights


class ToyRecipe(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    kind: Literal["toy"] = "toy"
    name: str
    steps: int = 3
    optimiser: Optimiser = Optimiser()


def start() -> StepState:
    net = nn.Linear(2, 1)
    with torch.no_grad():
        net.weight.fill_(1.0)
        net.bias.zero_()
    return StepState({"net": net}, {"net": build_optimiser(Optimiser(momentum=0.9, lr=0.1), net.parameters())})


def step(state: StepState) -> dict[str, Tensor]:
    loss = (state.modules["net"](torch.randn(4, 2)) ** 2).mean()
    state.optimisers["net"].zero_grad()
    loss.backward()
    state.optimisers["net"].step()
    state.extra[f"seen/{state.step}"] = loss.detach()
    return {"loss": loss}


def plan(**settings: Any) -> StepPlan:
    return replace(StepPlan("toy", 7, 0, 3, step, lambda state: {"count": float(state.step)}, quiet=True), **settings)


def breaks_at(due: int, break_it: Callable[[StepState], None]) -> Callable[[StepState], dict[str, Tensor]]:
    def broken(state: StepState) -> dict[str, Tensor]:
        found = step(state)
        if state.step == due:
            break_it(state)
        return found

    return broken


def test_a_row_holds_the_means_since_the_row_before() -> None:
    state = start()
    fit(plan(), state)
    losses = [float(state.extra[f"seen/{i}"].double()) for i in range(7)]
    assert [row["step"] for row in state.history] == [3, 6, 7]
    assert state.history[0]["loss"] == pytest.approx(sum(losses[:3]) / 3, rel=1e-12)
    assert state.history[2]["loss"] == pytest.approx(losses[6], rel=1e-12)
    assert [row["count"] for row in state.history] == [3.0, 6.0, 7.0]


def test_a_run_that_goes_on_computes_the_numbers_of_an_unbroken_one(tmp_path: Path) -> None:
    whole, first, second = start(), start(), start()
    fit(plan(), whole)
    fit(plan(steps=4, record_every=3), first)
    del first.history[-1]
    first.sums, first.since = {"loss": first.extra["seen/3"].double()}, 1
    save(first, tmp_path)
    torch.manual_seed(12345)
    assert restore(second, tmp_path)
    fit(plan(), second)
    assert torch.equal(second.modules["net"].weight, whole.modules["net"].weight)
    for kept, due in zip(second.history, whole.history, strict=True):
        assert {**kept, "seconds": 0} == {**due, "seconds": 0}
    assert second.extra.keys() == whole.extra.keys()


def test_the_global_generator_is_left_as_it_was() -> None:
    state = start()
    torch.manual_seed(3)
    due = torch.randn(2)
    torch.manual_seed(3)
    fit(plan(), state)
    assert torch.equal(torch.randn(2), due)


def test_nan_is_caught_and_what_was_kept_stays(tmp_path: Path) -> None:
    def poison(state: StepState) -> None:
        state.modules["net"].weight.data.fill_(float("nan"))

    keep = plan(keep=lambda state: save(state, tmp_path), step=breaks_at(4, poison), advice="lower optimiser.lr")
    with pytest.raises(InputError, match=r"NaN or infinite by step 6 of 7; lower optimiser.lr, and begin again with"):
        fit(keep, start())
    kept = start()
    assert restore(kept, tmp_path)
    assert kept.is_finite()


def test_ctrl_c_keeps_the_state_between_two_steps(tmp_path: Path) -> None:
    def press(_state: StepState) -> None:
        signal.raise_signal(signal.SIGINT)

    interrupted, resumed, whole = start(), start(), start()
    with pytest.raises(KeyboardInterrupt):
        fit(plan(keep=lambda state: save(state, tmp_path), step=breaks_at(4, press)), interrupted)
    assert restore(resumed, tmp_path)
    assert resumed.step == 5
    fit(plan(), resumed)
    fit(plan(), whole)
    assert torch.equal(resumed.modules["net"].weight, whole.modules["net"].weight)


def test_a_damaged_checkpoint_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).write_bytes(b"no checkpoint")
    with pytest.raises(InputError, match="is damaged"):
        restore(start(), tmp_path)


def toy_run(**settings: Any) -> StepRun:
    def weights(state: StepState, out: Path) -> None:
        save_weights(out, "toy", state.modules["net"], {"inputs": 2})

    def finish(state: StepState, _out: Path) -> dict[str, Any]:
        return {"figure": state.history[-1]["loss"]}

    recipe = ToyRecipe(name="toy", **settings)
    return StepRun("toy", recipe, {"train": "abc"}, plan(steps=recipe.steps), start, weights, finish)


def poisoned(state: StepState) -> None:
    state.modules["net"].weight.data.fill_(float("nan"))


def test_after_nan_the_weights_kept_before_it_can_be_used(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept at each step, the NaN of the eighth leaves the weights of the seventh."""
    monkeypatch.setattr(steps, "_SAVE_EVERY_SECONDS", -1.0)
    monkeypatch.setattr(steps, "_CHECK_EVERY_STEPS", 1)
    broken = replace(toy_run(), plan=plan(steps=9, step=breaks_at(7, poisoned)))
    with pytest.raises(
        InputError, match=r"by step 8 of 9; .* since --resume would .* the weights of step 7, .* used\.$"
    ):
        run_in_folder(broken, run_folder, resume=False)
    assert read_facts(run_folder, "toy", {"inputs"})["stopped_at"] == 7
    due = start()
    fit(plan(steps=7), due)
    kept = fill_weights(nn.Linear(2, 1), run_folder)
    assert torch.equal(kept.weight, due.modules["net"].weight)
    assert not (run_folder / "records/training.json").exists()
    run_in_folder(replace(toy_run(), plan=plan(steps=9)), run_folder, resume=True)
    assert "stopped_at" not in read_facts(run_folder, "toy", {"inputs"})


def test_nan_before_anything_was_kept_leaves_no_weights(run_folder: Path) -> None:
    broken = replace(toy_run(), plan=plan(step=breaks_at(2, poisoned)))
    with pytest.raises(InputError, match="nothing that was learnt before that was kept"):
        run_in_folder(broken, run_folder, resume=False)
    assert not (run_folder / "model.json").exists()


def test_a_folder_gets_what_was_asked_and_what_came_of_it(run_folder: Path) -> None:
    record = run_in_folder(toy_run(), run_folder, resume=False)
    assert record["kind"] == "toy"
    assert record["figure"] == record["steps"][-1]["loss"]
    assert json.loads((run_folder / "records/training.json").read_text()) == record
    assert json.loads((run_folder / "stamp.json").read_text())["hashes"]["data/train"] == "abc"
    assert not (run_folder / CHECKPOINT).exists()
    facts = read_facts(run_folder, "toy", {"inputs"})
    net = fill_weights(nn.Linear(facts["inputs"], 1), run_folder)
    assert not net.training


def test_a_finished_run_is_read_and_another_is_refused(run_folder: Path) -> None:
    record = run_in_folder(toy_run(), run_folder, resume=False)
    assert run_in_folder(toy_run(), run_folder, resume=True) == record
    with pytest.raises(InputError, match="already holds"):
        run_in_folder(toy_run(), run_folder, resume=False)
    with pytest.raises(InputError, match=r"recipe.steps was 3, now 4"):
        run_in_folder(toy_run(steps=4), run_folder, resume=True)


def test_a_folder_of_another_kind_and_changed_weights_are_refused(run_folder: Path) -> None:
    run_in_folder(toy_run(), run_folder, resume=False)
    with pytest.raises(InputError, match="holds no network that `faultlight other train` wrote"):
        read_facts(run_folder, "other", set())
    with pytest.raises(InputError, match="lacks width"):
        read_facts(run_folder, "toy", {"width"})
    (run_folder / "model.safetensors").write_bytes(b"changed")
    with pytest.raises(InputError, match=r"is not what model.json was written with"):
        read_facts(run_folder, "toy", set())


def test_recipes_are_found_by_name_or_path_and_mended_by_settings(tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text('kind = "toy"\nname = "small"\n[optimiser]\nlr = 0.5\n')
    found = steps_recipe.load(ToyRecipe, tmp_path, "small", {"optimiser.momentum": 0.5})
    assert (found.optimiser.lr, found.optimiser.momentum) == (0.5, 0.5)
    assert steps_recipe.load(ToyRecipe, tmp_path, str(tmp_path / "small.toml")).name == "small"
    assert steps_recipe.load(ToyRecipe, tmp_path, f"{tmp_path.name}/small").name == "small"
    assert steps_recipe.names(tmp_path) == ("small",)


@pytest.mark.parametrize(
    ("spec", "overrides", "said"),
    [
        ("smal", {}, "did you mean 'small'"),
        ("small", {"stepps": 3}, r"no key 'stepps'; did you mean 'steps'"),
        ("small", {"optimiser.rate": 3}, r"no key 'rate' in \[optimiser\]; .*lr"),
        ("small", {"steps": "many"}, "steps should be a valid integer, not 'many'"),
        ("small", {"name.x": 1}, "holds a value, not a table"),
        ("absent.toml", {}, "cannot be read"),
    ],
)
def test_a_wrong_recipe_is_one_sentence(tmp_path: Path, spec: str, overrides: dict[str, Any], said: str) -> None:
    (tmp_path / "small.toml").write_text('kind = "toy"\nname = "small"\n')
    with pytest.raises(InputError, match=said):
        steps_recipe.load(ToyRecipe, tmp_path, spec, overrides)


def test_a_key_that_is_missing_and_text_that_is_no_toml(tmp_path: Path) -> None:
    (tmp_path / "bare.toml").write_text('kind = "toy"\n')
    (tmp_path / "wrong.toml").write_text("kind = \n")
    with pytest.raises(InputError, match="the key 'name' is missing"):
        steps_recipe.load(ToyRecipe, tmp_path, "bare")
    with pytest.raises(InputError, match="not valid TOML"):
        steps_recipe.load(ToyRecipe, tmp_path, "wrong")


def test_resuming_where_there_is_no_run_says_that_it_begins(
    run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = replace(toy_run(), plan=plan(steps=3, quiet=False))
    for _ in range(2):
        run_in_folder(run, run_folder, resume=True)
    assert capsys.readouterr().err.count(f"{run_folder} holds no run to go on with; it begins anew") == 1
