"""TRADES at weights that are under attack themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float32
from torch import Tensor, nn
from torch.func import functional_call

from faultlight.train.inner import Pixels
from faultlight.train.objectives import Batch, Context
from faultlight.train.objectives._terms import check_positive, check_share
from faultlight.train.objectives.trades import TRADES


@dataclass(frozen=True)
class AWP:
    """TRADES with adversarial weight perturbation: the loss at the worst weights nearby, which flattens its landscape.

    min_w L(w + v), v_l = γ·‖w_l‖·g_l/‖g_l‖ for each weight tensor l of two or more dimensions, g = ∇_w L(w), both at
    the same attacked images.

    Source: Wu, Xia & Wang 2020, "Adversarial weight perturbation helps robust generalization", with one step for v.
    Departure: g is of the batch norm statistics of the same images, which it leaves as they were.

    Args:
        gamma: γ, the length of v in units of the weights.
        warmup: share of the run without weight perturbation, in [0, 1].
        beta: β of TRADES.
        threat: the ball, such as "linf:8/255".
        steps: of the attack.
        step_size: in units of ε.
    """

    gamma: float = 0.005
    warmup: float = 0.05
    beta: float = 6.0
    threat: str = "linf:8/255"
    steps: int = 10
    step_size: float = 0.25

    def __post_init__(self) -> None:
        self._trades()
        check_positive("gamma", self.gamma)
        check_share("warmup", self.warmup)

    def __call__(
        self, model: nn.Module, batch: Batch, context: Context
    ) -> tuple[Float32[Tensor, ""], dict[str, Tensor]]:
        """Return the loss at the perturbed weights, and its two terms."""
        trades = self._trades()
        points = trades.points(model, batch, context)
        if context.progress <= self.warmup:
            return trades.loss(model, batch, points, context)
        weights = self._worst(model, batch, points, context)
        return trades.loss(_Placed(model, weights), batch, points, context)

    def _worst(self, model: nn.Module, batch: Batch, points: Pixels, context: Context) -> dict[str, Tensor]:
        """Return w + v; its derivative by w is 1."""
        chosen = {name: value for name, value in model.named_parameters() if value.ndim > 1 and value.requires_grad}
        buffers = {name: value.clone() for name, value in model.named_buffers()}
        loss, _ = self._trades().loss(_Placed(model, buffers), batch, points, context)
        gradients = context.share.total(torch.autograd.grad(context.share.weigh(loss), list(chosen.values())))
        return {
            name: weight + perturbation(weight.detach(), gradient, self.gamma)
            for (name, weight), gradient in zip(chosen.items(), gradients, strict=True)
        }

    def _trades(self) -> TRADES:
        return TRADES(self.beta, self.threat, self.steps, self.step_size)


class _Placed(nn.Module):
    """A network with other tensors in place of some of its own."""

    def __init__(self, model: nn.Module, tensors: Mapping[str, Tensor]):
        super().__init__()
        # In a tuple, lest the network become a part of this module, which would change its mode.
        self.held = (model, dict(tensors))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        model, tensors = self.held
        out: Tensor = functional_call(model, tensors, (x,))
        return out


def perturbation(weight: Tensor, gradient: Tensor, gamma: float) -> Tensor:
    """Return γ·‖w‖·g/‖g‖, or 0 where g is 0."""
    length: Tensor = gamma * weight.norm() / gradient.norm().clamp(min=1e-12)
    return length * gradient
