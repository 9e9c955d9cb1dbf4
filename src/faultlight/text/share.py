"""The gradient of a share of a batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parameters_to_vector

from faultlight.text.gru import run_gru
from faultlight.text.model import CharModel, State


@dataclass(frozen=True)
class Share:
    """Some rows of a batch.

    Args:
        x: characters as numbers.
        due: the characters that follow them.
        state: what came before; without one all zeros.
        seeds: of the last layer's dropout, row by row; without them it is PyTorch's own, from the global generator.
        of: rows of the whole batch.
    """

    x: Int64[Tensor, "b t"]
    due: Int64[Tensor, "b t"]
    state: State | None
    seeds: Int64[Tensor, " b"] | None
    of: int


@dataclass(frozen=True)
class Found:
    """A share's part of the mean loss over the batch, the gradient of that part, and the state after it.

    Args:
        loss: the sum of these rows' mean losses, divided by the rows of the batch.
        grads: of all weights, one after the other.
        after: without gradients.
    """

    loss: Float[Tensor, ""]
    grads: Float[Tensor, " w"]
    after: State


def share_gradient(model: CharModel, share: Share) -> Found:
    """Compute it; on a processor a GRU is gone through by `run_gru`."""
    mask = None if share.seeds is None else _mask(model, share.x, share.seeds)
    with torch.enable_grad():
        if isinstance(model.recurrent, nn.GRU) and share.x.device.type == "cpu":
            before = share.state[0] if share.state else None
            hidden, ends = run_gru(model.recurrent, model.embedding, share.x, before)
            kept = model.dropout(hidden) if mask is None else hidden * mask.transpose(0, 1)
            logits, due, after = model.decoder(kept), share.due.t(), (ends,)
        else:
            logits, after = model(share.x, share.state, mask)
            due = share.due
        loss = functional.cross_entropy(logits.flatten(0, 1), due.flatten()) * (len(share.x) / share.of)
        grads = torch.autograd.grad(loss, list(model.parameters()))
    return Found(loss.detach(), parameters_to_vector(grads), tuple(each.detach() for each in after))


def _mask(model: CharModel, x: Tensor, seeds: Tensor) -> Float[Tensor, "b t h"]:
    kept, generator, mask = 1 - model.shape.dropout, torch.Generator(), torch.empty(*x.shape, model.shape.hidden)
    for row, seed in zip(mask, seeds.tolist(), strict=True):
        row.bernoulli_(kept, generator=generator.manual_seed(seed))
    return mask / kept
