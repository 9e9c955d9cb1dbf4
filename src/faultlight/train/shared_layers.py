"""Layers whose answer depends on the whole batch, where several processes share it: batch norm and dropout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from faultlight.train.ranks import Ranks, Share

_DROPOUTS = (functional.dropout, functional.dropout1d, functional.dropout2d, functional.dropout3d)


def as_one_batch(share: Share) -> AbstractContextManager[object]:
    """Return a context in which batch norm and dropout in training mode do what they would do to the whole batch.

    PyTorch's functions are replaced, not the network's layers: `torch.nn.SyncBatchNorm` needs a GPU, and a layer of
    another class is one that bounds and saved networks do not know.
    """
    return nullcontext() if share.ranks.alone else _AsOneBatch(share)


class _AsOneBatch(TorchFunctionMode):
    def __init__(self, share: Share):
        super().__init__()
        self.share = share

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if function is functional.batch_norm and given.get("training"):
            return batch_norm(self.share.ranks, *args, **given)
        if function in _DROPOUTS and given.get("training"):
            return _dropout(self.share, function, args[0], given["p"])
        return function(*args, **given)


def batch_norm(
    ranks: Ranks,
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Return (x − μ)/√(σ² + eps)·weight + bias, a channel each, with μ and σ² over the rows of all processes.

    With n_r, μ_r, σ²_r of process r: n = Σ n_r, μ = Σ n_r μ_r / n, σ² = Σ n_r (σ²_r + (μ_r − μ)²) / n, which loses no
    digits as E[x²] − μ² would. In float32 whatever x is in.

    Source: Ioffe & Szegedy 2015, "Batch normalization", algorithm 1; Chan, Golub & LeVeque 1983, "Algorithms for
    computing the sample variance", for the merging.

    Args:
        ranks: the processes.
        x: of shape (rows of this process, channels, …).
        running_mean: moved by `momentum` towards μ, in place, if given; shape (channels,).
        running_var: likewise towards n/(n − 1)·σ².
        weight: shape (channels,), or None for 1.
        bias: shape (channels,), or None for 0.
        training: True; with running statistics there is nothing to share.
        momentum: in [0, 1].
        eps: above 0.
    """
    assert training, "running statistics are for PyTorch's own function"
    wide = x.float()
    dims = [dim for dim in range(x.ndim) if dim != 1]
    variance, mean = torch.var_mean(wide, dims, correction=0)
    count = torch.full_like(mean, x.numel() // x.shape[1])
    counts, means, variances = _of_all(ranks, torch.stack([count, mean, variance])).unbind(1)
    part = counts / counts.sum(0)
    mean = (part * means).sum(0)
    variance = (part * (variances + (means - mean) ** 2)).sum(0)
    with torch.no_grad():
        n = counts.sum(0)
        for running, now in ((running_mean, mean), (running_var, variance * n / (n - 1))):
            if running is not None:
                running.lerp_(now.to(running.dtype), momentum)
    scale = torch.rsqrt(variance + eps) if weight is None else torch.rsqrt(variance + eps) * weight
    shape = [1, -1] + [1] * (x.ndim - 2)
    out = (wide - mean.view(shape)) * scale.view(shape)
    return (out if bias is None else out + bias.view(shape)).to(x.dtype)


def _dropout(share: Share, function: Any, x: Tensor, p: float) -> Tensor:
    """Draw for the whole batch and keep what falls on one's own rows, so that the draws are those of one process."""
    layout = torch.channels_last if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last) else None
    ones = torch.ones(share.rows, *x.shape[1:], dtype=x.dtype, device=x.device)
    ones = ones.contiguous(memory_format=layout) if layout else ones
    return x * share.own(function(ones, p, True))


def _of_all(ranks: Ranks, own: Tensor) -> Tensor:
    """Return the tensors of all processes on a new first axis, differentiable in one's own."""
    place = functional.one_hot(torch.tensor(ranks.rank, device=own.device), ranks.count).to(own)
    found: Tensor = _Sum.apply(place.view(-1, *[1] * own.ndim) * own)  # type: ignore[no-untyped-call]
    return found


class _Sum(torch.autograd.Function):
    """The sum over all processes; its derivative by one's own part collects what the loss of each says of the sum."""

    @staticmethod
    def forward(context: Any, own: Tensor) -> Tensor:  # noqa: ARG004
        total = own.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        total = gradient.contiguous().clone()
        distributed.all_reduce(total)
        return total
