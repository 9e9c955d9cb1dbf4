"""One step of the game: the discriminator learns to tell, the generator learns to pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from faultlight.gan.losses import PROBABILISTIC, discriminator_loss, generator_loss, gradient_penalty
from faultlight.gan.nets import code_of
from faultlight.gan.reals import Reals
from faultlight.gan.recipe import GanRecipe
from faultlight.train.average import follow
from faultlight.train.schedule import learning_rate
from faultlight.train.steps import StepState


def play(recipe: GanRecipe, reals: Reals, state: StepState) -> dict[str, Tensor]:
    """Move discriminator and generator once, and return what was seen on the way.

    Fresh latent points are drawn for each of the two, as in the paper. With `recipe.leak` the images that the
    discriminator is taught with are not detached, and the gradient which its step leaves in the generator is still
    there when the generator moves: ∇L_G + ∇L_D in place of ∇L_G.

    Source: Goodfellow et al. 2014, "Generative adversarial nets", algorithm 1.
    """
    seen: dict[str, Tensor] = {}
    _pace(recipe, state)
    for turn in range(recipe.critic_steps):
        seen = _teach_discriminator(recipe, _real_batch(recipe, reals, state.step, turn), state)
    seen |= _teach_generator(recipe, state)
    if "average" in state.modules:
        # An average that began with random weights would carry them for long.
        decay = min(recipe.ema, (1 + state.step) / (10 + state.step))
        follow(state.modules["average"], state.modules["generator"], decay)
    return seen


def discriminator_gradients(
    recipe: GanRecipe, generator: nn.Module, discriminator: nn.Module, real: Tensor, z: Tensor
) -> dict[str, Tensor]:
    """Fill the gradients of the discriminator's step, and return its figures; without a leak the generator's stay.

    Args:
        recipe: which loss, and whether the gradient leaks.
        generator: draws.
        discriminator: gets gradients.
        real: pixels (n, c, h, w).
        z: latent points (n, latent).
    """
    with torch.set_grad_enabled(recipe.leak):
        fake = generator(z)
    on_real = discriminator(real)
    on_fake, misread = _read(recipe, discriminator, fake, z)
    loss = discriminator_loss(recipe.loss, on_real, on_fake, recipe.smoothing)
    seen = {"discriminator_loss": loss, "d_real": _said(recipe, on_real), "d_fake": _said(recipe, on_fake)}
    if recipe.loss == "wasserstein-gp":
        share = torch.rand(len(real), device=real.device)
        seen["penalty"] = gradient_penalty(discriminator, real, fake, share)
        loss = loss + recipe.penalty * seen["penalty"]
    if misread is not None:
        seen["misread"] = misread
        loss = loss + recipe.code_weight * misread
    loss.backward()  # type: ignore[no-untyped-call]
    return seen


def generator_gradients(
    recipe: GanRecipe, generator: nn.Module, discriminator: nn.Module, z: Tensor
) -> dict[str, Tensor]:
    """Add the gradients of the generator's step to what its weights hold; the discriminator gets none."""
    with _frozen(discriminator):
        scores, misread = _read(recipe, discriminator, generator(z), z)
        loss = generator_loss(recipe.loss, scores)
        (loss if misread is None else loss + recipe.code_weight * misread).backward()  # type: ignore[no-untyped-call]
    return {"generator_loss": loss}


def _pace(recipe: GanRecipe, state: StepState) -> None:
    """Set the learning rate of both networks for this step."""
    rate = learning_rate(recipe.schedule, recipe.optimiser.lr, state.step, recipe.steps)
    for optimiser in state.optimisers.values():
        for group in optimiser.param_groups:
            group["lr"] = rate


def _read(recipe: GanRecipe, discriminator: nn.Module, fake: Tensor, z: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the scores of drawn images and, where they have codes, the cross-entropy of what the reader says.

    Its negative is a bound from below on the mutual information of code and image, up to a constant.

    Source: Chen et al. 2016, "InfoGAN", equation 5.
    """
    if not recipe.codes:
        return discriminator(fake), None
    scores, logits = discriminator.read(fake)  # type: ignore[operator]
    return scores, functional.cross_entropy(logits, code_of(z, recipe.codes))


def _teach_discriminator(recipe: GanRecipe, real: Tensor, state: StepState) -> dict[str, Tensor]:
    generator, discriminator = state.modules["generator"], state.modules["discriminator"]
    seen = discriminator_gradients(recipe, generator, discriminator, real, _latent(recipe, real.device))
    seen["discriminator_gradient"] = gradient_norm(discriminator)
    state.optimisers["discriminator"].step()
    state.optimisers["discriminator"].zero_grad()
    return seen


def _teach_generator(recipe: GanRecipe, state: StepState) -> dict[str, Tensor]:
    generator, discriminator = state.modules["generator"], state.modules["discriminator"]
    device = next(generator.parameters()).device
    seen = generator_gradients(recipe, generator, discriminator, _latent(recipe, device))
    seen["generator_gradient"] = gradient_norm(generator)
    state.optimisers["generator"].step()
    state.optimisers["generator"].zero_grad()
    return seen


def gradient_norm(module: nn.Module) -> Float[Tensor, ""]:
    """Return the L2 norm of the gradients of all weights together."""
    return nn.utils.get_total_norm([each.grad for each in module.parameters() if each.grad is not None])


def _real_batch(recipe: GanRecipe, reals: Reals, step: int, turn: int) -> Tensor:
    x = reals.batch(recipe.batch, recipe.seed, step * recipe.critic_steps + turn)
    return x.contiguous(memory_format=torch.channels_last)


def _latent(recipe: GanRecipe, device: torch.device) -> Tensor:
    return torch.randn(recipe.batch, recipe.latent, device=device)


def _said(recipe: GanRecipe, scores: Tensor) -> Tensor:
    """Return the mean probability that was given to "real", or the mean score where there is none."""
    return (torch.sigmoid(scores) if recipe.loss in PROBABILISTIC else scores).detach().mean()


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Keep gradients out of the weights while they still flow through them."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)
