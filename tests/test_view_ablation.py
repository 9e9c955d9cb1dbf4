"""Ablation: by hand, against nets built without the part, and what cannot be replaced."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from faultlight.data.images import Images
from faultlight.errors import InputError
from faultlight.models.subject import Subject
from faultlight.views import listening
from faultlight.views.ablation import Ablation


def by_hand() -> tuple[Subject, Images]:
    """Two features, the left and the right pixel, each the logit of a class; the third class has logit 0.25."""
    conv = nn.Conv2d(1, 2, (1, 2), bias=False)
    conv.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).view(2, 1, 1, 2)
    head = nn.Linear(2, 3)
    head.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    head.bias.data = torch.tensor([0.0, 0.0, 0.25])
    net = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), head)
    x = torch.tensor([[1.0, 0.0], [0.5, 0.0], [0.0, 1.0], [0.0, 0.0]]).view(4, 1, 1, 2)
    return Subject(net.eval(), 3), Images(x, torch.tensor([0, 0, 1, 2]), torch.arange(4), ("left", "right", "none"))


def softmax(*logits: float) -> np.ndarray:
    odds = np.exp(np.array(logits))
    return odds / odds.sum()


def test_the_hand_computed_channels() -> None:
    arrays = Ablation(layer="1")(*by_hand()).arrays
    assert float(arrays["clean_accuracy"]) == 1
    # Without the left feature the two left images go to the third class; without the right one, the right image.
    np.testing.assert_allclose(arrays["accuracy"], [0.5, 0.75])
    np.testing.assert_allclose(arrays["class_accuracy"], [[0, 1, 1], [1, 0, 1]])
    expected = [softmax(0, 0, 0.25)[0], softmax(0, 0, 0.25)[0], softmax(0, 1, 0.25)[1], softmax(0, 0, 0.25)[2]]
    np.testing.assert_allclose(arrays["probability"][0], np.mean(expected), rtol=1e-6)


def test_the_hand_computed_layers() -> None:
    result = Ablation()(*by_hand())
    assert result.facts["replaced"] == ["0", "1", "2", "3"]
    # Zeros before the head leave its bias: all go to the third class. A head of zeros ties, and the first class wins.
    np.testing.assert_allclose(result.arrays["accuracy"], [0.25, 0.25, 0.25, 0.5])
    np.testing.assert_array_equal(result.arrays["counts"], [2, 1, 1])


def test_a_channel_at_its_mean_by_hand() -> None:
    arrays = Ablation(layer="1", by="mean")(*by_hand()).arrays
    # The left feature becomes 1.5 / 4 everywhere: the fourth image goes left, the right one keeps its 1.
    np.testing.assert_allclose(arrays["class_accuracy"][0], [1, 1, 0])
    # The right feature becomes 0.25, a tie with the bias of the third class: the earlier class wins it everywhere.
    assert arrays["class_accuracy"][1].tolist() == [1, 1, 0]


def random_net() -> Subject:
    torch.manual_seed(3)
    conv, same = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
    net = nn.Sequential(conv, nn.ReLU(), same, nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3))
    with torch.no_grad():
        net[6].weight *= 20
    return Subject(net.eval(), 3)


def random_images(n: int = 30) -> Images:
    x = torch.rand(n, 2, 6, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = random_net()(x).argmax(1)
    return Images(x, y, torch.arange(n), ("a", "b", "c"))


def accuracy(net: nn.Module, images: Images) -> float:
    with torch.no_grad():
        return float((net(images.x).argmax(1) == images.y).float().mean())


def test_zero_and_identity_are_those_of_nets_built_without_the_layer() -> None:
    subject, images = random_net(), random_images()
    without = nn.Sequential(*subject.module[:2], *subject.module[3:])
    identity = Ablation(by="identity")(subject, images)
    assert identity.arrays["accuracy"][2] == pytest.approx(accuracy(without, images))
    silenced = copy.deepcopy(subject.module)
    with torch.no_grad():
        silenced[2].weight[1], silenced[2].bias[1] = 0, 0
    channels = Ablation(layer="2")(subject, images)
    assert channels.facts["replaced"] == ["2[0]", "2[1]", "2[2]", "2[3]"]
    assert channels.arrays["accuracy"][1] == pytest.approx(accuracy(silenced, images))
    assert len(np.unique(channels.arrays["probability"])) > 1


def test_what_changes_the_shape_is_left_alone_and_said() -> None:
    result = Ablation(by="identity")(random_net(), random_images())
    assert np.isnan(result.arrays["accuracy"]).tolist() == [True, False, False, False, True, True, True]
    assert "do not allow it: 0, 4, 5, 6." in result.text()
    with pytest.raises(InputError, match="puts out what it takes in; choose by=zero or by=mean"):
        Ablation(by="identity")(Subject(nn.Sequential(nn.Flatten(), nn.Linear(72, 3)).eval(), 3), random_images())


@pytest.mark.parametrize("rows", [4, 7])
@pytest.mark.parametrize("by", ["zero", "mean"])
def test_the_size_of_the_batch_changes_nothing(by: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Ablation(by=by)(random_net(), random_images()).arrays
    monkeypatch.setattr(listening, "ROWS_AT_ONCE", rows)
    parts = Ablation(by=by)(random_net(), random_images()).arrays
    for name, values in whole.items():
        np.testing.assert_allclose(parts[name], values, atol=1e-6, err_msg=name)


class Twice(nn.Module):
    """One ReLU called twice: max(0, max(0, x) − 0.5) summed."""

    def __init__(self) -> None:
        super().__init__()
        self.relu, self.unused = nn.ReLU(), nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        total = self.relu(self.relu(x) - 0.5).flatten(1).sum(1, keepdim=True)
        return torch.cat([total, 0.5 + 0 * total, 0 * total], 1)


def test_each_call_of_a_module_is_replaced_by_itself() -> None:
    x = torch.zeros(1, 2, 6, 6)
    x[0, 0, 0, 0] = 1
    images = Images(x + 0.4, torch.tensor([0]), torch.arange(1), ("a", "b", "c"))
    images.x.clamp_(max=1)
    result = Ablation(by="identity")(Subject(Twice().eval(), 3), images)
    assert result.facts["replaced"] == ["relu", "relu#2"]
    # Without the first call nothing changes, for pixels are not negative; without the second the sum has all of them.
    clipped, total = float((images.x - 0.5).relu().sum()), float((images.x - 0.5).sum())
    np.testing.assert_allclose(
        result.arrays["probability"], [softmax(clipped, 0.5, 0)[0], softmax(total, 0.5, 0)[0]], rtol=1e-5
    )
    with pytest.raises(InputError, match="never calls the layer 'unused'"):
        Ablation(layer="unused")(Subject(Twice().eval(), 3), images)


class Shared(nn.Module):
    """One ReLU and one pool, each called twice, on maps of different widths."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.relu, self.pool, self.head = nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Linear(6, 3)

    def forward(self, x: Tensor, silent: int = -1) -> Tensor:
        x = self.pool(self.relu(self.conv1(x)))
        x = self.relu(self.conv2(x))
        x[:, silent if silent >= 0 else 6 :][:, :1] = 0
        logits: Tensor = self.head(self.pool(x).sum((2, 3)))
        return logits


