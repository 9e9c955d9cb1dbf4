"""Layers that gradients pass as if they were the identity: the same logits, the gradient of what lies behind."""

from __future__ import annotations

import copy
import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from faultlight.attacks.pgd import PGD
from faultlight.errors import InputError
from faultlight.models import zoo
from faultlight.models.subject import Subject
from faultlight.models.zoo._parts import Threshold
from faultlight.threat import parse_threat
from faultlight.train import Splits, load_recipe, run, train
from faultlight.train.flat import pass_straight
from faultlight.train.inner import pose, run_attack
from faultlight.train.measure import withstood
from faultlight.train.memory import load_splits

SHAPE = (1, 2, 2)


def behind() -> nn.Module:
    torch.manual_seed(0)
    layers = OrderedDict(threshold=Threshold(0.4), flatten=nn.Flatten(), fc=nn.Linear(4, 3))
    return nn.Sequential(layers)


def gradient(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    leaf = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(module(leaf)[:, 1].sum(), leaf)
    return found


def test_the_logits_stay_and_the_gradient_is_that_of_the_layers_behind() -> None:
    module = behind()
    x = torch.tensor([[0.0, 0.3], [0.5, 1.0]]).view(1, 1, 2, 2)
    own, logits = gradient(module, x), module(x)
    assert own.count_nonzero() == 1, "only the pixel on the slope moves anything"
    pass_straight(module, "threshold", SHAPE)
    for each in (module, copy.deepcopy(module)):
        assert torch.equal(each(x), logits)
        torch.testing.assert_close(gradient(each, x), module.fc.weight[1].view(1, 1, 2, 2))


def test_an_attack_in_training_sees_past_the_threshold() -> None:
    module = behind().eval()
    x, y = torch.full((1, *SHAPE), 0.2), torch.tensor([0])
    problem = pose(module, x, y, y, parse_threat("linf:0.1"), key=0)
    fgsm = PGD(steps=1, step_size=1.0, random_start=False)
    assert torch.equal(run_attack(fgsm, problem), x), "the threshold is flat there"
    uphill = module(x).softmax(1) - functional.one_hot(y, 3)
    due = x + 0.1 * (uphill @ module.fc.weight).sign().view_as(x)
    pass_straight(module, "threshold", SHAPE)
    torch.testing.assert_close(run_attack(fgsm, problem), due)


def test_the_mode_of_the_network_stays_and_no_name_changes_nothing() -> None:
    module = behind().train()
    pass_straight(module, "threshold", SHAPE)
    assert module.training
    untouched = behind()
    pass_straight(untouched, "", SHAPE)
    assert gradient(untouched, torch.zeros(1, *SHAPE)).count_nonzero() == 0


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("treshold", "there is no layer 'treshold'; did you mean 'threshold'"),
        ("fc", "the layer 'fc' learns"),
        ("flatten", "the layer 'flatten' changes the shape"),
    ],
)
def test_layers_that_cannot_be_passed_are_refused(layer: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        pass_straight(behind(), layer, SHAPE)


def test_a_misspelt_layer_leaves_no_folder(tmp_path: Path) -> None:
    asked = load_recipe("digits-cnn", {"objective.name": "adversarial", "objective.straight_through": "front"})
    with pytest.raises(InputError, match="there is no layer 'front'"):
        train(asked, out=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run" / "run.toml").exists()


def test_the_robust_figure_sees_past_the_layer_and_the_kept_network_has_its_own_gradient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[Subject] = []

    def watched(subject: Subject, *others: Any) -> torch.Tensor:
        judged.append(subject)
        return withstood(subject, *others)

    monkeypatch.setattr(run, "withstood", watched)
    whole = load_splits("digits", 0)
    few = Splits(whole.train.first(64), whole.validation.first(16), whole.test.first(16))
    settings = {"objective.name": "adversarial", "objective.threat": "linf:0.2", "objective.steps": 1}
    settings |= {"objective.straight_through": "threshold", "model": "threshold-cnn", "epochs": 1, "batch": 32}
    settings |= {"robust_target.threat": "linf:0.2", "robust_target.at_least": 0.0, "robust_target.steps": 2}
    result = train(load_recipe("digits-cnn", settings), out=tmp_path / "run", data=few, quiet=True)
    black = torch.zeros(1, 1, 8, 8)
    assert gradient(judged[0].module, black).count_nonzero() > 0
    assert gradient(result.subject().module, black).count_nonzero() == 0
    assert torch.equal(judged[0](few.test.x), result.subject()(few.test.x))
    record = json.loads((tmp_path / "run/records/training.json").read_text())
    assert record["robust_target"]["straight_through"] == "threshold"


def test_the_network_behind_the_threshold_is_that_of_the_zoo() -> None:
    module = zoo.build("threshold-cnn-bn", 10, (1, 28, 28))
    assert zoo.family("threshold-cnn-bn").recipe == "threshold-cnn-bn-mnist-robust"
    front = module.threshold(torch.tensor([0.0, 0.4, 0.45, 0.5, 0.6, 1.0]))
    torch.testing.assert_close(front, torch.tensor([0.0, 0.0, 0.25, 0.5, 1.0, 1.0]))
