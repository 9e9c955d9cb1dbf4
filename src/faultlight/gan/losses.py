"""What discriminator and generator minimise: functions of the discriminator's outputs, each a mean over the batch.

D(x) = σ(s(x)) where the discriminator is a classifier of real against drawn; for the last two losses s itself is the
score. All are written with softplus(s) = −log(1 − σ(s)), which does not overflow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from jaxtyping import Float, Float32
from torch import Tensor
from torch.nn import functional

LossName = Literal["minimax", "non-saturating", "wasserstein-gp", "hinge"]
LOSSES: tuple[LossName, ...] = get_args(LossName)
# Those whose discriminator says a probability.
PROBABILISTIC: tuple[LossName, ...] = ("minimax", "non-saturating")

Scores = Float[Tensor, " n"]
OtherScores = Float[Tensor, " m"]
Pixels = Float32[Tensor, "n c h w"]


def discriminator_loss(name: LossName, real: Scores, fake: OtherScores, smoothing: float = 0.0) -> Float[Tensor, ""]:
    """Return what the discriminator minimises.

    minimax and non-saturating: −log D(x) − log(1 − D(G(z))); wasserstein-gp: s(G(z)) − s(x), the penalty apart;
    hinge: max(0, 1 − s(x)) + max(0, 1 + s(G(z))). With smoothing α, −log D(x) becomes −(1 − α)·log D(x) − α·log(1 −
    D(x)): real images are to be called real with 1 − α, drawn ones with 0 as before.

    Args:
        name: of the loss.
        real: scores s of real images.
        fake: scores s of drawn images; as many, or another number.
        smoothing: α in [0, 1), for the first two losses.

    Source: Goodfellow et al. 2014, "Generative adversarial nets", algorithm 1; Arjovsky, Chintala & Bottou 2017,
    "Wasserstein GAN", algorithm 1; Lim & Ye 2017, "Geometric GAN", section 3; Salimans et al. 2016, "Improved
    techniques for training GANs", section 3.4.
    """
    if name == "wasserstein-gp":
        return fake.mean() - real.mean()
    if name == "hinge":
        return functional.relu(1 - real).mean() + functional.relu(1 + fake).mean()
    said_real = (1 - smoothing) * functional.softplus(-real) + smoothing * functional.softplus(real)
    return said_real.mean() + functional.softplus(fake).mean()


def generator_loss(name: LossName, fake: Scores) -> Float[Tensor, ""]:
    """Return what the generator minimises.

    minimax: log(1 − D(G(z))), whose gradient −σ(s) vanishes where the discriminator is sure; non-saturating:
    −log D(G(z)), whose gradient there is −1; wasserstein-gp and hinge: −s(G(z)).

    Source: as `discriminator_loss`.
    """
    if name == "minimax":
        return -functional.softplus(fake).mean()
    if name == "non-saturating":
        return functional.softplus(-fake).mean()
    return -fake.mean()


def gradient_penalty(
    discriminator: Callable[[Tensor], Tensor], real: Pixels, fake: Pixels, share: Float32[Tensor, " n"]
) -> Float[Tensor, ""]:
    """Return the mean of (‖∇s(x̂)‖₂ − 1)² at x̂ = u·x + (1 − u)·G(z), whose gradient reaches the discriminator alone.

    Args:
        discriminator: pixels to scores.
        real: x.
        fake: G(z), as many.
        share: u, one number a pair, in [0, 1].

    Source: Gulrajani et al. 2017, "Improved training of Wasserstein GANs", algorithm 1. Departure: pixels are in [0, 1]
    here, where the discriminator's own scale is [−1, 1]; norms are taken with respect to that scale, as in the paper.
    """
    part = share.view(-1, 1, 1, 1)
    between = (part * real.detach() + (1 - part) * fake.detach()).requires_grad_(True)
    (gradient,) = torch.autograd.grad(discriminator(between).sum(), between, create_graph=True)
    # With p in [0, 1] and q = 2p − 1, ∂s/∂q = ½ ∂s/∂p.
    length: Tensor = gradient.flatten(1).norm(dim=1) / 2
    return ((length - 1) ** 2).mean()
