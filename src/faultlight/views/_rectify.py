"""ReLU with a backward rule of one's choice, however the net spells it: module, function, method, in place, clamp."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from faultlight.views._bends import Severed, name_of, other_bends

Rule = Literal["deconvnet", "guided", "gradient"]


class Rectified(NamedTuple):
    """A call that is a ReLU: its argument z, the value above which it is flat, and whether it writes over z."""

    z: Tensor
    cap: float = math.inf
    inplace: bool = False


class Rectifying(TorchFunctionMode):
    """While active, every ReLU of a forward pass goes back by one rule, whatever it was written as.

    For input z and the signal g from above: gradient g·1[z > 0], deconvnet g·1[g > 0], guided g·1[z > 0]·1[g > 0].
    Known are relu, clamp and clip from 0, clamp_min, threshold at 0, maximum with 0, relu6 and hardtanh from 0, as
    functions, methods and in place, and every module that calls one of them. A cap, as of relu6, passes the signal
    where it is not reached, as its gradient does. A clamp of the pixels is no ReLU: they lie in [0, 1] already.

    Source: Zeiler and Fergus 2014, section 2.1 (deconvnet); Springenberg et al. 2015, "Striving for simplicity",
    section 3.4 (guided).

    Args:
        rule: how the signal goes back.
        pixels: the tensor that the net is given.
    """

    def __init__(self, rule: Rule, pixels: Tensor) -> None:
        super().__init__()
        self.rule, self.pixels = rule, pixels
        self._severed = Severed()

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call a function of torch, or its counterpart with the rule where it is a ReLU."""
        kwargs, name = kwargs or {}, name_of(func)
        reading = _READINGS.get(name.strip("_"))
        call = reading(*args, **kwargs) if reading is not None and "out" not in kwargs else None
        if call is None:
            result = func(*args, **kwargs)
            self._severed.follow(name, [args, kwargs], result)
            return result
        inplace = call.inplace or name.endswith("_")
        bent = self._bent(call, inplace)
        self._severed.follow(f"{name.strip('_')}_" if inplace else name, call.z, bent, ruled=True)
        return bent

    def _bent(self, call: Rectified, inplace: bool) -> Tensor:
        if call.z is self.pixels and call.cap >= 1:
            return call.z.view_as(call.z)
        bent: Tensor = _Rectify.apply(call.z, self.rule, call.cap, inplace)  # type: ignore[no-untyped-call]
        return bent

    def bends(self, output: Tensor) -> list[str]:
        """Return the bends other than ReLU through which an output of this pass depends on the pixels, by name."""
        return [*other_bends(output, _Rectify.__name__), *sorted(self._severed.met)]


def opaque(module: nn.Module) -> list[str]:
    """Return the kinds of module whose inside no Python call shows: scripted and compiled ones."""
    kinds = {"scripted": "ScriptModule", "compiled": "OptimizedModule"}
    # By name: torch's compiler takes a second to import, and a module of it is only there when it was.
    names = {base.__name__ for part in module.modules() for base in type(part).__mro__}
    return [kind for kind, name in kinds.items() if name in names]


class _Rectify(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, rule: Rule, cap: float, inplace: bool) -> Tensor:
        ctx.rule = rule
        # A mask, not z: a net may write over z later.
        if rule != "deconvnet":
            ctx.save_for_backward((z > 0) & (z < cap))
        elif cap < math.inf:
            ctx.save_for_backward(z < cap)
        if inplace:
            ctx.mark_dirty(z)
        if cap < math.inf:
            return z.clamp_(0, cap) if inplace else z.clamp(0, cap)
        return z.relu_() if inplace else z.relu()

    @staticmethod
    def backward(ctx: Any, *signals: Tensor) -> tuple[Tensor, None, None, None]:
        (signal,) = signals
        if ctx.rule != "gradient":
            signal = signal.relu()
        for mask in ctx.saved_tensors:
            signal = signal * mask
        return signal, None, None, None


def _relu(input: Tensor, inplace: bool = False) -> Rectified:
    return Rectified(input, inplace=inplace)


def _relu6(input: Tensor, inplace: bool = False) -> Rectified:
    return Rectified(input, 6.0, inplace)


def _hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Rectified | None:
    return Rectified(input, float(max_val), inplace) if min_val == 0 else None


def _clamp(input: Tensor, min: Any = None, max: Any = None) -> Rectified | None:
    if isinstance(max, Tensor) or not _is_zero(min):
        return None
    return Rectified(input, math.inf if max is None else float(max))


def _clamp_min(input: Tensor, min: Any) -> Rectified | None:
    return _clamp(input, min)


def _threshold(input: Tensor, threshold: Any, value: Any, inplace: bool = False) -> Rectified | None:
    return Rectified(input, inplace=inplace) if threshold == 0 and value == 0 else None


def _maximum(input: Any, other: Any = None, **_: Any) -> Rectified | None:
    for z, zero in ((input, other), (other, input)):
        pair = isinstance(z, Tensor) and isinstance(zero, Tensor)
        # A zero of more dimensions would widen z.
        if pair and z.requires_grad and _is_zero(zero) and zero.ndim <= z.ndim and zero.expand_as(z).shape == z.shape:
            return Rectified(z)
    return None


def _is_zero(value: Any) -> bool:
    if isinstance(value, Tensor):
        return not value.requires_grad and not bool(value.any())
    return isinstance(value, int | float) and value == 0


_READINGS: dict[str, Callable[..., Rectified | None]] = {
    "relu": _relu,
    "relu6": _relu6,
    "hardtanh": _hardtanh,
    "clamp": _clamp,
    "clip": _clamp,
    "clamp_min": _clamp_min,
    "threshold": _threshold,
    "maximum": _maximum,
    "max": _maximum,
    "fmax": _maximum,
}
