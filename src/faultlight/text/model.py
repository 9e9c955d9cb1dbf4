"""The character model: embedding, recurrent layers, one linear layer."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from faultlight import rng
from faultlight.text.alphabet import Alphabet
from faultlight.text.shape import Shape

# A GRU's state is h, (layers, b, hidden); an LSTM's is h and c, of that shape each.
State = tuple[Tensor, ...]


class CharModel(nn.Module):
    """Logits of the next character after each character of a text.

    Args:
        alphabet: what the numbers mean.
        shape: how it is built.
    """

    def __init__(self, alphabet: Alphabet, shape: Shape):
        super().__init__()
        self.alphabet, self.shape = alphabet, shape
        kind = nn.GRU if shape.cell == "gru" else nn.LSTM
        within = shape.dropout if shape.layers > 1 else 0.0
        self.embedding = nn.Embedding(len(alphabet), shape.embedding)
        self.recurrent = kind(shape.embedding, shape.hidden, shape.layers, batch_first=True, dropout=within)
        self.dropout = nn.Dropout(shape.dropout)
        self.decoder = nn.Linear(shape.hidden, len(alphabet))

    def forward(
        self, x: Int64[Tensor, "b t"], state: State | None = None, mask: Tensor | None = None
    ) -> tuple[Float[Tensor, "b t v"], State]:
        """Return logits and the state after the last character; without a state the start is all zeros.

        Args:
            x: characters as numbers.
            state: what came before.
            mask: what the last layer's output is multiplied by, (b, t, hidden), in the place of dropout.
        """
        return self.read(self.embedding(x), state, mask)

    def read(
        self, embedded: Float[Tensor, "b t e"], state: State | None = None, mask: Tensor | None = None
    ) -> tuple[Float[Tensor, "b t v"], State]:
        """Return logits and state for characters that are given as embedded vectors."""
        given = None if state is None else (state[0] if self.shape.cell == "gru" else state)
        hidden, after = self.recurrent(embedded, given)
        hidden = self.dropout(hidden) if mask is None else hidden * mask
        return self.decoder(hidden), after if isinstance(after, tuple) else (after,)

    @property
    def parameter_count(self) -> int:
        """How many numbers are learnt."""
        return sum(each.numel() for each in self.parameters())


def build_model(alphabet: Alphabet, shape: Shape, seed: int = 0) -> CharModel:
    """Return an untrained model whose weights are a function of the seed; the global generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(rng.key(seed, "weights") >> 1)
        return CharModel(alphabet, shape)
