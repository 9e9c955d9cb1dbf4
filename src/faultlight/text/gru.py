"""Gated recurrent layers with their gradient written out, for training on a processor.

`nn.GRU` goes through a text character by character, and so does its gradient, which autograd sums weight by weight at
each. Here whatever needs no order, inputs and gradients of weights, is one product over all characters, and what is
left for each character is one product and a handful of sums. The numbers are those of `nn.GRU`, summed in another
order.

With input x, state h, and a dot for products element by element (Cho et al. 2014, "Learning phrase representations",
in PyTorch's form, where the reset gate acts on the product):

    r, z = sigmoid(W_rz x + b_rz + U_rz h + c_rz)
    n = tanh(W_n x + b_n + r · (U_n h + c_n))
    h' = (1 - z) · n + z · h
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

# Characters whose factors are computed in one go, so that they are still in the cache when they are used.
_BLOCK = 8


def run_gru(
    recurrent: nn.GRU, embedding: nn.Embedding, x: Int64[Tensor, "b t"], state: Float[Tensor, "l b h"] | None
) -> tuple[Float[Tensor, "t b h"], Float[Tensor, "l b h"]]:
    """Return what the last layer says after each character, and every layer's last state.

    As `recurrent(embedding(x), state)` does, but character first, row of the batch second. A gradient of the gradient
    is refused.

    Args:
        recurrent: the layers, with biases, in one direction; dropout between them is PyTorch's.
        embedding: of the characters.
        x: characters as numbers.
        state: what came before; without one all zeros.
    """
    units, out, ends = recurrent.hidden_size, None, []
    for layer, (weight, recurring, bias, held) in enumerate(recurrent.all_weights):
        # c_n stays outside, for the reset gate acts on it.
        added = bias + functional.pad(held[: 2 * units], (0, units))
        if out is None:
            # There are fewer characters in the alphabet than in a batch: each is multiplied once.
            given = functional.embedding(x.t(), functional.linear(embedding.weight, weight, added))
        else:
            shared = functional.dropout(out, recurrent.dropout, recurrent.training)
            given = functional.linear(shared, weight, added)
        before = given.new_zeros(given.shape[1], units) if state is None else state[layer]
        out = _Layer.apply(given, before, recurring, held[2 * units :])  # type: ignore[no-untyped-call]
        ends.append(out[-1])
    assert out is not None
    return out, torch.stack(ends)


class _Layer(torch.autograd.Function):
    """One layer, from the inputs' part of r, z and n, of shape (t, b, 3 h), to its states, of shape (t, b, h)."""

    @staticmethod
    def forward(ctx: Any, given: Tensor, before: Tensor, recurring: Tensor, held: Tensor) -> Tensor:
        """Go through the characters, keeping the states, r, z, U_n h + c_n, and n of each."""
        steps, batch, wide = given.shape
        units = wide // 3
        states, gates = given.new_empty(steps + 1, batch, units), torch.empty_like(given)
        news = given.new_empty(steps, batch, units)
        states[0] = before
        across = recurring.t().contiguous()
        both, r, z, kept = (each.unbind(0) for each in _parts(gates))
        given_both, given_new = (each.unbind(0) for each in (_parts(given)[0], _parts(given)[3]))
        state = states.unbind(0)
        for t, (new, gate) in enumerate(zip(news.unbind(0), gates.unbind(0), strict=True)):
            torch.mm(state[t], across, out=gate)
            both[t].add_(given_both[t]).sigmoid_()
            torch.addcmul(given_new[t], r[t], kept[t].add_(held), out=new).tanh_()
            torch.lerp(new, state[t], z[t], out=state[t + 1])
        ctx.save_for_backward(states, gates, news, recurring)
        return states[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Go back through the characters; the weights' gradients are one product over all of them at the end."""
        states, gates, news, recurring = ctx.saved_tensors
        steps, batch, units = news.shape
        # Of each character the gradients of U_n h + c_n, r, z and W_n x + b_n: the first three are those of the
        # products with h, the last three those of what was given.
        found = news.new_empty(steps, batch, 4, units)
        flat = found.view(steps, batch, 4 * units)
        held = flat[..., : 3 * units]
        change, product = torch.zeros_like(states[0]), torch.empty_like(states[0])
        back = recurring.roll(units, 0)
        factors, scratch = news.new_empty(_BLOCK, batch, 4, units), news.new_empty(_BLOCK, batch, units)
        for last in range(steps, 0, -_BLOCK):
            block = slice(max(last - _BLOCK, 0), last)
            _factors(gates[block], news[block], states[block], factors, scratch)
            parts = (grad[block], factors[: len(grad[block])], found[block], held[block], _parts(gates[block])[2])
            for due, factor, four, three, z in reversed(list(zip(*(each.unbind(0) for each in parts), strict=True))):
                change.add_(due)
                torch.mul(change[:, None], factor, out=four)
                torch.mm(three, back, out=product)
                torch.addcmul(product, change, z, out=change)
        rows = held.flatten(0, 1)
        weights = (states[:-1].flatten(0, 1).t() @ rows).t().roll(-units, 0)
        return flat[..., units:], change, weights, rows[:, :units].sum(0)


def _parts(gates: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return views of r and z together, r, z, and the third part."""
    units = gates.shape[-1] // 3
    return gates[..., : 2 * units], gates[..., :units], gates[..., units : 2 * units], gates[..., 2 * units :]


def _factors(gates: Tensor, news: Tensor, states: Tensor, out: Tensor, scratch: Tensor) -> None:
    """Write what a change of h' is multiplied by: for U_n h + c_n, for the sums before r and z, and for that before n.

    Args:
        gates: r, z and U_n h + c_n, (t, b, 3 h).
        news: n, (t, b, h).
        states: h, (t, b, h).
        out: what is written, its first t rows, (≥ t, b, 4, h).
        scratch: overwritten, (≥ t, b, h).
    """
    _, r, z, kept = _parts(gates)
    slope = scratch[: len(news)]
    by_kept, by_r, by_z, by_new = out[: len(news)].unbind(2)
    torch.mul(news, news, out=slope).neg_().add_(1)
    torch.addcmul(slope, slope, z, value=-1, out=by_new)
    torch.mul(by_new, r, out=by_kept)
    torch.addcmul(r, r, r, value=-1, out=slope)
    torch.mul(by_new, kept, out=by_r).mul_(slope)
    torch.addcmul(z, z, z, value=-1, out=slope)
    torch.sub(states, news, out=by_z).mul_(slope)
