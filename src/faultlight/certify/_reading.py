"""Reading a PyTorch module as a network of known operations, or saying which of its operations is not known.

The module is traced (torch.fx), and each call is looked up by name: `nn.ReLU`, `F.relu`, `torch.relu` and `x.relu()`
are one operation here. A stand-in with a place and a shape goes through the calls in place of the tensor.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Tracer
from torch.fx import Node as Call
from torch.fx.passes.shape_prop import ShapeProp

from faultlight.certify._calls import NoCertificate, Value, of_function, of_module
from faultlight.certify._network import Network, Node
from faultlight.certify._operations import Operation, Pixels, Reshape

# How far the network as read may be from the model, as a share of the largest logit: float32 in another order.
_AGREES = 1e-4
_SAMPLE = 4


def read_network(module: nn.Module, shape: tuple[int, int, int], check: bool = True) -> Network:
    """Return the network that a module computes in evaluation mode.

    Args:
        module: pixels (n, c, h, w) to logits (n, classes).
        shape: of one image, (c, h, w).
        check: compare the network with the module on a few random images.

    Raises:
        NoCertificate: it holds an operation without a bound (named), cannot be traced, or does not compute what was
            read, as when it changes a value in place that is used again.
    """
    traced, sample = _traced(module, shape)
    reader = _Reader(traced)
    for call in traced.graph.nodes:
        reader.read(call)
    network = reader.network()
    if check:
        _compare(network, module, sample)
    return network


def _traced(module: nn.Module, shape: tuple[int, int, int]) -> tuple[GraphModule, Tensor]:
    weight = next(module.parameters(), torch.zeros(()))
    generator = torch.Generator().manual_seed(0)
    sample = torch.rand(_SAMPLE, *shape, generator=generator).to(weight)
    try:
        with _evaluating(module), torch.no_grad():
            tracer = _Tracer()
            graph = tracer.trace(nn.Sequential(module))
            traced = GraphModule(tracer.root, graph)
            ShapeProp(traced).propagate(sample)
    except Exception as error:  # tracing runs the model's own code, which may raise anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise NoCertificate(f"no certificate: the model's forward cannot be traced ({reason})") from error
    return traced, sample


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode, and each part of it back into its own afterwards."""
    training = {child: child.training for child in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for child, mode in training.items():
            child.training = mode


class _Tracer(Tracer):
    """Traces through decorators of `forward`: those that check types would refuse what stands for a tensor."""

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Trace one module."""
        inner = inspect.unwrap(type(m).forward)
        bare = forward if inner is type(m).forward else partial(inner, m)
        return super().call_module(m, bare, args, kwargs)


def _compare(network: Network, module: nn.Module, sample: Tensor) -> None:
    with torch.no_grad():
        found, expected = network.evaluate(sample), module(sample)
    gap = float((found - expected).abs().max())
    if not gap <= _AGREES * max(float(expected.abs().max()), 1e-6):
        raise NoCertificate(
            f"no certificate: the network as it was read differs from the model by {gap:.2g} in a logit"
        )


@dataclass
class _Reader:
    """Goes through the calls of a traced module and lists what they compute."""

    traced: GraphModule
    nodes: list[Node] = field(default_factory=list)
    values: dict[Call, Any] = field(default_factory=dict)
    output: Value | None = None

    def read(self, call: Call) -> None:
        """Read one call."""
        if call.op == "output":
            self.output = self._of(call.args[0])
            return
        meta: Any = call.meta.get("tensor_meta")
        if call.op == "get_attr":
            self.values[call] = operator.attrgetter(str(call.target))(self.traced)
        elif call.op == "placeholder":
            self.values[call] = self._add(call, Pixels(), (), tuple(meta.shape)) if not self.nodes else None
        elif meta is not None:
            self.values[call] = self._result(call, tuple(meta.shape))

    def network(self) -> Network:
        """Return what was read, without what the logits do not depend on."""
        if not isinstance(self.output, Value) or len(self.output.shape) != 1:
            raise NoCertificate("no certificate: the model does not give one row of logits an image")
        needed = _needed(self.nodes, self.output.place)
        moved = {old: new for new, old in enumerate(needed)}
        kept = (self.nodes[old] for old in needed)
        return Network(tuple(Node(n.name, n.operation, tuple(moved[i] for i in n.inputs), n.shape) for n in kept))

    def _result(self, call: Call, shape: tuple[int, ...]) -> Any:
        args: Any = torch.fx.node.map_arg(call.args, self._of)
        kwargs: Any = torch.fx.node.map_arg(call.kwargs, self._of)
        if call.op == "call_module":
            found = of_module(self.traced.get_submodule(str(call.target)), args[0])
        else:
            found = of_function(call.target, args, kwargs)
        if not isinstance(found, tuple):
            return found
        operation, inputs = found
        return self._add(call, operation, tuple(value.place for value in inputs), shape)

    def _add(self, call: Call, operation: Operation, inputs: tuple[int, ...], shape: tuple[int, ...]) -> Value:
        if shape[0] != _SAMPLE:
            raise NoCertificate(f"no certificate: {call.name} mixes the images of a batch")
        if isinstance(operation, Reshape):
            operation = Reshape(operation.before, shape[1:])
        self.nodes.append(Node(call.name, operation, inputs, shape[1:]))
        return Value(len(self.nodes) - 1, shape[1:])

    def _of(self, call: Any) -> Any:
        return self.values.get(call) if isinstance(call, Call) else call


def _needed(nodes: list[Node], last: int) -> list[int]:
    found, waiting = {0}, [last]
    while waiting:
        here = waiting.pop()
        if here not in found:
            found.add(here)
            waiting.extend(nodes[here].inputs)
    return sorted(found)
