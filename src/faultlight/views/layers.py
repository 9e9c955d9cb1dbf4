"""The layer table: what every layer puts out, how much it holds, and what it costs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import batchnorm, conv, pooling

from faultlight.data.images import Images
from faultlight.models.subject import Subject
from faultlight.views._result import ViewResult

SCHEMA = 1
_HEADS = ("layer", "type", "output", "neurons", "parameters", "multiply-adds")
_NOTE = "Element-wise and reshaping layers act on the neurons of the layer before them and add none."

_AVERAGES = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_POOLS = (pooling._MaxPoolNd, pooling._AvgPoolNd, pooling._AdaptiveMaxPoolNd, pooling._AdaptiveAvgPoolNd)
_COUNTED = (conv._ConvNd, nn.Linear, batchnorm._BatchNorm, *_POOLS)
# The homes of layers that hand on as many values as they take, one for one.
_ELEMENT_WISE = ("activation", "batchnorm", "dropout", "flatten", "instancenorm", "normalization", "channelshuffle")


@dataclass(frozen=True)
class Row:
    """One call of one layer, for one image.

    Args:
        name: the module's dotted name; a second call of the same module is "name#2".
        type: the module's class.
        output: the dimensions of its output; () for parameters outside of any layer that was called.
        neurons: the values it computes; 0 for element-wise and reshaping layers.
        parameters: weights and biases, those shared with an earlier row left out.
        multiply_adds: multiplications, each with its addition.
    """

    name: str
    type: str
    output: tuple[int, ...]
    neurons: int
    parameters: int
    multiply_adds: int


@dataclass(frozen=True)
class LayerTable:
    """The rows of a layer table in the order of the calls, and the types whose multiply-adds are unknown."""

    rows: tuple[Row, ...]
    uncounted: tuple[str, ...] = ()

    def total(self) -> dict[str, int]:
        """Return the sums of neurons, parameters and multiply-adds over all rows."""
        return {key: sum(getattr(row, key) for row in self.rows) for key in ("neurons", "parameters", "multiply_adds")}

    def record(self) -> dict[str, Any]:
        """Return the table as JSON can hold it: schema, layers, total."""
        layers = [{**asdict(row), "output": list(row.output)} for row in self.rows]
        return {"schema": SCHEMA, "layers": layers, "total": self.total()}

    def text(self) -> str:
        """Return the table in words and columns."""
        total = self.total()
        cells = [_HEADS, *map(_cells, self.rows), ("total", "", "", *(f"{value:,}" for value in total.values()))]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [_line(line, widths) for line in cells]
        rule = "─" * len(lines[0])
        notes = [_NOTE]
        if self.uncounted:
            notes.append(f"Multiply-adds not counted, so the total is a lower bound: {', '.join(self.uncounted)}.")
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1], "", *notes])


@dataclass(frozen=True)
class Layers:
    """The table of a model's layers: output dimensions, neurons, parameters and multiply-adds for one image.

    Multiply-adds, with o the number of values put out: convolution o · (c_in / groups) · k_h · k_w; transposed
    convolution the same with the values taken in and c_out; linear o · c_in; batch norm o (one scale and shift a
    value); average pooling o · k_h · k_w; max-pooling none, for it only compares. Adding a bias is part of the
    addition that is there already.

    One image of zeros is passed through the model, and every module that holds no other is listened to; functions that
    are called without a module (`F.relu`, `+`) are not seen. Parameters shared by several layers count once, those
    outside of such modules have rows of their own, so the total is that of the model.

    Arrays, one row a layer: `neurons`, `parameters`, `multiply_adds` (layers,), and `output` (layers, 3 or more), the
    output's dimensions with zeros behind the last.
    """

    def __call__(self, subject: Subject, images: Images | tuple[int, int, int]) -> ViewResult:
        """Return the layer table of a subject.

        Args:
            subject: the model.
            images: images it takes, or their shape (channels, height, width) alone.

        Returns:
            The table as arrays and words; its facts are the record's `layers` and `total`.

        Raises:
            InputError: the model rejects images of this shape.
        """
        channels, height, width = images if isinstance(images, tuple) else images.x.shape[1:]
        table = layer_table(subject, (channels, height, width))
        return ViewResult("layers", _arrays(table), table.text(), facts=table.record())


def layer_table(subject: Subject, shape: tuple[int, int, int]) -> LayerTable:
    """Return the layer table of a subject for images of a shape (channels, height, width); see `Layers`.

    Raises:
        InputError: the model rejects images of this shape.
    """
    rows: list[Row] = []
    seen: set[Tensor] = set()
    calls, uncounted = Counter[str](), set[str]()

    def hear(name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        out, x = _first(output), _first(inputs)
        calls[name] += 1
        if not isinstance(module, _COUNTED) and _parameters(module, set()):
            uncounted.add(type(module).__name__)
        called = name if calls[name] == 1 else f"{name}#{calls[name]}"
        rows.append(_row(called, module, x, out, seen))

    with torch.no_grad(), ExitStack() as hooks:
        for name, layer in _layers(subject.module):
            hooks.callback(layer.register_forward_hook(partial(hear, name)).remove)
        subject(torch.zeros(1, *shape, device=subject.device))
    return LayerTable((*rows, *_rest(subject.module, seen)), tuple(sorted(uncounted)))


def _layers(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules that hold no other, and those known whose children only reshape their weights, each once."""
    inner: set[nn.Module] = set()
    for name, child in module.named_modules():
        if child not in inner and (isinstance(child, _COUNTED) or not any(True for _ in child.children())):
            inner.update(child.modules())
            yield name or type(module).__name__, child


