"""A network as a list of operations in the order they are computed, which is all that bounds know of a model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from faultlight.certify._operations import (
    Affine,
    Convolution,
    Linear,
    MaxPool,
    Operation,
    Pixels,
    Rectifier,
    Scale,
    Sum,
)


@dataclass(frozen=True, eq=False)
class Node:
    """One operation of a network.

    Args:
        name: what the model calls it.
        operation: what it does.
        inputs: the places of its inputs in the list.
        shape: of its output, without the rows.
    """

    name: str
    operation: Operation
    inputs: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Network:
    """Nodes in the order they are computed: the first is the pixels, the last the logits."""

    nodes: tuple[Node, ...]

    @property
    def classes(self) -> int:
        """The number of logits."""
        return self.nodes[-1].shape[0]

    def evaluate(self, x: Tensor) -> Tensor:
        """Return the logits (n, classes) of pixels (n, c, h, w)."""
        return self.values(x)[-1]

    def values(self, x: Tensor) -> list[Tensor]:
        """Return the output of every node, (n, *shape), for pixels (n, c, h, w)."""
        found: list[Tensor] = []
        for node in self.nodes:
            found.append(_value(node.operation, x, [found[i] for i in node.inputs]))
        return found

    @cached_property
    def bent(self) -> tuple[int, ...]:
        """The places whose ranges decide how a line is laid around what follows: before ReLUs and max-poolings."""
        found = set()
        for node in self.nodes:
            if isinstance(node.operation, Rectifier):
                found.add(node.inputs[0])
            # Behind a ReLU the range is known from the one before it.
            if isinstance(node.operation, MaxPool) and not self._is_rectified(node.inputs[0]):
                found.add(node.inputs[0])
        return tuple(sorted(found))

    @cached_property
    def mixings(self) -> tuple[int, ...]:
        """How often numbers are mixed on the way to each node; a large number once anything is bent."""
        found: list[int] = []
        for node in self.nodes:
            before = [found[i] for i in node.inputs]
            found.append(_mixings(node.operation, before))
        return tuple(found)

    @cached_property
    def cost_of_margin(self) -> float:
        """The multiply-adds of following one function of the logits back to the pixels."""
        return float(sum(_products(node) for node in self.nodes))

    def cost_of_one(self, place: int) -> float:
        """Return the multiply-adds of following one number of a node back to the pixels: of the window that it sees."""
        cost, seen = 0.0, {place: (1.0, 1.0)}
        for here in range(place, -1, -1):
            if here in seen:
                node, window = self.nodes[here], seen[here]
                cost += _products(node) * _share(node.shape, window)
                for source in node.inputs:
                    before = _seen(node.operation, window, self.nodes[source].shape)
                    seen[source] = max(before, seen.get(source, before))
        return cost

    def _is_rectified(self, place: int) -> bool:
        operation = self.nodes[place].operation
        return isinstance(operation, Rectifier | MaxPool)


BENT = 1 << 20
# What is done to each number besides products takes as long as so many of them.
_PER_NUMBER = 30


def _mixings(operation: Operation, before: list[int]) -> int:
    if isinstance(operation, Pixels):
        return 0
    if isinstance(operation, Sum):
        return sum(before) + 2
    if isinstance(operation, Affine):
        return before[0] + operation.mixes
    return BENT


def _products(node: Node) -> int:
    size = torch.Size(node.shape).numel()
    if isinstance(node.operation, Convolution):
        return size * (node.operation.kernel[0].numel() + _PER_NUMBER)
    return size * (node.operation.matrix.shape[1] if isinstance(node.operation, Linear) else _PER_NUMBER)


def _value(operation: Operation, x: Tensor, inputs: list[Tensor]) -> Tensor:
    if isinstance(operation, Pixels):
        return x
    if isinstance(operation, Sum):
        return inputs[0] + operation.sign * inputs[1]
    return operation.apply(inputs[0])


def _share(shape: tuple[int, ...], window: tuple[float, float]) -> float:
    if len(shape) != 3:
        return 1.0
    return min(window[0] / shape[1], 1.0) * min(window[1] / shape[2], 1.0)


def _seen(operation: Operation, window: tuple[float, float], before: tuple[int, ...]) -> tuple[float, float]:
    if isinstance(operation, Convolution | MaxPool):
        kernel = operation.kernel.shape[2:] if isinstance(operation, Convolution) else operation.kernel
        sides = zip(window, kernel, operation.stride, operation.dilation, strict=True)
        height, width = ((side - 1) * stride + dilation * (k - 1) + 1 for side, k, stride, dilation in sides)
        return height, width
    elementwise = isinstance(operation, Rectifier | Sum | Scale | Pixels)
    return window if elementwise or len(before) != 3 else (float(before[1]), float(before[2]))
