"""Adversarial training whose attack costs nothing: one backward pass serves both weights and pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from faultlight import geometry
from faultlight.errors import InputError
from faultlight.threat import parse_threat
from faultlight.train.objectives import Batch, Context
from faultlight.train.objectives._terms import check_linf, cross_entropy, logits

_DELTA = "free delta"


@dataclass(frozen=True)
class Free:
    """Cross-entropy at x + δ, each batch m steps in a row, δ moved by each backward pass: "free" adversarial training.

    δ ← Π_ε(δ + ε·sign ∇ₓ CE(z(x + δ), y)), the gradient being that of the same backward pass that moves the weights; δ
    is kept from batch to batch, a row a place. An epoch goes m times through the images, so take m times fewer epochs.

    Source: Shafahi et al. 2019, "Adversarial training for free!", algorithm 1. Departure: x + δ is clipped to [0, 1].

    Args:
        threat: L∞ alone, such as "linf:8/255".
        replays: m, steps in a row with the same batch.
    """

    threat: str = "linf:8/255"
    replays: int = 8

    def __post_init__(self) -> None:
        check_linf("free", self.threat)
        if self.replays < 1:
            raise InputError(f"objective.replays must be at least 1, not {self.replays}.")

    def __call__(
        self, model: nn.Module, batch: Batch, context: Context
    ) -> tuple[Float32[Tensor, ""], dict[str, Tensor]]:
        """Return the loss, and the accuracy at x + δ; its backward pass moves δ in the context's memory."""
        threat = parse_threat(self.threat)
        delta = context.memory.get(_DELTA, torch.zeros_like(batch.x))
        points = geometry.project(batch.x + delta, batch.x, threat).requires_grad_()

        def move(gradient: Tensor) -> None:
            further = delta + threat.epsilon * gradient.sign()
            context.memory[_DELTA] = further.clamp(-threat.epsilon, threat.epsilon)

        points.register_hook(move)  # type: ignore[no-untyped-call]
        out = logits(model, points)
        accuracy = (out.argmax(1) == batch.y).float().mean()
        return cross_entropy(out, batch.y, context), {"attacked_accuracy": accuracy.detach()}