def _row(name: str, module: nn.Module, x: Tensor, out: Tensor, seen: set[Tensor]) -> Row:
    output = tuple(out.shape[1:])
    neurons = 0 if _is_element_wise(module) else math.prod(output)
    return Row(name, type(module).__name__, output, neurons, _parameters(module, seen), _multiply_adds(module, x, out))


def _rest(module: nn.Module, seen: set[Tensor]) -> Iterator[Row]:
    """Parameters that no call accounted for: held by a module of modules, or by one that was never called."""
    for name, child in module.named_modules():
        own = [parameter for parameter in child.parameters(recurse=False) if parameter not in seen]
        seen.update(own)
        if own:
            count = sum(parameter.numel() for parameter in own)
            yield Row(name or type(module).__name__, type(child).__name__, (), 0, count, 0)


def _parameters(module: nn.Module, seen: set[Tensor]) -> int:
    new = [parameter for parameter in module.parameters() if parameter not in seen]
    seen.update(new)
    return sum(parameter.numel() for parameter in new)


def _multiply_adds(module: nn.Module, x: Tensor, out: Tensor) -> int:
    if isinstance(module, conv._ConvTransposeNd):
        return x.numel() * module.out_channels // module.groups * math.prod(module.kernel_size)
    if isinstance(module, conv._ConvNd):
        return out.numel() * module.in_channels // module.groups * math.prod(module.kernel_size)
    if isinstance(module, nn.Linear):
        return out.numel() * module.in_features
    if isinstance(module, batchnorm._BatchNorm):
        return out.numel()
    if isinstance(module, _AVERAGES):
        sides = module.kernel_size if isinstance(module.kernel_size, tuple) else (module.kernel_size,) * (out.ndim - 2)
        return out.numel() * math.prod(sides)
    if isinstance(module, pooling._AdaptiveAvgPoolNd):
        return out.shape[1] * math.prod(map(_covered, x.shape[2:], out.shape[2:]))
    return 0


def _covered(size_in: int, size_out: int) -> int:
    """How many positions the windows of an adaptive pool hold along one side; windows may overlap by one."""
    return sum(-(-(i + 1) * size_in // size_out) - i * size_in // size_out for i in range(size_out))


def _is_element_wise(module: nn.Module) -> bool:
    home = type(module).__module__
    return isinstance(module, nn.Identity) or home in {f"torch.nn.modules.{name}" for name in _ELEMENT_WISE}


def _first(value: Any) -> Tensor:
    """The first tensor of what a module takes or gives; an empty one where there is none."""
    while isinstance(value, tuple | list) and value:
        value = value[0]
    return value if isinstance(value, Tensor) else torch.empty(1, 0)


def _arrays(table: LayerTable) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.int64]]]:
    rank = max((len(row.output) for row in table.rows), default=0)
    output = [row.output + (0,) * (rank - len(row.output)) for row in table.rows]
    arrays = {key: np.array([getattr(row, key) for row in table.rows], np.int64) for key in table.total()}
    return {"output": np.array(output, np.int64).reshape(len(output), rank), **arrays}


def _cells(row: Row) -> tuple[str, ...]:
    output = "×".join(map(str, row.output)) or "–"
    return (row.name, row.type, output, f"{row.neurons:,}", f"{row.parameters:,}", f"{row.multiply_adds:,}")


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    words = [cell.ljust(width) for cell, width in zip(cells[:2], widths[:2], strict=True)]
    numbers = [cell.rjust(width) for cell, width in zip(cells[2:], widths[2:], strict=True)]
    return "  ".join([*words, *numbers])
