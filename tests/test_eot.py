"""Random models: averaged in the search, judged by many fresh draws, the same each time and for any number of slots."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import faultlight as fl
import runs
import toys
from faultlight.evaluation.judge import DRAWS, NEEDED, Judge
from faultlight.evaluation.oracle import RecordingOracle, Sampling
from faultlight.models.subject import Subject
from faultlight.threat import parse_threat

SHAPE = (1, 1, 2)


class Coin(nn.Module):
    """Prefers class 1 with the probability that its first pixel says, class 0 else."""

    def forward(self, x: Tensor) -> Tensor:
        heads = (torch.rand(len(x)) < x[:, 0, 0, 0]).float()
        return torch.stack([1 - heads, heads], dim=1) * 3


class Shifted(nn.Module):
    """A linear net behind noise of mean 0; a second source of luck is Python's."""

    def __init__(self, inner: nn.Module, spread: float):
        super().__init__()
        self.inner, self.spread = inner, spread

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x + self.spread * torch.randn_like(x)) * random.uniform(0.5, 1.5)
        return logits


def image(first: float) -> Tensor:
    return torch.tensor([first, 0.5]).view(1, *SHAPE)


def rule(first: float, label: int, key: int = 0) -> tuple[bool, float, int]:
    judge = Judge(Subject(Coin(), 2), DRAWS, key)
    one, any_class = torch.tensor([label]), torch.tensor([-1])
    ruling = judge.rule(image(first), image(first), one, any_class, parse_threat("linf:0.1"))
    return bool(ruling.accepted), float(ruling.share), int(ruling.prediction)


def test_a_break_needs_two_thirds_of_the_draws() -> None:
    for first in (0.05, 0.3, 0.5, 0.7, 0.95):
        for key in range(20):
            accepted, share, prediction = rule(first, 0, key)
            assert accepted == (share * DRAWS >= NEEDED)
            assert prediction == int(share > 0.5) or share == 0.5


def test_the_share_is_the_models_own_probability() -> None:
    shares = [rule(0.3, 0, key)[1] for key in range(100)]
    assert sum(shares) / len(shares) == pytest.approx(0.3, abs=4 * (0.3 * 0.7 / 3200) ** 0.5)


def test_a_fair_coin_is_hardly_ever_a_break() -> None:
    """The chance of 22 heads in 32 throws is 2.5 %."""
    assert sum(rule(0.5, 0, key)[0] for key in range(200)) <= 15


def test_clean_predictions_are_those_of_half_of_the_draws() -> None:
    judge = Judge(Subject(Coin(), 2), DRAWS)
    x = torch.cat([image(0.0), image(0.1), image(0.9), image(1.0)])
    logits, prediction = judge.predict(x, torch.tensor([0, 0, 0, 0]))
    assert prediction.tolist() == [0, 0, 1, 1]
    assert float(logits[0, 0]) == 3
    assert logits.shape == (4, 2)


def test_a_ruling_is_a_function_of_the_candidate() -> None:
    judge = Judge(Subject(Shifted(toys.linear(3), 0.3), 3), DRAWS)
    x = torch.rand(9, *toys.SHAPE, generator=torch.Generator().manual_seed(0))
    whole = judge.answers(x)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    assert torch.equal(judge.answers(x[order]), whole[:, order])
    assert torch.equal(judge.answers(x[4:5]), whole[:, 4:5])
    assert not torch.equal(judge.fresh(1).answers(x), whole)


def oracle(module: nn.Module, **changes: float) -> RecordingOracle:
    return RecordingOracle(module, 8, Sampling(module=module, **changes))  # type: ignore[arg-type]


def test_gradients_of_a_random_net_are_means_over_its_draws() -> None:
    """A linear net's gradient does not feel the noise, and the factor's mean is 1."""
    net = toys.linear(2)
    x = torch.rand(5, *toys.SHAPE, generator=torch.Generator().manual_seed(0))
    asked = oracle(Shifted(net, 0.2), draws=400)
    logits, _, gradient = asked.differentiate(x, lambda z, part: z[:, 1] - z[:, 0])
    weight = net[1].weight
    assert isinstance(weight, Tensor)
    slope = (weight[1] - weight[0]).detach().view(1, *toys.SHAPE)
    assert float((gradient / slope).mean()) == pytest.approx(1, abs=4 * 0.289 / 400**0.5)
    assert torch.allclose(logits, net(x), atol=0.3)
    (question,) = asked.forget()
    assert (question.draws, question.backward) == (400, True)


