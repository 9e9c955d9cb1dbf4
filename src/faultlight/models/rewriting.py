"""The same function in fewer operations: what a copy that is only searched on may change."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.fx import GraphModule, Node, symbolic_trace
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval


def rewritten(module: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode that computes the same, but for rounding, at less cost.

    A batch norm right behind a convolution is folded into it; a ReLU before a max-pooling goes behind it, where fewer
    values are left; a convolution of few channels differentiates by `FewChannels`. Nets that cannot be traced keep
    their norms and their order.
    """
    try:
        traced = symbolic_trace(copy.deepcopy(module))
    except Exception:  # tracing runs the model's own code, which may raise anything
        return _with_few_channels(copy.deepcopy(module))
    modules = dict(traced.named_modules())
    calls = [node for node in traced.graph.nodes if node.op == "call_module"]
    for node in calls:
        _fold(node, calls, modules, traced)
    for node in list(traced.graph.nodes):
        _pool_first(node, modules, traced)
    traced.graph.lint()
    traced.recompile()
    return _with_few_channels(traced.eval())


def _fold(node: Node, calls: list[Node], modules: dict[str, nn.Module], traced: GraphModule) -> None:
    """Fold the batch norm that a node calls into the convolution before it, if nothing else uses either."""
    before = node.args[0] if node.args else None
    if not isinstance(before, Node) or before not in calls or len(before.users) > 1:
        return
    norm, convolution = modules[str(node.target)], modules[str(before.target)]
    if not isinstance(norm, nn.BatchNorm2d) or not isinstance(convolution, nn.Conv2d) or norm.running_mean is None:
        return
    if sum(call.target in (node.target, before.target) for call in calls) > 2:
        return
    modules[str(before.target)] = fuse_conv_bn_eval(convolution, norm)
    traced.set_submodule(str(before.target), modules[str(before.target)])
    node.replace_all_uses_with(before)
    traced.graph.erase_node(node)


def _pool_first(pool: Node, modules: dict[str, nn.Module], traced: GraphModule) -> None:
    """Put the ReLU before a max-pooling behind it: max(relu(z)) = relu(max(z)), and so are the gradients."""
    relu = pool.args[0] if pool.args else None
    if not isinstance(relu, Node) or not _is_max_pooling(pool, modules) or not _is_relu(relu, modules):
        return
    if len(relu.users) > 1 or not isinstance(relu.args[0], Node):
        return
    with traced.graph.inserting_after(pool):
        behind = traced.graph.node_copy(relu, lambda _: pool)
    pool.replace_all_uses_with(behind, delete_user_cb=lambda user: user is not behind)
    pool.replace_input_with(relu, relu.args[0])
    traced.graph.erase_node(relu)


def _is_max_pooling(node: Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        module = modules[str(node.target)]
        return type(module) is nn.MaxPool2d and not module.return_indices
    return node.op == "call_function" and node.target is functional.max_pool2d


def _is_relu(node: Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return type(modules[str(node.target)]) is nn.ReLU
    if node.op == "call_function":
        return node.target in (functional.relu, torch.relu)
    return node.op == "call_method" and node.target == "relu"


class FewChannels(nn.Module):
    """A convolution whose gradient by its few input channels is one matrix product and k² shifted sums.

    oneDNN computes the gradient by one to three channels at a small part of the speed that it reaches for many.

    Args:
        convolution: dilation 1, one group, zero padding.
    """

    def __init__(self, convolution: nn.Conv2d):
        super().__init__()
        self.convolution = convolution

    def forward(self, x: Float[Tensor, "n channels h w"]) -> Float[Tensor, "n features h2 w2"]:
        """Return the convolution of x; no gradient reaches the weights."""
        padding: Any = self.convolution.padding
        result: Tensor = _FewChannels.apply(  # type: ignore[no-untyped-call]
            x, self.convolution.weight, self.convolution.bias, padding, self.convolution.stride
        )
        return result


class _FewChannels(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int], stride: tuple[int, int]
    ) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.size, ctx.dtype, ctx.padding, ctx.stride = x.shape[2:], x.dtype, padding, stride
        return functional.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor, None, None, None, None]:
        (weight,), (slope,) = ctx.saved_tensors, above
        features, channels, tall, wide = weight.shape
        n, _, height, width = slope.shape
        # Each row of the product is one weight's share of all images' gradients, to be added at that weight's shift.
        # Under autocast the weight is of another kind than what the convolution made of it.
        weights = weight.to(slope.dtype).reshape(features, -1).t()
        shares = weights @ slope.permute(0, 2, 3, 1).reshape(-1, features).t()
        shares = shares.to(torch.promote_types(shares.dtype, torch.float32)).view(
            channels, tall, wide, n, height, width
        )
        (top, left), (down, right), (rows, columns) = ctx.padding, ctx.stride, ctx.size
        total = shares.new_zeros(channels, n, rows + 2 * top, columns + 2 * left)
        for i in range(tall):
            for j in range(wide):
                total[:, :, i : i + height * down : down, j : j + width * right : right] += shares[:, i, j]
        inside = total[:, :, top : top + rows, left : left + columns].transpose(0, 1)
        return inside.to(ctx.dtype), None, None, None, None


@contextmanager
def by_pixels_alone(module: nn.Module) -> Iterator[None]:
    """Have convolutions of few channels differentiate by `FewChannels` for a while, in place; weights get no gradient.

    For a network that goes on learning, which a copy would not follow.
    """
    parts = [part for part in module.modules() if isinstance(part, nn.Conv2d) and _has_few_channels(part)]
    for part in parts:
        vars(part)["forward"] = FewChannels(part).forward
    try:
        yield
    finally:
        for part in parts:
            del vars(part)["forward"]


def _with_few_channels(module: nn.Module) -> nn.Module:
    """Replace every convolution on a CPU for which it pays."""
    for name, part in list(module.named_modules()):
        if name and isinstance(part, nn.Conv2d) and _has_few_channels(part):
            module.set_submodule(name, FewChannels(part))
    return module


def _has_few_channels(part: nn.Conv2d) -> bool:
    plain = part.dilation == (1, 1) and part.groups == 1 and part.padding_mode == "zeros"
    few = 4 * part.in_channels <= part.out_channels and part.in_channels <= 3
    return plain and few and not isinstance(part.padding, str) and part.weight.device.type == "cpu"
