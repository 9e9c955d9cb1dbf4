"""One step of the training of a character model, and what is measured now and then."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from faultlight import rng
from faultlight.text.corpus import Corpus, random_chunks, stream_chunks
from faultlight.text.measure import bits, held_out_loss
from faultlight.text.model import CharModel
from faultlight.text.recipe import TextRecipe
from faultlight.text.shards import Shards, shards, shares_of
from faultlight.train.schedule import learning_rate
from faultlight.train.steps import StepState

_CARRIED = "carried "


@dataclass
class Lesson:
    """What the steps of a run have in common.

    Args:
        recipe: everything asked.
        corpus: the divided text.
        device: "cpu", "cuda" or "cuda:1".
        workers: who computes gradients, while `working` is entered.
    """

    recipe: TextRecipe
    corpus: Corpus
    device: str = "cpu"
    workers: Shards = field(default_factory=Shards)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Have the processes among which the batches are shared."""
        count = shares_of(self.recipe, self.device)
        with shards(count, self.corpus.alphabet, self.recipe.shape) as self.workers:
            yield

    def step(self, state: StepState) -> dict[str, Tensor]:
        """Learn from one batch; pieces, noise and dropout are pure functions of (seed, step)."""
        recipe, step, model = self.recipe, state.step, model_of(state).train()
        piece = self._piece(state)
        given = noisy(piece[:, :-1], recipe.noise, self.corpus.used, recipe.seed, step).to(self.device)
        loss, after = self.workers.gradient(model, given, piece[:, 1:].to(self.device), self._carried(state))
        self._descend(state)
        if recipe.pieces == "streams":
            state.extra |= {f"{_CARRIED}{place}": part for place, part in enumerate(after)}
        state.extra["batch_loss"] = loss
        return {"train_loss": loss}

    def record(self, state: StepState) -> dict[str, float]:
        """Return the loss of the last batch, that on the held-out text in nats and bits, and the learning rate."""
        held_out = held_out_loss(model_of(state), self.corpus.held_out)
        return {
            "batch_loss": float(state.extra["batch_loss"]),
            "held_out_loss": held_out,
            "held_out_bits": bits(held_out),
            "lr": state.optimisers["model"].param_groups[0]["lr"],
        }

    def _piece(self, state: StepState) -> Tensor:
        recipe, numbers = self.recipe, self.corpus.train
        if recipe.pieces == "random":
            return random_chunks(numbers, recipe.batch, recipe.chunk, recipe.seed, state.step)
        piece, begins = stream_chunks(numbers, recipe.batch, recipe.chunk, recipe.seed, state.step)
        if begins:
            state.extra = {name: part for name, part in state.extra.items() if not name.startswith(_CARRIED)}
        return piece

    def _carried(self, state: StepState) -> tuple[Tensor, ...] | None:
        names = sorted(name for name in state.extra if name.startswith(_CARRIED))
        return tuple(state.extra[name].to(self.device) for name in names) or None

    def _descend(self, state: StepState) -> None:
        recipe, optimiser = self.recipe, state.optimisers["model"]
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(recipe.schedule, recipe.optimiser.lr, state.step, recipe.steps)
        if recipe.clip:
            nn.utils.clip_grad_norm_(model_of(state).parameters(), recipe.clip)
        optimiser.step()
        optimiser.zero_grad()


def model_of(state: StepState) -> CharModel:
    """Return the network that learns."""
    model = state.modules["model"]
    assert isinstance(model, CharModel)
    return model


def said(state: StepState, means: Mapping[str, float]) -> str:
    """Return what the progress says: the mean loss since the last row, and the last loss on the held-out text."""
    last = state.history[-1] if state.history else None
    seen = f" · held out {last['held_out_loss']:.4f} nats ({last['held_out_bits']:.3f} bits)" if last else ""
    return f"training {means['train_loss']:.4f} nats{seen}"


def noisy(
    x: Int64[Tensor, "b t"], rate: float, used: Int64[Tensor, " u"], seed: int, step: int
) -> Int64[Tensor, "b t"]:
    """Return characters of which a share was replaced by others, drawn evenly from those in use.

    Args:
        x: characters as numbers.
        rate: the chance that a character is drawn anew, in [0, 1); what is drawn may be the same character.
        used: the numbers to draw from.
        seed: with `step`, decides every draw.
        step: of the run.
    """
    if not rate:
        return x
    rows, steps = torch.arange(len(x)), torch.full((len(x),), step)
    chance = rng.uniform(rng.key(seed, "noise"), rows, steps, (2, x.shape[1]))
    drawn = used[(chance[:, 1] * len(used)).long()]
    return torch.where(chance[:, 0] < rate, drawn, x)