def test_the_search_draws_anew_at_each_point_and_the_same_at_the_same() -> None:
    model = Shifted(toys.linear(2), 0.2)
    x = torch.rand(5, *toys.SHAPE, generator=torch.Generator().manual_seed(0))
    asked = oracle(model, draws=2)
    assert torch.equal(asked.logits(x), asked.logits(x))
    apart = asked.logits(x + 1e-6) - asked.logits(x)
    assert float(apart.abs().max()) > 1e-3


class Stairs(nn.Module):
    """A slope in stairs of a hundredth: its own gradient points down, and says nothing."""

    def forward(self, x: Tensor) -> Tensor:
        value = x.flatten(1).sum(1)
        rough = (value * 100).floor() / 100 - (value - (value * 100).floor() / 100) * 0.5
        return torch.stack([torch.zeros_like(rough), rough], dim=1)


def test_smoothed_gradients_see_the_slope_behind_the_teeth() -> None:
    x = torch.rand(6, *toys.SHAPE, generator=torch.Generator().manual_seed(0))

    def function(logits: Tensor, part: slice) -> Tensor:
        return logits[:, 1]

    plain = RecordingOracle(Stairs(), 8)
    smoothed = RecordingOracle(Stairs(), 8, Sampling(draws=64, noise=0.1))
    assert float(plain.differentiate(x, function)[2].mean()) == pytest.approx(-0.5)
    logits, value, gradient = smoothed.differentiate(x, function)
    assert torch.equal(logits, Stairs()(x))
    assert torch.equal(value, logits[:, 1])
    assert torch.equal(smoothed.differentiate(x[3:4], function)[2], gradient[3:4])
    # The teeth's own slope is what autograd sees wherever it looks: the mean of it is no better.
    assert float(gradient.mean()) == pytest.approx(-0.5)


def test_noise_averages_a_gradient_that_changes_its_sign() -> None:
    class Ripples(nn.Module):
        """A slope of 1 under ripples of slope ±20, a hundredth wide."""

        def forward(self, x: Tensor) -> Tensor:
            value = x.flatten(1)
            rough = (value + 0.03 * torch.sin(value * 628)).sum(1)
            return torch.stack([torch.zeros_like(rough), rough], dim=1)

    x = torch.rand(6, *toys.SHAPE, generator=torch.Generator().manual_seed(0))
    sampling = Sampling(draws=500, noise=0.1)
    _, _, gradient = RecordingOracle(Ripples(), 8, sampling).differentiate(x, lambda z, part: z[:, 1])
    assert gradient.flatten().tolist() == pytest.approx([1.0] * gradient.numel(), abs=5 * 13.3 / 500**0.5)


class Noisy(nn.Module):
    """The templates behind noise."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = runs.templates()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x + 0.05 * torch.randn_like(x))
        return logits


def audited(folder: Path, slots: int = 0, effort: str = "quick") -> tuple[fl.Run, dict[str, object]]:
    run = fl.audit(runs.subject(Noisy()), runs.digits(12), "linf:0.15", folder, slots=slots, effort=effort)
    return run, runs.outcome(folder)


@pytest.mark.slow
def test_audits_of_a_random_model_are_reproducible(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    subject = runs.subject(Noisy())
    after_making = torch.get_rng_state()
    run = fl.audit(subject, runs.digits(12), "linf:0.15", tmp_path / "one", effort="quick")
    assert torch.equal(torch.get_rng_state(), after_making)
    torch.set_rng_state(before)
    torch.manual_seed(99)
    _, again = audited(tmp_path / "again")
    _, slots = audited(tmp_path / "slots", slots=7)
    assert runs.outcome(tmp_path / "one") == again == slots
    assert run.verdict.status == "doubtful"
    assert "random-output" in {finding.check for finding in run.verdict.findings}


@pytest.mark.slow
def test_averaging_reaches_what_the_net_behind_the_noise_gives_up(tmp_path: Path) -> None:
    plain = fl.audit(runs.subject(), runs.digits(12), "linf:0.15", tmp_path / "plain", effort="quick")
    run, _ = audited(tmp_path / "noisy")
    assert plain.verdict.attacked is not None
    assert run.verdict.attacked is not None
    assert abs(run.verdict.attacked.count - plain.verdict.attacked.count) <= 3
