"""What each call of a traced module is, as an operation with a bound, by the name it is called by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from faultlight.certify._operations import (
    Average,
    Convolution,
    Linear,
    MaxPool,
    Operation,
    Rectifier,
    Reshape,
    Scale,
    Sum,
)
from faultlight.errors import InputError


class NoCertificate(InputError):
    """There is no certificate for this model, and the text says why."""


@dataclass(frozen=True)
class Value:
    """What stands for a tensor that depends on the pixels: the place that computes it."""

    place: int
    shape: tuple[int, ...]


# What a call is read as: an operation and what it is applied to, or a value that was there already.
Read = tuple[Operation, tuple[Value, ...]] | Value


def of_module(module: nn.Module, x: Value) -> Read:
    """Return what a module of PyTorch's own does to a value.

    Raises:
        NoCertificate: there is no bound for it.
    """
    reader = _MODULES.get(type(module))
    if reader is None:
        raise NoCertificate(f"no certificate: there is no bound for {type(module).__name__}")
    return reader(module, x)


def of_function(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return what a function or a method does to values, or its result where it is given constants alone.

    Raises:
        NoCertificate: there is no bound for it.
    """
    name = target if isinstance(target, str) else getattr(target, "__name__", str(target))
    if not any(isinstance(value, Value) for value in args):  # between constants: no bound is needed
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


def _convolution(x: Value, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
                 groups: int = 1) -> Read:  # fmt: skip
    spread, reach = _pair(dilation), tuple(weight.shape[2:])
    margin = _same(reach, spread) if padding == "same" else _pair(0) if padding == "valid" else _pair(padding)
    return Convolution(weight, bias, _pair(stride), margin, spread, groups, x.shape), (x,)


def _same(reach: tuple[int, ...], dilation: tuple[int, int]) -> tuple[int, int]:
    extra = [d * (k - 1) for k, d in zip(reach, dilation, strict=True)]
    if any(e % 2 for e in extra):
        raise NoCertificate("no certificate: a convolution pads its two sides differently")
    return extra[0] // 2, extra[1] // 2


def _of_convolution(module: nn.Conv2d, x: Value) -> Read:
    if module.padding_mode != "zeros":
        raise NoCertificate(f"no certificate: there is no bound for a convolution padded by {module.padding_mode!r}")
    sizes = (module.stride, module.padding, module.dilation, module.groups)
    return _convolution(x, module.weight, module.bias, *sizes)


def _linear(x: Value, weight: Tensor, bias: Any = None) -> Read:
    return Linear(weight, bias, (*x.shape[:-1], len(weight))), (x,)


def _of_batch_norm(module: nn.BatchNorm1d | nn.BatchNorm2d, x: Value) -> Read:
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


def _average(x: Value, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
             count_include_pad: bool = True, divisor_override: Any = None) -> Read:  # fmt: skip
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


def _of_average(module: nn.AvgPool2d, x: Value) -> Read:
    padded = (module.ceil_mode, module.count_include_pad, module.divisor_override)
    return _average(x, module.kernel_size, module.stride, module.padding, *padded)


def _adaptive(x: Value, output_size: Any) -> Read:
    function = partial(functional.adaptive_avg_pool2d, output_size=output_size)
    return Average(function, x.shape, torch.Size(x.shape[1:]).numel()), (x,)


def _mean(x: Value, dim: Any, keepdim: bool = False) -> Read:
    axes = {axis % (len(x.shape) + 1) for axis in (dim if isinstance(dim, tuple | list) else (dim,))}
    if 0 in axes:
        raise NoCertificate("no certificate: a mean over the images of a batch")
    function = partial(torch.mean, dim=tuple(sorted(axes)), keepdim=keepdim)
    return Average(function, x.shape, torch.Size(x.shape).numel()), (x,)


def _padded(x: Value, pad: Any, mode: str = "constant", value: Any = None) -> Read:
    if mode != "constant" or value:
        raise NoCertificate("no certificate: there is no bound for a padding by anything but zeros")
    if not all(isinstance(each, int) for each in pad):
        raise NoCertificate("no certificate: a padding is computed, and what from is not known when the model is read")
    if len(pad) > 2 * len(x.shape):
        raise NoCertificate("no certificate: a padding adds to the images of a batch")
    return Average(partial(functional.pad, pad=tuple(pad)), x.shape, 0, mixes=False), (x,)


