"""A network as a list of operations in the order they are computed, which is all that bounds know of a model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from faultlight.certify._operations import Affine, Convolution, Linear, MaxPool, Operation, Pixels, Rectifier, Sum


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
        values: list[Tensor] = []
        for node in self.nodes:
            values.append(_value(node.operation, x, [values[i] for i in node.inputs]))
        return values[-1]

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
    def share_seen(self) -> tuple[float, ...]:
        """The multiply-adds of following one number of a node back to the pixels: of the window that it sees."""
        return tuple(map(float, self.multiply_adds))

    @cached_property
    def multiply_adds(self) -> tuple[int, ...]:
        """The multiply-adds of following one linear function back from each node to the pixels."""
        products = [_products(node) for node in self.nodes]
        return tuple(sum(products[j] for j in self._ancestors(i)) for i in range(len(self.nodes)))

    def _is_rectified(self, place: int) -> bool:
        operation = self.nodes[place].operation
        return isinstance(operation, Rectifier | MaxPool)

    def _ancestors(self, place: int) -> set[int]:
        found, waiting = set(), [place]
        while waiting:
            here = waiting.pop()
            if here not in found:
                found.add(here)
                waiting.extend(self.nodes[here].inputs)
        return found


BENT = 1 << 20


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
        return size * node.operation.kernel[0].numel()
    return size * node.operation.matrix.shape[1] if isinstance(node.operation, Linear) else size


def _value(operation: Operation, x: Tensor, inputs: list[Tensor]) -> Tensor:
    if isinstance(operation, Pixels):
        return x
    if isinstance(operation, Sum):
        return inputs[0] + operation.sign * inputs[1]
    return operation.apply(inputs[0])
