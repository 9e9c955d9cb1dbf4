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
from torch.nn import functional

from faultlight.certify._network import Network, Node
from faultlight.certify._operations import (
    Average,
    Convolution,
    Linear,
    MaxPool,
    Operation,
    Pixels,
    Rectifier,
    Reshape,
    Scale,
    Sum,
)
from faultlight.errors import InputError

# How far the network as read may be from the model, as a share of the largest logit: float32 in another order.
_AGREES = 1e-4
_SAMPLE = 4


class NoCertificate(InputError):
    """There is no certificate for this model, and the text says why."""


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


@dataclass(frozen=True)
class _Value:
    """What stands for a tensor that depends on the pixels: the place that computes it."""

    place: int
    shape: tuple[int, ...]


@dataclass
class _Reader:
    """Goes through the calls of a traced module and lists what they compute."""

    traced: GraphModule
    nodes: list[Node] = field(default_factory=list)
    values: dict[Call, Any] = field(default_factory=dict)
    output: _Value | None = None

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
        if not isinstance(self.output, _Value) or len(self.output.shape) != 1:
            raise NoCertificate("no certificate: the model does not give one row of logits an image")
        needed = _needed(self.nodes, self.output.place)
        moved = {old: new for new, old in enumerate(needed)}
        kept = (self.nodes[old] for old in needed)
        return Network(tuple(Node(n.name, n.operation, tuple(moved[i] for i in n.inputs), n.shape) for n in kept))

    def _result(self, call: Call, shape: tuple[int, ...]) -> Any:
        args: Any = torch.fx.node.map_arg(call.args, self._of)
        kwargs: Any = torch.fx.node.map_arg(call.kwargs, self._of)
        if call.op == "call_module":
            found = _of_module(self.traced.get_submodule(str(call.target)), args[0])
        else:
            found = _of_function(call.target, args, kwargs)
        if not isinstance(found, tuple):
            return found
        operation, inputs = found
        return self._add(call, operation, tuple(value.place for value in inputs), shape)

    def _add(self, call: Call, operation: Operation, inputs: tuple[int, ...], shape: tuple[int, ...]) -> _Value:
        if shape[0] != _SAMPLE:
            raise NoCertificate(f"no certificate: {call.name} mixes the images of a batch")
        if isinstance(operation, Reshape):
            operation = Reshape(operation.before, shape[1:])
        self.nodes.append(Node(call.name, operation, inputs, shape[1:]))
        return _Value(len(self.nodes) - 1, shape[1:])

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


# What a call is read as: an operation and what it is applied to, or a value that was there already.
_Read = tuple[Operation, tuple[_Value, ...]] | _Value


def _of_module(module: nn.Module, x: _Value) -> _Read:
    reader = _MODULES.get(type(module))
    if reader is None:
        raise NoCertificate(f"no certificate: there is no bound for {type(module).__name__}")
    return reader(module, x)


