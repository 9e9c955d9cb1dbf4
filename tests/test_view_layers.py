"""The layer table: every number against a count by hand or PyTorch's own counter of operations."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from faultlight.data.images import Images
from faultlight.errors import InputError
from faultlight.models import zoo
from faultlight.models.subject import Subject
from faultlight.views.layers import Layers, LayerTable, Row, layer_table

Shape = tuple[int, int, int]


def table(module: nn.Module, shape: Shape, classes: int = 10) -> LayerTable:
    return layer_table(Subject(module.eval(), classes), shape)


def single(module: nn.Module, shape: Shape) -> Row:
    """The row of one layer, whose output a fixed sum then turns into two logits."""
    return table(nn.Sequential(module, nn.Flatten(), Two()), shape, 2).rows[0]


class Two(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x.sum(1), -x.sum(1)], 1)


class Calls(nn.Module):
    """Modules under their names, called as the function says."""

    def __init__(self, function: Callable[..., Tensor], **modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


MNIST = [
    Row("conv1", "Conv2d", (32, 28, 28), 25_088, 320, 28 * 28 * 32 * 1 * 9),
    Row("relu1", "ReLU", (32, 28, 28), 0, 0, 0),
    Row("pool1", "MaxPool2d", (32, 14, 14), 6_272, 0, 0),
    Row("conv2", "Conv2d", (32, 14, 14), 6_272, 9_248, 14 * 14 * 32 * 32 * 9),
    Row("relu2", "ReLU", (32, 14, 14), 0, 0, 0),
    Row("pool2", "MaxPool2d", (32, 7, 7), 1_568, 0, 0),
    Row("flatten", "Flatten", (1568,), 0, 0, 0),
    Row("fc1", "Linear", (500,), 500, 784_500, 784_000),
    Row("relu3", "ReLU", (500,), 0, 0, 0),
    Row("fc2", "Linear", (10,), 10, 5_010, 5_000),
]


def test_mnist_cnn_row_by_row() -> None:
    found = table(zoo.build("mnist-cnn", 10, (1, 28, 28)), (1, 28, 28))
    assert list(found.rows) == MNIST
    assert found.uncounted == ()
    # 225,792 + 1,806,336 + 784,000 + 5,000
    assert found.total() == {"neurons": 39_710, "parameters": 799_078, "multiply_adds": 2_821_128}


@pytest.mark.parametrize(
    ("name", "shape"), [("digits-cnn", (1, 8, 8)), ("mnist-cnn", (1, 28, 28)), ("resnet18", (3, 32, 32))]
)
def test_convolutions_and_linear_layers_agree_with_pytorchs_counter(name: str, shape: Shape) -> None:
    module = zoo.build(name, 10, shape).eval()
    with FlopCounterMode(display=False) as counter:
        module(torch.zeros(1, *shape))
    rows = [row for row in table(module, shape).rows if row.type in ("Conv2d", "Linear")]
    assert 2 * sum(row.multiply_adds for row in rows) == counter.get_total_flops()


def test_the_total_of_resnet18_is_that_of_the_model() -> None:
    found = table(zoo.build("resnet18", 10, (3, 32, 32)), (3, 32, 32))
    assert found.total()["parameters"] == 11_173_962
    assert sum(row.type == "Conv2d" for row in found.rows) == 20
    norms = [row for row in found.rows if row.type == "BatchNorm2d"]
    assert (norms[0].neurons, norms[0].parameters, norms[0].multiply_adds) == (0, 128, 64 * 32 * 32)
    (pool,) = [row for row in found.rows if row.type == "AdaptiveAvgPool2d"]
    assert (pool.output, pool.multiply_adds) == ((512, 1, 1), 512 * 4 * 4)


@pytest.mark.parametrize(
    ("module", "shape", "expected"),
    [
        (nn.Conv2d(4, 6, (3, 1), stride=2, groups=2), (4, 9, 9), ((6, 4, 5), 120, 6 * 2 * 3 + 6, 120 * 2 * 3)),
        (nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), (4, 5, 5), ((4, 5, 5), 100, 36, 100 * 9)),
        (nn.Conv2d(2, 3, 3, dilation=2), (2, 8, 8), ((3, 4, 4), 48, 57, 48 * 2 * 9)),
        (nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2), (4, 3, 3), ((6, 6, 6), 216, 4 * 3 * 4 + 6, 36 * 3 * 4)),
        (nn.Linear(5, 7), (2, 3, 5), ((2, 3, 7), 42, 42, 42 * 5)),
        (nn.BatchNorm2d(3), (3, 4, 4), ((3, 4, 4), 0, 6, 48)),
        (nn.AvgPool2d(2), (3, 4, 4), ((3, 2, 2), 12, 0, 12 * 4)),
        (nn.AvgPool2d((3, 1), stride=1), (1, 4, 4), ((1, 2, 4), 8, 0, 8 * 3)),
        (nn.AdaptiveAvgPool2d(2), (3, 4, 6), ((3, 2, 2), 12, 0, 3 * 4 * 6)),
        (nn.AdaptiveAvgPool2d(2), (1, 3, 3), ((1, 2, 2), 4, 0, 4 * 2 * 2)),  # windows [0, 2) and [1, 3) on each side
        (nn.MaxPool2d(3, stride=2), (3, 7, 7), ((3, 3, 3), 27, 0, 0)),
        (nn.PReLU(3), (3, 4, 4), ((3, 4, 4), 0, 3, 0)),
        (nn.Dropout(), (3, 4, 4), ((3, 4, 4), 0, 0, 0)),
        (nn.Identity(), (3, 4, 4), ((3, 4, 4), 0, 0, 0)),
    ],
)
def test_single_layers_by_hand(
    module: nn.Module, shape: Shape, expected: tuple[tuple[int, ...], int, int, int]
) -> None:
    row = single(module, shape)
    assert (row.output, row.neurons, row.parameters, row.multiply_adds) == expected


def test_a_layer_called_twice_costs_twice_and_holds_its_weights_once() -> None:
    module = Calls(lambda m, x: m.fc(m.fc(x.flatten(1))), fc=nn.Linear(10, 10))
    assert list(table(module, (1, 2, 5)).rows) == [
        Row("fc", "Linear", (10,), 10, 110, 100),
        Row("fc#2", "Linear", (10,), 10, 0, 100),
    ]


def test_weights_shared_by_two_layers_count_once() -> None:
    first, second = nn.Linear(10, 10), nn.Linear(10, 10)
    second.weight = first.weight
    found = table(nn.Sequential(nn.Flatten(), first, second), (1, 2, 5))
    assert [row.parameters for row in found.rows] == [0, 110, 10]


def test_weights_outside_of_called_layers_have_rows_of_their_own() -> None:
    module = Calls(lambda m, x: m.fc(x.flatten(1)) * m.scale, fc=nn.Linear(10, 10), spare=nn.Linear(3, 4))
    module.scale = nn.Parameter(torch.ones(10))
    found = table(module, (1, 2, 5))
    assert list(found.rows) == [
        Row("fc", "Linear", (10,), 10, 110, 100),
        Row("Calls", "Calls", (), 0, 10, 0),
        Row("spare", "Linear", (), 0, 16, 0),
    ]
    assert found.total()["parameters"] == sum(p.numel() for p in module.parameters())


def test_a_layer_whose_weight_is_computed_is_still_one_layer() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(10, 10))
    found = table(nn.Sequential(nn.Flatten(), layer), (1, 2, 5))
    assert [(row.name, row.parameters, row.multiply_adds) for row in found.rows] == [("0", 0, 0), ("1", 120, 100)]


def test_layers_without_a_formula_are_named() -> None:
    module = Calls(lambda m, x: m.rnn(x.flatten(2))[0][:, -1], rnn=nn.GRU(5, 10, batch_first=True))
    found = table(module, (2, 5, 1))
    assert found.rows[0].parameters == 3 * 10 * (5 + 10 + 2)
    assert found.uncounted == ("GRU",)
    assert "not counted, so the total is a lower bound: GRU." in found.text()


class Flat(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def test_a_net_that_is_one_layer_goes_by_its_class() -> None:
    assert table(Flat(), (1, 2, 5)).rows == (Row("Flat", "Flat", (10,), 10, 0, 0),)


def test_hooks_are_gone_after_a_pass_and_after_a_failure() -> None:
    subject = Subject(zoo.build("digits-cnn", 10, (1, 8, 8)).eval(), 10)
    layer_table(subject, (1, 8, 8))
    with pytest.raises(InputError, match="cannot take images of shape"):
        layer_table(subject, (3, 8, 8))
    assert not any(module._forward_hooks for module in subject.module.modules())


def test_the_view_takes_images_or_their_shape() -> None:
    subject = Subject(zoo.build("mnist-cnn", 10, (1, 28, 28)).eval(), 10)
    images = Images(torch.rand(2, 1, 28, 28), torch.zeros(2, dtype=torch.int64), torch.arange(2), tuple("0123456789"))
    by_images, by_shape = Layers()(subject, images), Layers()(subject, (1, 28, 28))
    assert by_images.facts == by_shape.facts
    assert by_images.facts["total"]["parameters"] == 799_078
    assert json.loads(json.dumps(by_images.facts))["layers"][3] == {
        "name": "conv2",
        "type": "Conv2d",
        "output": [32, 14, 14],
        "neurons": 6272,
        "parameters": 9248,
        "multiply_adds": 1_806_336,
    }


def test_the_arrays_are_the_rows() -> None:
    arrays = Layers()(Subject(zoo.build("mnist-cnn", 10, (1, 28, 28)).eval(), 10), (1, 28, 28)).arrays
    assert arrays["output"].tolist()[0] == [32, 28, 28]
    assert arrays["output"].tolist()[-1] == [10, 0, 0]
    for key in ("neurons", "parameters", "multiply_adds"):
        assert arrays[key].tolist() == [getattr(row, key) for row in MNIST]


def test_the_text_is_an_aligned_table() -> None:
    lines = table(zoo.build("mnist-cnn", 10, (1, 28, 28)), (1, 28, 28)).text().splitlines()
    body = lines[: len(MNIST) + 4]
    assert len({len(line) for line in body}) == 1
    assert lines[5].split() == ["conv2", "Conv2d", "32×14×14", "6,272", "9,248", "1,806,336"]
    assert body[-1].split() == ["total", "39,710", "799,078", "2,821,128"]
