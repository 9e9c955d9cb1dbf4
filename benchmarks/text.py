"""Training steps of the founding recipe side by side with two plain PyTorch loops of the same network.

    python -m benchmarks.text --rounds 7
    python -m benchmarks.text --batch 20 --chunk 50 --rounds 2

"a character at a time" is how the founding system went through a chunk; "a chunk at a time" hands all of it to
`nn.GRU`. All run turn and turn about, on the same pieces, the loops with as many threads as PyTorch takes by
default; the figures are medians, and the ratios are to the faster of the plain loops.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from statistics import median

import torch
from torch.nn import functional

from faultlight.runtime import keep_allocator
from faultlight.text.corpus import load_corpus, random_chunks
from faultlight.text.model import CharModel, build_model
from faultlight.text.recipe import load_text_recipe
from faultlight.text.shards import Shards, shards, shares_of

Step = Callable[[int], float]


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--rounds", type=int, default=7)
    asked.add_argument("--batch", type=int, default=100)
    asked.add_argument("--chunk", type=int, default=200)
    given = asked.parse_args()
    keep_allocator()
    threads = torch.get_num_threads()
    recipe = load_text_recipe("char-rnn", {"batch": given.batch, "chunk": given.chunk})
    corpus = load_corpus(recipe.data, recipe.alphabet)
    model = build_model(corpus.alphabet, recipe.shape)

    def pieces(step: int) -> torch.Tensor:
        return random_chunks(corpus.train, given.batch, given.chunk, 0, step)

    seconds: dict[str, list[float]] = {}
    losses: dict[str, float] = {}
    with shards(shares_of(recipe, "cpu"), corpus.alphabet, recipe.shape) as workers:
        steps: dict[str, Step] = {
            "a character at a time": by_character(copy.deepcopy(model), pieces),
            "a chunk at a time": by_chunk(copy.deepcopy(model), pieces),
            "Faultlight": ours(copy.deepcopy(model), pieces, workers),
        }
        for turn in range(given.rounds + 1):
            for name, step in steps.items():
                torch.set_num_threads(1 if name == "Faultlight" and workers.count > 1 else threads)
                began = time.perf_counter()
                losses[name] = step(turn)
                # The first round is left out: memory is being asked for, and kernels are being chosen.
                seconds.setdefault(name, []).extend([time.perf_counter() - began] if turn else [])
    plain = min(median(spent) for name, spent in seconds.items() if name != "Faultlight")
    for name, spent in seconds.items():
        rate = given.batch * given.chunk / median(spent)
        print(f"{name:<24}{rate:>10,.0f} characters/s  {plain / median(spent):>5.2f}×  loss {losses[name]:.4f}")


def by_character(net: CharModel, pieces: Callable[[int], torch.Tensor]) -> Step:
    optimiser = torch.optim.Adam(net.parameters(), 0.01)

    def step(turn: int) -> float:
        piece, state, total = pieces(turn), None, torch.zeros(())
        for place in range(piece.shape[1] - 1):
            logits, state = net(piece[:, place : place + 1], state)
            total = total + functional.cross_entropy(logits[:, 0], piece[:, place + 1])
        return descend(optimiser, total / (piece.shape[1] - 1))

    return step


def by_chunk(net: CharModel, pieces: Callable[[int], torch.Tensor]) -> Step:
    optimiser = torch.optim.Adam(net.parameters(), 0.01)

    def step(turn: int) -> float:
        piece = pieces(turn)
        logits, _ = net(piece[:, :-1])
        return descend(optimiser, functional.cross_entropy(logits.flatten(0, 1), piece[:, 1:].flatten()))

    return step


def descend(optimiser: torch.optim.Optimizer, loss: torch.Tensor) -> float:
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.item()


def ours(net: CharModel, pieces: Callable[[int], torch.Tensor], workers: Shards) -> Step:
    optimiser = torch.optim.Adam(net.parameters(), 0.01, fused=True)

    def step(turn: int) -> float:
        piece = pieces(turn)
        loss, _ = workers.gradient(net, piece[:, :-1], piece[:, 1:], None)
        optimiser.step()
        return loss.item()

    return step


if __name__ == "__main__":
    main()