def _of_function(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    name = target if isinstance(target, str) else getattr(target, "__name__", str(target))
    if not any(isinstance(value, _Value) for value in args):  # between constants: no bound is needed
        return _constant(target, name, args, kwargs)
    reader = _FUNCTIONS.get(name.rstrip("_") if not name.startswith("_") else name)
    if reader is None:
        raise NoCertificate(f"no certificate: there is no bound for {name}")
    try:
        return reader(*args, **kwargs)
    except TypeError as error:
        raise NoCertificate(f"no certificate: this use of {name} is not known ({error})") from error


def _constant(target: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if any(value is None for value in args):
        raise NoCertificate(f"no certificate: {name} is used on what is not known when the model is read")
    return getattr(args[0], target)(*args[1:], **kwargs) if isinstance(target, str) else target(*args, **kwargs)


def _convolution(x: _Value, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
                 groups: int = 1) -> _Read:  # fmt: skip
    spread, reach = _pair(dilation), tuple(weight.shape[2:])
    margin = _same(reach, spread) if padding == "same" else _pair(0) if padding == "valid" else _pair(padding)
    return Convolution(weight, bias, _pair(stride), margin, spread, groups, x.shape), (x,)


def _same(reach: tuple[int, ...], dilation: tuple[int, int]) -> tuple[int, int]:
    extra = [d * (k - 1) for k, d in zip(reach, dilation, strict=True)]
    if any(e % 2 for e in extra):
        raise NoCertificate("no certificate: a convolution pads its two sides differently")
    return extra[0] // 2, extra[1] // 2


def _of_convolution(module: nn.Conv2d, x: _Value) -> _Read:
    if module.padding_mode != "zeros":
        raise NoCertificate(f"no certificate: there is no bound for a convolution padded by {module.padding_mode!r}")
    sizes = (module.stride, module.padding, module.dilation, module.groups)
    return _convolution(x, module.weight, module.bias, *sizes)


def _linear(x: _Value, weight: Tensor, bias: Any = None) -> _Read:
    return Linear(weight, bias, (*x.shape[:-1], len(weight))), (x,)


def _of_batch_norm(module: nn.BatchNorm1d | nn.BatchNorm2d, x: _Value) -> _Read:
    if module.running_mean is None or module.running_var is None:
        raise NoCertificate("no certificate: a batch norm without running statistics mixes the images of a batch")
    factor = (module.running_var + module.eps).rsqrt()
    factor = factor if module.weight is None else factor * module.weight
    moved = module.running_mean * factor
    bias = torch.zeros_like(moved) if module.bias is None else module.bias
    channels = (-1, *(1,) * (len(x.shape) - 1))
    parts = (factor, bias - moved, bias.abs() + moved.abs())
    factor, shift, size = (part.view(channels) for part in parts)
    return Scale(factor, shift, size), (x,)


def _average(x: _Value, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
             count_include_pad: bool = True, divisor_override: Any = None) -> _Read:  # fmt: skip
    function = partial(
        functional.avg_pool2d,
        kernel_size=_pair(kernel_size),
        stride=_pair(stride or kernel_size),
        padding=_pair(padding),
        ceil_mode=ceil_mode,
        count_include_pad=count_include_pad,
        divisor_override=divisor_override,
    )
    return Average(function, x.shape, torch.Size(_pair(kernel_size)).numel()), (x,)


def _of_average(module: nn.AvgPool2d, x: _Value) -> _Read:
    padded = (module.ceil_mode, module.count_include_pad, module.divisor_override)
    return _average(x, module.kernel_size, module.stride, module.padding, *padded)


def _adaptive(x: _Value, output_size: Any) -> _Read:
    function = partial(functional.adaptive_avg_pool2d, output_size=output_size)
    return Average(function, x.shape, torch.Size(x.shape[1:]).numel()), (x,)


def _mean(x: _Value, dim: Any, keepdim: bool = False) -> _Read:
    axes = {axis % (len(x.shape) + 1) for axis in (dim if isinstance(dim, tuple | list) else (dim,))}
    if 0 in axes:
        raise NoCertificate("no certificate: a mean over the images of a batch")
    function = partial(torch.mean, dim=tuple(sorted(axes)), keepdim=keepdim)
    return Average(function, x.shape, torch.Size(x.shape).numel()), (x,)


def _max_pool(x: _Value, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
              ceil_mode: bool = False, return_indices: bool = False) -> _Read:  # fmt: skip
    if ceil_mode or return_indices:
        raise NoCertificate("no certificate: there is no bound for a max-pooling with ceil_mode or return_indices")
    return MaxPool(_pair(kernel_size), _pair(stride or kernel_size), _pair(padding), _pair(dilation)), (x,)


def _of_max_pool(module: nn.MaxPool2d, x: _Value) -> _Read:
    sizes = (module.kernel_size, module.stride, module.padding, module.dilation)
    return _max_pool(x, *sizes, module.ceil_mode, module.return_indices)


def _rectifier(x: _Value, inplace: bool = False) -> _Read:  # noqa: ARG001 — as it is called
    return Rectifier(), (x,)


def _leaky(x: _Value, negative_slope: float = 0.01, inplace: bool = False) -> _Read:  # noqa: ARG001
    if not 0 <= negative_slope < 1:
        raise NoCertificate(f"no certificate: there is no bound for a leaky ReLU of slope {negative_slope}")
    return Rectifier(float(negative_slope)), (x,)


def _reshape(x: _Value, *_: Any, **__: Any) -> _Read:
    return Reshape(x.shape, ()), (x,)  # the shape it gives is filled in from what it gave


def _same_value(x: _Value, *_: Any, **__: Any) -> _Read:
    return x


def _dropout(x: _Value, p: float = 0.5, training: bool = True, inplace: bool = False) -> _Read:  # noqa: ARG001
    if training:
        raise NoCertificate("no certificate: a dropout that is on is no function of the image")
    return x


def _add(first: Any, second: Any, alpha: Any = 1) -> _Read:
    return _combined(first, second, alpha)


def _subtract(first: Any, second: Any, alpha: Any = 1) -> _Read:
    return _combined(first, second, -alpha)


def _combined(first: Any, second: Any, sign: Any) -> _Read:
    if isinstance(first, _Value) and isinstance(second, _Value):
        if first.shape != second.shape or abs(sign) != 1:
            raise NoCertificate("no certificate: there is no bound for a sum of values of different shapes or weights")
        return Sum(int(sign)), (first, second)
    if isinstance(first, _Value):
        shift = _number(second, first) * sign
        return Scale(torch.ones_like(shift), shift, shift.abs()), (first,)
    shift = _number(first, second)
    return Scale(torch.full_like(shift, float(sign)), shift, shift.abs()), (second,)


def _multiply(first: Any, second: Any) -> _Read:
    if isinstance(first, _Value) and isinstance(second, _Value):
        raise NoCertificate("no certificate: there is no bound for a product of two values")
    x, factor = (first, second) if isinstance(first, _Value) else (second, first)
    factor = _number(factor, x)
    return Scale(factor, torch.zeros_like(factor), torch.zeros_like(factor)), (x,)


def _divide(first: Any, second: Any) -> _Read:
    if isinstance(second, _Value):
        raise NoCertificate("no certificate: there is no bound for a division by a value")
    return _multiply(first, 1 / _number(second, first))


def _negate(x: _Value) -> _Read:
    return _multiply(x, -1.0)


def _number(value: Any, x: _Value) -> Tensor:
    """Return a constant in a shape that broadcasts to x without its rows."""
    constant = value if isinstance(value, Tensor) else torch.tensor(float(value))
    if constant.ndim > len(x.shape):
        if constant.shape[0] != 1:
            raise NoCertificate("no certificate: a constant has a row for each image of a batch")
        constant = constant[0]
    return constant


def _pair(value: Any) -> tuple[int, int]:
    first, second = value if isinstance(value, tuple | list) else (value, value)
    return int(first), int(second)


_MODULES: dict[type[nn.Module], Callable[[Any, _Value], _Read]] = {
    nn.Conv2d: _of_convolution,
    nn.Linear: lambda module, x: _linear(x, module.weight, module.bias),
    nn.BatchNorm1d: _of_batch_norm,
    nn.BatchNorm2d: _of_batch_norm,
    nn.AvgPool2d: _of_average,
    nn.AdaptiveAvgPool2d: lambda module, x: _adaptive(x, module.output_size),
    nn.MaxPool2d: _of_max_pool,
    nn.ReLU: lambda _, x: _rectifier(x),
    nn.LeakyReLU: lambda module, x: _leaky(x, module.negative_slope),
    nn.Flatten: lambda _, x: _reshape(x),
    nn.Unflatten: lambda _, x: _reshape(x),
    **dict.fromkeys((nn.Identity, nn.Dropout, nn.Dropout2d), lambda _, x: x),
}

_FUNCTIONS: dict[str, Callable[..., _Read]] = {
    **dict.fromkeys(("conv2d",), _convolution),
    **dict.fromkeys(("linear",), _linear),
    **dict.fromkeys(("avg_pool2d",), _average),
    **dict.fromkeys(("adaptive_avg_pool2d", "_adaptive_avg_pool2d"), _adaptive),
    **dict.fromkeys(("mean",), _mean),
    **dict.fromkeys(("max_pool2d", "boolean_dispatch"), _max_pool),
    **dict.fromkeys(("relu",), _rectifier),
    **dict.fromkeys(("leaky_relu",), _leaky),
    **dict.fromkeys(("flatten", "view", "reshape", "squeeze", "unsqueeze", "unflatten"), _reshape),
    **dict.fromkeys(("contiguous", "float", "clone", "to"), _same_value),
    **dict.fromkeys(("dropout", "dropout2d"), _dropout),
    **dict.fromkeys(("add", "iadd"), _add),
    **dict.fromkeys(("sub", "isub", "subtract"), _subtract),
    **dict.fromkeys(("mul", "imul", "multiply"), _multiply),
    **dict.fromkeys(("truediv", "itruediv", "div", "divide"), _divide),
    **dict.fromkeys(("neg",), _negate),
}