def _max_pool(x: Value, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
              ceil_mode: bool = False, return_indices: bool = False) -> Read:  # fmt: skip
    if ceil_mode or return_indices:
        raise NoCertificate("no certificate: there is no bound for a max-pooling with ceil_mode or return_indices")
    return MaxPool(_pair(kernel_size), _pair(stride or kernel_size), _pair(padding), _pair(dilation)), (x,)


def _of_max_pool(module: nn.MaxPool2d, x: Value) -> Read:
    sizes = (module.kernel_size, module.stride, module.padding, module.dilation)
    return _max_pool(x, *sizes, module.ceil_mode, module.return_indices)


def _rectifier(x: Value, inplace: bool = False) -> Read:  # noqa: ARG001 — as it is called
    return Rectifier(), (x,)


def _leaky(x: Value, negative_slope: float = 0.01, inplace: bool = False) -> Read:  # noqa: ARG001
    if not 0 <= negative_slope < 1:
        raise NoCertificate(f"no certificate: there is no bound for a leaky ReLU of slope {negative_slope}")
    return Rectifier(float(negative_slope)), (x,)


def _reshape(x: Value, *_: Any, **__: Any) -> Read:
    return Reshape(x.shape, ()), (x,)  # the shape it gives is filled in from what it gave


def _same_value(x: Value, *_: Any, **__: Any) -> Read:
    return x


def _dropout(x: Value, p: float = 0.5, training: bool = True, inplace: bool = False) -> Read:  # noqa: ARG001
    if training:
        raise NoCertificate("no certificate: a dropout that is on is no function of the image")
    return x


def _add(first: Any, second: Any, alpha: Any = 1) -> Read:
    return _combined(first, second, alpha)


def _subtract(first: Any, second: Any, alpha: Any = 1) -> Read:
    return _combined(first, second, -alpha)


def _combined(first: Any, second: Any, sign: Any) -> Read:
    if isinstance(first, Value) and isinstance(second, Value):
        if first.shape != second.shape or abs(sign) != 1:
            raise NoCertificate("no certificate: there is no bound for a sum of values of different shapes or weights")
        return Sum(int(sign)), (first, second)
    if isinstance(first, Value):
        shift = _number(second, first) * sign
        return Scale(torch.ones_like(shift), shift, shift.abs()), (first,)
    shift = _number(first, second)
    return Scale(torch.full_like(shift, float(sign)), shift, shift.abs()), (second,)


def _multiply(first: Any, second: Any) -> Read:
    if isinstance(first, Value) and isinstance(second, Value):
        raise NoCertificate("no certificate: there is no bound for a product of two values")
    x, factor = (first, second) if isinstance(first, Value) else (second, first)
    factor = _number(factor, x)
    return Scale(factor, torch.zeros_like(factor), torch.zeros_like(factor)), (x,)


def _divide(first: Any, second: Any) -> Read:
    if isinstance(second, Value):
        raise NoCertificate("no certificate: there is no bound for a division by a value")
    return _multiply(first, 1 / _number(second, first))


def _negate(x: Value) -> Read:
    return _multiply(x, -1.0)


def _number(value: Any, x: Value) -> Tensor:
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


_MODULES: dict[type[nn.Module], Callable[[Any, Value], Read]] = {
    nn.Conv2d: _of_convolution,
    nn.Linear: lambda module, x: _linear(x, module.weight, module.bias),
    nn.BatchNorm1d: _of_batch_norm,
    nn.BatchNorm2d: _of_batch_norm,
    nn.AvgPool2d: _of_average,
    nn.AdaptiveAvgPool2d: lambda module, x: _adaptive(x, module.output_size),
    nn.ZeroPad2d: lambda module, x: _padded(x, module.padding),
    nn.ConstantPad2d: lambda module, x: _padded(x, module.padding, value=module.value),
    nn.MaxPool2d: _of_max_pool,
    nn.ReLU: lambda _, x: _rectifier(x),
    nn.LeakyReLU: lambda module, x: _leaky(x, module.negative_slope),
    nn.Flatten: lambda _, x: _reshape(x),
    nn.Unflatten: lambda _, x: _reshape(x),
    **dict.fromkeys((nn.Identity, nn.Dropout, nn.Dropout2d), lambda _, x: x),
}

_FUNCTIONS: dict[str, Callable[..., Read]] = {
    **dict.fromkeys(("conv2d",), _convolution),
    **dict.fromkeys(("linear",), _linear),
    **dict.fromkeys(("avg_pool2d",), _average),
    **dict.fromkeys(("adaptive_avg_pool2d", "_adaptive_avg_pool2d"), _adaptive),
    **dict.fromkeys(("mean",), _mean),
    **dict.fromkeys(("pad", "constant_pad_nd"), _padded),
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