@pytest.mark.parametrize("rows", [128, 7])
def test_a_module_shared_by_maps_of_different_widths(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "ROWS_AT_ONCE", rows)
    torch.manual_seed(0)
    net, images = Shared().eval(), random_images()
    calls = ["conv1", "relu", "pool", "conv2", "relu#2", "pool#2", "head"]
    for by in ("zero", "mean"):
        assert Ablation(by=by)(Subject(net, 3), images).facts["replaced"] == calls
    assert len(Ablation(layer="relu")(Subject(net, 3), images).arrays["accuracy"]) == 4
    second = Ablation(layer="relu#2")(Subject(net, 3), images)
    assert second.facts["replaced"] == [f"relu#2[{c}]" for c in range(6)]
    with torch.no_grad():
        expected = [net(images.x, c).softmax(1).gather(1, images.y[:, None]).mean() for c in range(6)]
    np.testing.assert_allclose(second.arrays["probability"], expected, rtol=1e-5)
    with pytest.raises(InputError, match=r"never calls the layer 'relu#3'.*; did you mean 'relu.*known: relu, relu#2"):
        Ablation(layer="relu#3")(Subject(net, 3), images)


def test_hooks_are_removed_also_after_an_error() -> None:
    subject = random_net()
    Ablation()(subject, random_images())
    with pytest.raises(InputError, match="has no layer 'nope'"):
        Ablation(layer="nope")(subject, random_images())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in subject.module.modules())


def test_a_class_without_images_is_nan_and_said() -> None:
    subject, images = by_hand()
    result = Ablation(layer="1")(subject, images.take(images.y != 1))
    assert np.isnan(result.arrays["class_accuracy"][:, 1]).all()
    assert np.isfinite(result.arrays["accuracy"]).all()
    assert "Classes without images: right." in result.text()
    result.figure()


class Dividing(nn.Module):
    """0 / 0 where a pixel is 0."""

    def forward(self, x: Tensor) -> Tensor:
        return (x / x).flatten(1)[:, :3]


def test_nan_is_named() -> None:
    images = random_images(3)
    images.x[1] = 0
    with pytest.raises(InputError, match=r"class probabilities hold NaN or infinity on 1 images \(ids 1\)"):
        Ablation()(Subject(nn.Sequential(Dividing(), nn.Identity()).eval(), 3), images)
