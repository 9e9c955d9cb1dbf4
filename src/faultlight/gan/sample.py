"""Drawing from a generator: points of the latent space are pure functions of (seed, image), as everywhere."""

from __future__ import annotations

import torch
from jaxtyping import Float32
from torch import Tensor

from faultlight import rng
from faultlight.gan.nets import Generator
from faultlight.train.inner import evaluating

_BATCH = 500

Latent = Float32[Tensor, "n latent"]


def latent_points(count: int, latent: int, seed: int) -> Latent:
    """Return standard normal points, the same ones first whatever the count."""
    ids = torch.arange(count)
    return rng.normal(rng.key(seed, "latent"), ids, torch.zeros_like(ids), (latent,))


@torch.no_grad()
def draw_at(generator: Generator, z: Latent) -> Float32[Tensor, "n c h w"]:
    """Return the images of latent points, on the CPU, in evaluation mode."""
    device = next(generator.parameters()).device
    with evaluating(generator):
        return torch.cat([generator(part.to(device)).cpu() for part in torch.split(z, _BATCH)])


def draw(generator: Generator, count: int, seed: int = 0) -> Float32[Tensor, "n c h w"]:
    """Return samples.

    Args:
        generator: as `load_generator` gives it.
        count: how many images.
        seed: of the latent points; the first images are the same whatever the count.
    """
    return draw_at(generator, latent_points(count, generator.design.latent, seed))


def between(start: Float32[Tensor, " latent"], end: Float32[Tensor, " latent"], steps: int) -> Latent:
    """Return points on the great circle from one point to another, both ends included; lengths change evenly.

    sin((1 − t)ω)/sin ω · u + sin(tω)/sin ω · v for the directions u and v at the angle ω, times (1 − t)‖a‖ + t‖b‖: on
    the straight line there would be points far shorter than any that the generator has met.

    Args:
        start: a.
        end: b.
        steps: how many points, ≥ 2.

    Source: White 2016, "Sampling generative networks", section 2.1. Departure: lengths are led from ‖a‖ to ‖b‖; where
    the two point the same way or opposite ways, the straight line is taken.
    """
    t = torch.linspace(0, 1, steps)[:, None]
    u, v = start / start.norm(), end / end.norm()
    angle = torch.arccos((u @ v).clamp(-1, 1))
    sine = torch.sin(angle)
    if sine < 1e-6:
        return (1 - t) * start + t * end
    direction = (torch.sin((1 - t) * angle) * u + torch.sin(t * angle) * v) / sine
    way: Tensor = direction * ((1 - t) * start.norm() + t * end.norm())
    return way
