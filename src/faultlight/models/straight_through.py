"""The straight-through twin of a model: the very same logits, with gradients where its own are cut or vanish."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# The share of a gradient that passes where a function is flat: so little that it hardly shows where the true one does.
LEAK = 0.01

# Flat almost everywhere, or cut off: their gradient is the identity's.
_IDENTITY = {"round", "floor", "ceil", "trunc", "fix", "sign", "sgn", "heaviside", "detach", "quantize_per_tensor"}
_IDENTITY |= {"fake_quantize_per_tensor_affine", "masked_fill"}
# Flat on a side or at both ends.
_SATURATING = {"relu", "relu6", "clamp", "clip", "clamp_min", "clamp_max", "hardtanh", "threshold", "sigmoid", "tanh"}
_SATURATING |= {"hardsigmoid", "softmax", "softsign"}
_ABOVE, _BELOW = {"gt", "ge", "greater", "greater_equal"}, {"lt", "le", "less", "less_equal"}
_TO_INTEGER = {"to", "type", "byte", "char", "short", "int", "long", "bool"}
_LEAVING = {"numpy", "__array__", "tolist", "item"}
# They keep the order of a row of logits, so that what went in can be attacked in place of what came out.
_ORDERLY = _SATURATING | {"log_softmax", "exp", "log", "round", "float", "double", "to", "softplus", "sqrt", "detach"}
_SCALING = {"mul", "div", "true_divide", "multiply", "divide"}
_SHIFTING = {"add", "sub", "subtract"}


class StraightThrough(nn.Module):
    """A model's very own logits, with a gradient borrowed wherever its own is cut off or flat.

    f(x) = g(x) in value, ∇f(x) ≈ ∇g̃(x) with g̃ a differentiable stand-in of each offending step: the identity for
    rounding, sign, `detach`, `no_grad` blocks, casts to integers and back, and for whatever leaves PyTorch (NumPy,
    PIL) and comes back in its old shape; a sigmoid for comparisons; and a leak of 1 % where ReLU, clamp, sigmoid, tanh
    and softmax are flat. A submodule that gives its input's shape without a gradient is taken for the identity.

    Source: Athalye, Carlini & Wagner 2018, "Obfuscated gradients give a false sense of security", §4.1 (BPDA); Bengio
    et al. 2013, "Estimating or propagating gradients through stochastic neurons" (straight-through).
    Departs from them in that nothing of the model need be known: functions are seen as they are called. What the
    gradients lead to is a proposal, which the untouched model has to confirm.

    Args:
        module: the model; it is copied.
        peel: give what lies before a last softmax, sigmoid, ReLU, clamp, scaling or rounding, where that was seen. The
            order of the classes is the same, but for ties that such a last step made.
        functions: stand in for functions as they are called; else only for submodules as a whole.
    """

    def __init__(self, module: nn.Module, peel: bool = False, functions: bool = True):
        super().__init__()
        self.module = copy.deepcopy(module)
        self.peel, self.functions = peel, functions
        self._pixels: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes) of pixels (n, c, h, w)."""
        # A leaf must not be changed in place, and a model may do that to its input.
        self._pixels = x = x.clone() if x.requires_grad else x
        mode = _Substitution() if self.functions else None
        try:
            with _hooked(self.module, self._before, _after), mode or nullcontext():
                logits: Tensor = self.module(x)
        finally:
            self._pixels = None
        if mode is None:
            return logits
        return mode.before(logits) if self.peel else mode.at_home(logits)

    def _before(self, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Give back the pixels' gradient to a submodule's input that has their shape and lost it."""
        pixels = self._pixels
        if pixels is None or not _carries(pixels) or any(_carries(arg) for arg in args):
            return None
        return tuple(borrow(arg, pixels) if _is_cut(arg) and arg.shape == pixels.shape else arg for arg in args)


def borrow(value: Tensor, other: Tensor) -> Tensor:
    """Return the value of one tensor with the gradient of another of the same shape."""
    borrowed: Tensor = _Borrow.apply(value, other)  # type: ignore[no-untyped-call]
    return borrowed


class _Borrow(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, other: Tensor) -> Tensor:  # noqa: ARG004 — PyTorch's signature
        return value.detach().clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:  # noqa: ARG004
        return None, gradients[0]


def _after(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    """Take a submodule for the identity where it gives its input's shape and no gradient."""
    if not _is_cut(output):
        return output
    sources = [arg for arg in args if _carries(arg) and arg.shape == output.shape]
    return borrow(output, sources[0]) if sources else output


@contextmanager
def _hooked(module: nn.Module, before: Callable[..., Any], after: Callable[..., Any]) -> Iterator[None]:
    handles = [part.register_forward_pre_hook(before) for part in module.modules()]
    handles += [part.register_forward_hook(after) for part in module.modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Substitution(TorchFunctionMode):
    """Sees every function of a forward pass as it is called, and lends gradients to those that have none.

    A tensor that cannot carry a gradient (integers, truth values, arrays that left PyTorch) has a shadow: the
    differentiable tensor it was made of. Functions of such tensors are computed on their shadows too.
    """

    def __init__(self) -> None:
        super().__init__()
        self._recording = torch.is_grad_enabled()
        self._inside = 0
        # By identity; each tensor is kept alive, so that no other can take its number.
        self._shadows: dict[int, tuple[Tensor, Tensor]] = {}
        self._origins: dict[int, tuple[Tensor, Tensor]] = {}
        self._left: list[Tensor] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a function, with a gradient lent to its result."""
        name = _name(func)
        if name == "_set_grad_enabled" and self._recording and args == (False,):
            return None
        out = self._call(func, name, args, kwargs or {})
        self._note_origin(name, args, out)
        return out

    def at_home(self, logits: Tensor) -> Tensor:
        """Return logits with their gradient, where they have been outside PyTorch."""
        self._return_home((logits,))
        found: Tensor = self._paired(logits, self._shadow(logits))
        return found

    def before(self, logits: Tensor) -> Tensor:
        """Return what the logits were made of by functions that keep the order of a row."""
        logits = self.at_home(logits)
        while (found := self._origins.get(id(logits))) is not None:
            logits = found[1]
        return logits

    def _call(self, func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self._recording:
            return func(*args, **kwargs)
        if name == "__iter__":
            return iter(self._call(torch.unbind, "unbind", args, {}))
        self._return_home(args)
        if name in _LEAVING and args and isinstance(args[0], Tensor):
            return self._leave(func, args, kwargs)
        shadowed = _mapped(self._shadow, args)
        if any(one is not other for one, other in zip(_tensors(shadowed), _tensors(args), strict=True)):
            return self._follow(func, name, args, shadowed, kwargs)
        if not any(_carries(arg) for arg in _tensors(args)):
            return func(*args, **kwargs)
        return self._lend(func, name, args, kwargs)

    def _lend(self, func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a function on tensors that carry gradients."""
        bare = name.rstrip("_") if not name.startswith("__") else name
        in_place = (bare != name and not name.startswith("__")) or kwargs.get("inplace") is True
        if (bare in _IDENTITY or bare in _SATURATING) and _carries(args[0]):
            return self._stand_in(func, bare, args, kwargs, in_place)
        if bare in ("floor_divide", "__floordiv__") or kwargs.get("rounding_mode"):
            # PyTorch has no derivative of it, and says so.
            out = func(*_mapped(Tensor.detach, args), **kwargs)
            return borrow(out, (args[0] / args[1]).expand_as(out))
        out = func(*args, **kwargs)
        if bare in _ABOVE | _BELOW and _is_rigid(out):
            self._keep(out, _step(args[0], args[1], bare in _ABOVE))
        elif bare in _TO_INTEGER and _is_rigid(out):
            self._keep(out, args[0])
        return out

    def _stand_in(
        self, func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any], in_place: bool
    ) -> Any:
        x = args[0]
        given = x.clone() if in_place else x
        value = func(given, *args[1:], **kwargs)
        if not isinstance(value, Tensor) or value.shape != x.shape:
            return value
        source = x.clone() if in_place else x
        if name in _SATURATING:
            # Twice the function: a copy, so that nothing done in place reaches the value.
            smooth = func(x.clone(), *args[1:], **kwargs)
            source = (1 - LEAK) * smooth + LEAK * source
        out = borrow(value, source)
        return x.copy_(out) if in_place else out

    def _follow(
        self,
        func: Callable[..., Any],
        name: str,
        args: tuple[Any, ...],
        shadowed: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Call a function on tensors of which some have shadows, and on the shadows."""
        out = func(*args, **kwargs)
        try:
            soft = _soft_where(*shadowed) if name == "where" and len(shadowed) == 3 else func(*shadowed, **kwargs)
        except (RuntimeError, TypeError, IndexError, ValueError):
            return out  # a function of integers or truth values alone
        if isinstance(out, tuple | list) and isinstance(soft, tuple | list):
            return type(out)(self._paired(one, other) for one, other in zip(out, soft, strict=True))
        return self._paired(out, soft)

    def _paired(self, out: Any, soft: Any) -> Any:
        if out is soft or not isinstance(out, Tensor) or not _carries(soft) or out.shape != soft.shape:
            return out
        if out.is_floating_point():
            return borrow(out, soft)
        self._keep(out, soft)
        return out

    def _leave(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Let an array leave PyTorch, and remember where it came from."""
        source = self._shadow(args[0])
        if _carries(source):
            self._left.append(source)
        return func(args[0].detach(), *args[1:], **kwargs)

    def _return_home(self, args: tuple[Any, ...]) -> None:
        """Give a shadow to arrays that have come back in the shape in which one left, the first that left first."""
        for arg in _tensors(args) if self._left else ():
            if arg.requires_grad or isinstance(arg, nn.Parameter) or id(arg) in self._shadows:
                continue
            left = next((i for i, source in enumerate(self._left) if source.shape == arg.shape), None)
            if left is not None:
                self._keep(arg, self._left.pop(left))

    def _keep(self, value: Tensor, shadow: Tensor) -> None:
        self._shadows[id(value)] = (value, shadow)

    def _shadow(self, value: Any) -> Any:
        found = self._shadows.get(id(value))
        return found[1] if found else value

    def _note_origin(self, name: str, args: tuple[Any, ...], out: Any) -> None:
        """Remember what logits were made of, where the order of a row stayed the same."""
        if not (isinstance(out, Tensor) and out.ndim == 2 and args and isinstance(args[0], Tensor)):
            return
        known = name in _ORDERLY or (name in _SCALING | _SHIFTING and len(args) == 2 and _is_harmless(name, args[1]))
        if known and out is not args[0] and args[0].shape == out.shape and args[0].is_floating_point():
            self._origins[id(out)] = (out, args[0])


def _name(func: Callable[..., Any]) -> str:
    # The getter of `Tensor.data`, an old spelling of detach.
    return "detach" if func == Tensor.data.__get__ else getattr(func, "__name__", "")  # type: ignore[attr-defined]


def _step(a: Any, b: Any, above: bool) -> Tensor:
    """Return a sigmoid in place of a > b (or a < b), as wide as the differences are."""
    difference: Tensor = a - b if above else b - a
    return torch.sigmoid(difference / (difference.detach().abs().mean() + 1e-6))


def _soft_where(mask: Any, a: Any, b: Any) -> Tensor:
    weight: Tensor = mask.float()
    mixed: Tensor = weight * a + (1 - weight) * b
    return mixed


def _is_harmless(name: str, other: Any) -> bool:
    """Return whether scaling by it, or adding it, keeps the order of a row."""
    if isinstance(other, Tensor):
        one_a_row = other.ndim == 0 or other.shape[-1] == 1
        return one_a_row and (name in _SHIFTING or bool((other > 0).all()))
    return isinstance(other, int | float) and (name in _SHIFTING or other > 0)


def _carries(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _is_cut(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and not value.requires_grad


def _is_rigid(value: Any) -> bool:
    return isinstance(value, Tensor) and not value.is_floating_point()


def _tensors(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, tuple | list):
        return [tensor for value in values for tensor in _tensors(value)]
    return []


def _mapped(function: Callable[[Any], Any], values: Any) -> Any:
    if isinstance(values, tuple | list):
        return type(values)(_mapped(function, value) for value in values)
    return function(values) if isinstance(values, Tensor) else values
