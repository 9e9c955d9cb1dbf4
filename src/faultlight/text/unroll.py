"""Gates: what `nn.GRU` and `nn.LSTM` compute and do not hand out, computed again from their weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from faultlight.text.model import CharModel, State

# The order in which PyTorch stacks the weights of the gates.
_ORDER = {"gru": ("reset", "update", "candidate"), "lstm": ("input", "forget", "candidate", "output")}
# Those that run from 0 (shut) to 1 (open); the candidate runs from −1 to 1.
SIGMOID = ("reset", "update", "input", "forget", "output")


@dataclass(frozen=True)
class Gates:
    """What every layer did while a text was read.

    Args:
        gates: by name, each of shape (layers, t, hidden): reset, update and candidate of a GRU; input, forget,
            candidate and output of an LSTM.
        hidden: the output h of each layer, shape (layers, t, hidden), in [−1, 1].
        memory: the memory c of an LSTM, likewise, unbounded; of a GRU, whose memory is its output, h again.
    """

    gates: dict[str, Float[Tensor, "layers t hidden"]]
    hidden: Float[Tensor, "layers t hidden"]
    memory: Float[Tensor, "layers t hidden"]


def unroll(model: CharModel, x: Int64[Tensor, " t"], state: State | None = None) -> Gates:
    """Return every gate of every layer at every character of a text.

    GRU: r = σ(W_r x + U_r h + b), z = σ(W_z x + U_z h + b), n = tanh(W_n x + b + r·(U_n h + b′)),
    h ← (1 − z)·n + z·h. LSTM: i, f, o = σ(W x + U h + b), g = tanh(W x + U h + b), c ← f·c + i·g, h ← o·tanh(c).

    Source: Cho et al. 2014, "Learning Phrase Representations using RNN Encoder–Decoder", section 2.3, with the reset
    after the product as in cuDNN; Hochreiter & Schmidhuber 1997, with Gers's forget gate.

    Args:
        model: in evaluation mode.
        x: the text as numbers.
        state: what came before; zeros without one.
    """
    inputs = model.embedding(x)
    layers = []
    with torch.no_grad():
        for layer in range(model.shape.layers):
            found = _layer(model, layer, inputs, state)
            inputs = found["hidden"]
            layers.append(found)
    stacked = {name: torch.stack([each[name] for each in layers]) for name in layers[0]}
    hidden, memory = stacked.pop("hidden"), stacked.pop("memory")
    return Gates(stacked, hidden, memory)


def _layer(model: CharModel, layer: int, inputs: Tensor, state: State | None) -> dict[str, Tensor]:
    cell, weights = model.shape.cell, model.recurrent.state_dict()
    start = torch.zeros(model.shape.hidden, device=inputs.device)
    h, c = (start, start) if state is None else (state[0][layer, 0], state[-1][layer, 0])
    given = functional.linear(inputs, weights[f"weight_ih_l{layer}"], weights[f"bias_ih_l{layer}"])
    back, bias = weights[f"weight_hh_l{layer}"], weights[f"bias_hh_l{layer}"]
    rows = []
    for row in given:
        names = (*_ORDER[cell], "hidden", "memory")
        gates, h, c = (_gru if cell == "gru" else _lstm)(row, functional.linear(h, back, bias), h, c)
        rows.append(dict(zip(names, (*gates, h, c), strict=True)))
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def _gru(given: Tensor, back: Tensor, h: Tensor, _c: Tensor) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
    (r_in, z_in, n_in), (r_back, z_back, n_back) = given.chunk(3), back.chunk(3)
    r, z = torch.sigmoid(r_in + r_back), torch.sigmoid(z_in + z_back)
    n = torch.tanh(n_in + r * n_back)
    h = (1 - z) * n + z * h
    return (r, z, n), h, h


def _lstm(given: Tensor, back: Tensor, _h: Tensor, c: Tensor) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
    i, f, g, o = (given + back).chunk(4)
    i, f, g, o = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
    c = f * c + i * g
    return (i, f, g, o), o * torch.tanh(c), c


@dataclass(frozen=True)
class Saturation:
    """How much of the time each cell's gate is nearly shut, or nearly open.

    Args:
        left: by gate, share of the time below 0.1, shape (layers, hidden).
        right: by gate, share of the time above 0.9, likewise.
    """

    left: dict[str, Float[Tensor, "layers hidden"]]
    right: dict[str, Float[Tensor, "layers hidden"]]


def saturation(gates: Gates) -> Saturation:
    """Return the share of time that each gate spends below 0.1 and above 0.9.

    Source: Karpathy, Johnson & Li 2016, "Visualizing and Understanding Recurrent Networks", section 4.2.
    """
    found = {name: values for name, values in gates.gates.items() if name in SIGMOID}
    return Saturation(
        left={name: (values < 0.1).float().mean(1) for name, values in found.items()},
        right={name: (values > 0.9).float().mean(1) for name, values in found.items()},
    )
