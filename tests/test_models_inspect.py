"""What is noted about a subject before anything is spent on it."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from faultlight.data.images import Images
from faultlight.errors import InputError
from faultlight.models import inspect, zoo
from faultlight.models.subject import Subject

N = 20


def images(classes: int = 10, n: int = N, side: int = 8) -> Images:
    x = torch.rand(n, 1, side, side, generator=torch.Generator().manual_seed(0))
    return Images(x, torch.arange(n) % classes, torch.arange(n), tuple(map(str, range(classes))))


class Bent(nn.Module):
    """A sound net whose logits pass through a function at the end."""

    def __init__(self, bend: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net = zoo.build("digits-cnn", 10, (1, 8, 8))
        self.bend = bend

    def forward(self, x: Tensor) -> Tensor:
        return self.bend(self.net(x))


def notes(bend: Callable[[Tensor], Tensor], n: int = N) -> dict[str, str]:
    subject = Subject(Bent(bend).eval(), 10)
    return {note.check: note.evidence for note in inspect.check_subject(subject, images(n=n))}


def measure(function: Callable[[Subject, Tensor], float], bend: Callable[[Tensor], Tensor]) -> float:
    return function(Subject(Bent(bend).eval(), 10), images().x)


# Networks that refuse images of 8 × 8 pixels.
LARGE = {"cnn-a", "cnn-basic", "cnn-basic-tanh", "fast-cifar", "lenet5", "threshold-cnn-bn", "vgg16"}


@pytest.mark.parametrize("name", zoo.names())
def test_a_sound_model_gets_no_note(name: str) -> None:
    options = {"width": 16} if name == "resnet18" else {}
    given = images(side=32 if name in LARGE else 8)
    subject = Subject(zoo.build(name, 10, given.shape, **options).eval(), 10)
    assert inspect.check_subject(subject, given) == ()
    assert inspect.batch_dependence(subject, given.x) < 1e-4


def test_the_notes_of_the_subject_come_first() -> None:
    subject = Subject(nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(64, 10)).train(), 10)
    assert [note.check for note in inspect.check_subject(subject, images())] == ["train-mode"]


@pytest.mark.parametrize("width", [9, 11, 1000])
def test_a_head_of_another_width_is_refused_after_at_most_two_images(width: int) -> None:
    seen: list[int] = []
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, width)).eval()
    module.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    with pytest.raises(InputError, match=rf"gives \(2, {width}\)"):
        inspect.check_subject(Subject(module, 10), images())
    assert seen == [2]
    with pytest.raises(InputError, match=f"has {width} classes where the data has 10"):
        inspect.check_subject(Subject(module, width), images())
    assert seen == [2]


def test_images_of_another_shape_are_refused() -> None:
    subject = Subject(zoo.build("digits-cnn", 10, (3, 8, 8)).eval(), 10)
    with pytest.raises(InputError, match=r"cannot take images of shape \(1, 8, 8\)"):
        inspect.check_subject(subject, images())


def test_probabilities_are_noted_and_measured() -> None:
    found = notes(lambda z: z.softmax(1))
    assert found == {"probabilities": "all 20 outputs lie in [0, 1] and sum to 1: probabilities, not logits"}
    half = torch.arange(N).view(-1, 1) % 2 == 0
    assert measure(inspect.probability_share, lambda z: torch.where(half[: len(z)], z.softmax(1), z * 100)) == 0.5


@pytest.mark.parametrize("bend", [lambda z: z.log_softmax(1), lambda z: z.sigmoid(), lambda z: z.relu() + 2])
def test_other_bounded_outputs_are_no_probabilities(bend: Callable[[Tensor], Tensor]) -> None:
    assert notes(bend) == {}


def test_random_logits_are_noted_and_measured() -> None:
    found = notes(lambda z: z + 0.1 * torch.randn_like(z))
    assert list(found) == ["random-output"]
    steps = iter([4.0, 5.0])
    assert measure(inspect.randomness, lambda z: 0 * z + next(steps)) == 0.25  # |4 − 5| / 4


def test_another_order_of_sums_is_not_random() -> None:
    steps = iter([1.0, 1.0 + 1e-6] * 9)
    assert notes(lambda z: z * next(steps)) == {}


def test_dropout_called_as_a_function_is_noted() -> None:
    assert "random-output" in notes(lambda z: nn.functional.dropout(z, 0.5))


def test_logits_that_mix_the_batch_are_noted_and_measured() -> None:
    found = notes(lambda z: z - z.mean(0))
    assert list(found) == ["batch-dependent"]
    # Alone, z − mean = 0: the whole logit of the first four is lost, and the share is that of the largest: 1.
    assert measure(inspect.batch_dependence, lambda z: z - z.mean(0)) == 1.0


def test_batch_norm_without_running_statistics_is_noted() -> None:
    module = nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), nn.Flatten(), nn.Linear(64, 10)).eval()
    assert [note.check for note in inspect.check_subject(Subject(module, 10), images())] == ["batch-dependent"]


def test_a_model_that_rejects_an_image_alone_is_noted() -> None:
    module = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64, track_running_stats=False), nn.Linear(64, 10)).eval()
    subject = Subject(module, 10)
    assert inspect.batch_dependence(subject, images().x) == math.inf
    (note,) = inspect.check_subject(subject, images())
    assert note.check == "batch-dependent"
    assert "rejects an image alone" in note.evidence


def test_small_logits_that_mix_the_batch_are_noted_too() -> None:
    assert list(notes(lambda z: 1e-4 * (z - z.mean(0)))) == ["batch-dependent"]


def test_logits_that_are_not_finite_are_noted_and_counted() -> None:
    clean = inspect.logits(Subject(Bent(lambda z: z).eval(), 10), images().x)
    middle = clean[:, :1].mean()
    due = int((clean[:, :1] > middle).sum())
    assert 0 < due < N

    def spoil(z: Tensor) -> Tensor:
        return torch.where(z[:, :1] > middle, torch.nan, z)

    assert measure(inspect.nonfinite_images, spoil) == due
    assert list(notes(spoil)) == ["not-finite"]


def test_logits_finite_in_one_call_only_are_random() -> None:
    steps = iter([0.0, math.nan])
    assert measure(inspect.randomness, lambda z: 0 * z + next(steps)) == math.inf


def test_a_single_image_is_enough() -> None:
    assert notes(lambda z: z, n=1) == {}


def test_gradients_are_not_recorded() -> None:
    x = images().x.requires_grad_(True)
    assert not inspect.logits(Subject(Bent(lambda z: z).eval(), 10), x).requires_grad
