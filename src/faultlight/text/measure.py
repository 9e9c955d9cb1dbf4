"""The loss on text that the model has not learnt from."""

from __future__ import annotations

import math

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.nn import functional

from faultlight.text.model import CharModel, State

_STREAMS, _CHUNK, _SHORTEST = 64, 256, 256


def held_out_loss(model: CharModel, numbers: Int64[Tensor, " n"]) -> float:
    """Return the mean of −log p(character | all before it in its stream), in nats a character.

    The text is read as at most 64 streams of equal length that lie one behind the other, 256 characters at least, the
    state handed on from chunk to chunk and zero at a stream's start. The first character of a stream, and what is left
    over of the text, is not predicted.

    Args:
        model: put into evaluation mode, and left in the mode it was in.
        numbers: at least two characters.
    """
    streams = max(min(_STREAMS, len(numbers) // _SHORTEST), 1)
    length = len(numbers) // streams
    rows = numbers[: streams * length].view(streams, length).to(next(model.parameters()).device)
    training = model.training
    model.eval()
    total = 0.0
    state: State | None = None
    with torch.no_grad():
        for start in range(0, length - 1, _CHUNK):
            piece = rows[:, start : start + _CHUNK + 1]
            logits, state = model(piece[:, :-1], state)
            total += float(
                functional.cross_entropy(logits.flatten(0, 1), piece[:, 1:].flatten(), reduction="sum").double()
            )
    model.train(training)
    return total / (streams * (length - 1))


def bits(nats: float) -> float:
    """Return a loss in bits."""
    return nats / math.log(2)
