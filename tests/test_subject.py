"""The subject: frozen, float32, in evaluation mode, and exact about its shape."""

from __future__ import annotations

import itertools
import weakref
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from faultlight.errors import InputError
from faultlight.models.load import load_model
from faultlight.models.subject import NOTE_TRAIN_MODE, Normalised, Subject

X = torch.linspace(0, 1, 2 * 64).view(2, 1, 8, 8)


def linear(classes: int = 10) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes)).eval()


class Says(nn.Module):
    """A model whose forward is the given function."""

    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)  # type: ignore[operator, no-any-return]


def test_logits_are_those_of_the_module() -> None:
    module = linear()
    assert torch.equal(Subject(module, 10)(X), module(X))


def test_the_module_given_is_left_alone() -> None:
    module = linear().double().train()
    Subject(module, 10)
    assert module.training
    assert all(p.requires_grad and p.dtype == torch.float64 for p in module.parameters())


def test_weights_are_frozen_and_pixels_get_their_gradient() -> None:
    module = linear()
    subject = Subject(module, 10)
    x = X.clone().requires_grad_(True)
    subject(x)[:, 3].sum().backward()
    assert all(p.grad is None and not p.requires_grad for p in subject.module.parameters())
    assert torch.equal(x.grad[0].flatten(), module[1].weight[3])


def test_normalisation_is_mean_and_deviation_per_channel() -> None:
    x = torch.rand(2, 3, 2, 2)
    out = Normalised(nn.Flatten(), mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))(x).view(2, 3, 2, 2)
    for channel, (mean, std) in enumerate([(0.1, 0.5), (0.2, 0.25), (0.3, 2.0)]):
        torch.testing.assert_close(out[:, channel], (x[:, channel] - mean) / std)


def test_training_mode_is_left_and_noted() -> None:
    module = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10)).train()
    subject = Subject(module, 10)
    assert [note.check for note in subject.notes] == [NOTE_TRAIN_MODE]
    assert "(2 modules)" in subject.notes[0].evidence
    assert not any(child.training for child in subject.module.modules())
    before = subject.module[0].running_mean.clone()
    assert torch.equal(subject(X), subject(X))
    assert torch.equal(subject.module[0].running_mean, before)


def test_training_mode_is_not_noted_where_it_means_nothing() -> None:
    assert Subject(linear().train(), 10).notes == ()
    assert Subject(nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 10)).eval(), 10).notes == ()


def test_a_head_of_a_thousand_on_ten_classes_is_refused() -> None:
    with pytest.raises(InputError, match=r"gives \(2, 1000\) for 2 images where \(2, 10\) is due"):
        Subject(linear(1000), 10)(X)


def test_an_output_that_is_no_tensor_is_refused() -> None:
    with pytest.raises(InputError, match="gives tuple for 2 images"):
        Subject(Says(lambda x: (x, x)), 10)(X)


@pytest.mark.parametrize("kind", [RuntimeError, ValueError, TypeError, IndexError, AttributeError, AssertionError])
def test_a_forward_that_rejects_the_pixels_is_told_in_one_line(kind: type[Exception]) -> None:
    def reject(x: Tensor) -> Tensor:
        raise kind("wrong size\nand a trace")

    with pytest.raises(InputError) as caught:
        Subject(Says(reject), 10)(X)
    assert "images of shape (1, 8, 8): wrong size; choose" in str(caught.value)
    assert "trace" not in str(caught.value)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_lack_of_memory_stays_what_it_is(error: RuntimeError) -> None:
    def exhaust(x: Tensor) -> Tensor:
        raise error

    with pytest.raises(RuntimeError) as caught:
        Subject(Says(exhaust), 10)(X)
    assert caught.value is error


def test_logits_of_another_type_become_float32() -> None:
    subject = Subject(Says(lambda x: x.flatten(1)[:, :10].double()), 10)
    assert subject(X).dtype == torch.float32


def test_a_model_that_cannot_be_copied_is_refused() -> None:
    module = linear()
    module.held = weakref.ref(module)
    module.generator = (i for i in range(3))
    with pytest.raises(InputError, match="cannot be copied"):
        Subject(module, 10)


def test_fingerprint_tells_every_weight_and_buffer_apart() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 10)).eval()
    prints = [Subject(module, 10).fingerprint()]
    with torch.no_grad():
        module[2].weight[0, 0] += 1e-6
    prints.append(Subject(module, 10).fingerprint())
    module[0].running_var += 1e-6
    prints.append(Subject(module, 10).fingerprint())
    assert len(set(prints)) == 3
    assert Subject(module, 10).fingerprint() == prints[-1]


def test_fingerprint_tells_architectures_with_the_same_weights_apart() -> None:
    head = nn.Linear(64, 10)
    plain = Subject(nn.Sequential(nn.Flatten(), head), 10)
    bent = Subject(nn.Sequential(nn.Flatten(), head, nn.ReLU()), 10)
    assert plain.fingerprint() != bent.fingerprint()


def test_fingerprint_holds_no_address_and_sees_a_changed_forward(tmp_path: Path) -> None:
    text = """
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.act = lambda x: x
    def extra_repr(self):
        return repr(self.act)
    def forward(self, x):
        return x.flatten(1)[:, :10] * {factor}
"""
    prints = []
    for number, factor in itertools.product((1, 2), (2, 3)):
        path = tmp_path / str(number) / f"net{factor}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text.format(factor=factor))
        prints.append(load_model(f"{path}:Net", classes=10, trust=True).fingerprint())
    assert prints[0] == prints[2]
    assert prints[0] != prints[1]
