"""What bends a net besides ReLU: read from the gradient's graph, and from what is cut off it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction

# The nodes of the gradient's graph that are linear in what comes from the pixels, or pooling by a maximum, without
# "Backward" and their number. All others count as bends: a name that is missing here is a refusal, never a wrong map.
LINEAR = re.compile(
    "AccumulateGrad|Add|Sub|Rsub|Neg|Mul|Div|Addcmul|Addcdiv|Addmm|Addmv|Addbmm|Addr|Baddbmm|Bmm|Mm|Mv|Dot|Vdot|Linear"
    "|MkldnnLinear|.*Convolution.*|.*BatchNorm.*|Mean|Sum|Cumsum|Trace|Nansum|T|MT|MH|Transpose|Permute|Swap.*|Movedim"
    "|View|UnsafeView|ViewAs.*|Reshape.*|AsStrided.*|Alias|Expand|Squeeze|Unsqueeze|Flatten|Unflatten|Slice|Select|Narrow"
    "|Index|IndexSelect|IndexAdd|IndexCopy|IndexFill|IndexPut|IndexPutImpl|Gather|Take|Cat|Stack|Split.*|UnsafeSplit.*"
    "|Chunk|Unbind|Clone|Copy|CopySlices|ToCopy|To|Contiguous|Repeat.*|Tile|Flip|Roll|Rot90|Diagonal.*|Diag.*|Tril|Triu"
    "|MaskedFill|MaskedScatter|MaskedSelect|Where|Scatter|ScatterAdd|Fill|Zero|.*Pad.*Nd|.*Pad[123]D|PixelShuffle"
    "|PixelUnshuffle|ChannelShuffle|Unfold|Im2Col|Col2Im|.*AvgPool.*|Upsample.*|GridSampler.*|Fft.*|Conj.*|Real|Imag"
    "|Complex|.*MaxPool.*|.*MaxUnpool.*|.*MaxPool.*Indices|Lift.*|NativeDropout|NestedTensor.*"
)
PRODUCTS = re.compile(
    "Addcmul|Addcdiv|Addmm|Addmv|Addbmm|Addr|Baddbmm|Bmm|Div|Dot|Vdot|GridSampler.*|Linear|MkldnnLinear|Mm|Mul|Mv"
    "|.*BatchNorm.*|.*Convolution.*|ScaledDotProduct.*"
)
# The arguments in which nodes that are linear in their others are not: a divisor, the places of samples.
NOT_LINEAR_IN = {"Div": 1, "Addcdiv": 2, "GridSampler2D": 1, "GridSampler3D": 1}
# Normalisations by statistics of what goes through.
NORMS = {"NativeGroupNorm": "group", "NativeLayerNorm": "layer"}

# What torch calls its comparisons: a mask made by one is no function of the gradient's graph.
COMPARISONS = frozenset(
    {"gt", "ge", "lt", "le", "eq", "ne", "sign", "heaviside", "greater", "less", "greater_equal", "less_equal"}
)
# What leaves torch and may come back.
_LEAVING = frozenset({"numpy", "__array__", "__dlpack__", "tolist"})
# Functions that take from their second argument its shape or kind alone.
_SHAPED = frozenset({"expand_as", "view_as", "reshape_as", "type_as", "to", "broadcast_tensors"})
_OPERATORS = frozenset(
    {"__setitem__", *(f"__i{name}__" for name in ("add", "sub", "mul", "truediv", "pow", "and", "or"))}
)
# In place on a part of a tensor, the graph shows these alone for what they are.
_WRITTEN = frozenset({"copy_", "add_", "sub_", "__iadd__", "__isub__", "zero_", "fill_", "__setitem__"})


def other_bends(output: Tensor, ruled: str = "") -> list[str]:
    """Return the bends other than a ReLU with its rule through which an output depends on the pixels, by name.

    Read from the graph of the gradient, so none is missed that lies on the path, and none that lies beside it counts.
    Products of two activations (gates, attention) and normalisations by the images' own statistics bend too.
    Max-pooling does not: its switches are the view's own.

    Args:
        output: what depends on the pixels.
        ruled: the name of the function that has a rule.
    """
    found: set[str] = set()
    nodes, seen = [output.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        nodes += [following for following, _ in node.next_functions]
        found |= _bend(node, ruled)
    return sorted(found)


def _bend(node: Any, ruled: str) -> set[str]:
    name = _name(node)
    if isinstance(node, BackwardCFunction):
        return set() if name == ruled else {name}
    if name in NORMS or getattr(node, "_saved_training", False):
        return {f"{NORMS.get(name, 'batch or instance')} normalisation by the images' own statistics"}
    if name in ("Max", "Amax") and _pools(node):
        return set()
    carried = [following is not None for following, _ in node.next_functions]
    if PRODUCTS.fullmatch(name) and sum(carried) > 1:
        return {"a product of activations"}
    if not LINEAR.fullmatch(name) or carried[NOT_LINEAR_IN.get(name, len(carried)) :][:1] == [True]:
        return {name}
    return set()


def _name(node: Any) -> str:
    name: str = node.name().rpartition("::")[2].partition("Backward")[0]
    return name


def _pools(node: Any) -> bool:
    """Whether a maximum is one over places of a map, not over maps or over tensors that were joined."""
    saved = getattr(node, "_saved_dim", ())
    dims = saved if isinstance(saved, tuple) else (saved,)
    shape = node._saved_self.shape if _name(node) == "Amax" else getattr(node, "_saved_self_sym_sizes", ())
    # A number below 0 is kept as an unsigned one of 64 bits.
    from_the_front = [(d + 2**63) % 2**64 - 2**63 for d in dims]
    places = [d % len(shape) >= 2 for d in from_the_front] if 2 < len(shape) <= 4 else []
    joined = {_name(following) for following, _ in node.next_functions if following is not None}
    return bool(places) and all(places) and not joined & {"Stack", "Cat"}


class Severed:
    """Values made of the signal that the gradient's graph does not hold: masks, detached copies, what `no_grad` made.

    Where one meets the signal again, it is a gate or a step that has no rule. Followed is what torch's functions do;
    what becomes of a number outside of torch is not.
    """

    def __init__(self) -> None:
        self.met: set[str] = set()
        # By identity; the tensors are kept, so that no other gets their place.
        self._origin: dict[int, tuple[Tensor, frozenset[str]]] = {}
        self._shared: set[int] = set()

    def follow(self, name: str, args: Any, result: Any, ruled: bool = False) -> None:
        """Take note of a call of a function of torch.

        Args:
            name: the function's, with the underscore of one that writes in place.
            args: what it was given, keywords and all.
            result: what it gave.
            ruled: whether it is a ReLU with a rule, of which the graph shows all, in place on a part too.
        """
        given = _valued(name, list(_tensors(args)))
        if not given:
            return
        written = given[0] if name in _OPERATORS or (name.endswith("_") and not name.endswith("__")) else None
        signal = [tensor for tensor in given if tensor.requires_grad or name == "detach_"]
        origin = frozenset[str]().union(*(self._origin[id(t)][1] for t in given if id(t) in self._origin))
        self._look(name, given, written, bool(signal) and not ruled)
        if not signal and not origin:
            return
        for made in _tensors([result, written]):
            if made.requires_grad:
                self.met |= origin if signal else set()
            # The places of maxima are the switches of a pool.
            elif origin or "pool" not in name:
                self._keep(made, name, origin, signal)

    def _look(self, name: str, given: list[Tensor], written: Tensor | None, bends: bool) -> None:
        """Note what happens out of the graph's sight."""
        if name in _LEAVING and (bends or id(given[0]) in self._origin) and given[0].ndim:
            self.met.add(name.strip("_"))
        if written is None:
            return
        unseen = not torch.is_grad_enabled() if written.requires_grad else _place(written) in self._shared
        if unseen and name != "detach_":
            self.met.add(f"{name} beside the gradient")
        elif bends and written._is_view() and name not in _WRITTEN:
            self.met.add(f"{name} on a part")

    def _keep(self, made: Tensor, name: str, origin: frozenset[str], signal: list[Tensor]) -> None:
        own = {name.strip("_")} if not origin or name in COMPARISONS else set()
        self._origin[id(made)] = made, origin | own
        if _place(made) and _place(made) in {_place(tensor) for tensor in signal}:
            self._shared.add(_place(made))


def name_of(func: Callable[..., Any]) -> str:
    """Return the name of a function of torch, of an attribute that of the attribute."""
    name: str = getattr(func, "__name__", "").partition(".")[0]
    return getattr(getattr(func, "__self__", None), "__name__", name) if name == "__get__" else name


def _valued(name: str, given: list[Tensor]) -> list[Tensor]:
    """Return the arguments whose values matter, not their shape alone."""
    if name.endswith("_like") or name.startswith("new_"):
        return []
    return given[:1] if name in _SHAPED else given


def _place(tensor: Tensor) -> int:
    """Return where a tensor's numbers begin in memory, 0 where they have no one place."""
    return tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided else 0


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, tuple | list | dict):
        for value in values.values() if isinstance(values, dict) else values:
            yield from _tensors(value)
