"""Terms that several objectives are made of."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn
from torch.nn import functional

from faultlight import rng
from faultlight.attacks._contract import Attack
from faultlight.attacks.pgd import PGD
from faultlight.errors import InputError
from faultlight.models.rewriting import by_pixels_alone
from faultlight.threat import Threat, parse_threat
from faultlight.train.inner import Pixels, Values, evaluating, pose, run_attack
from faultlight.train.objectives import Batch, Context

Logits = Float32[Tensor, "n classes"]

# Where a divergence from the clean output is to grow, the image itself is a saddle: its gradient is 0 there.
_NUDGE = 1e-3


def logits(model: nn.Module, x: Pixels) -> Logits:
    """Return the logits in float32; a loss summed in bfloat16 would lose most of its digits."""
    out: Tensor = model(x)
    return out.float()


def cross_entropy(out: Logits, y: Int64[Tensor, " n"], context: Context) -> Float32[Tensor, ""]:
    """Return the mean cross-entropy −Σ_k q_k log softmax(z)_k with q = (1 − s)·onehot(y) + s/K, s the label smoothing.

    Source: Szegedy et al. 2016, "Rethinking the Inception architecture", section 7, for the smoothing.
    """
    return functional.cross_entropy(out, y, label_smoothing=context.recipe.label_smoothing)


def divergence(
    target: Float[Tensor, "n classes"], out: Float[Tensor, "n classes"], temperature: float = 1.0
) -> Float[Tensor, " n"]:
    """Return KL(softmax(a/T) ‖ softmax(b/T)) = Σ_k p_k log(p_k / q_k), a row each; a is the target, b the other.

    Its mean is what PyTorch calls "batchmean"; the mean over all entries is smaller by the number of classes.
    """
    first, second = (functional.log_softmax(each / temperature, 1) for each in (target, out))
    return functional.kl_div(second, first, reduction="none", log_target=True).sum(1)


def attacked(
    model: nn.Module,
    batch: Batch,
    context: Context,
    threat: Threat,
    attack: Attack,
    values: Values | None = None,
    begin: Pixels | None = None,
) -> Pixels:
    """Return the batch after an attack on the network in evaluation mode; see `faultlight.train.inner`."""
    key = context.key("inner attack")
    with evaluating(model), by_pixels_alone(model):
        return run_attack(attack, pose(model, batch.x, batch.y, batch.ids, threat, key, values), begin)


def diverged(
    model: nn.Module, batch: Batch, context: Context, threat: Threat, attack: Attack, target: Logits
) -> Pixels:
    """Return the batch after an attack that increases KL(softmax(target) ‖ softmax(z(x'))), begun at x + 0.001·N(0, I).

    Source: Zhang et al. 2019, "Theoretically principled trade-off between robustness and accuracy", algorithm 1.
    """
    step = torch.zeros_like(batch.ids)
    noise = rng.normal(context.key("nudge"), batch.ids, step, tuple(batch.x.shape[1:]))
    fixed = target.detach()
    return attacked(model, batch, context, threat, attack, lambda out: divergence(fixed, out), batch.x + _NUDGE * noise)


def clean_logits(model: nn.Module, x: Pixels) -> Logits:
    """Return the logits of the network in evaluation mode, without a gradient."""
    with evaluating(model), torch.no_grad():
        return logits(model, x)


def teach(context: Context, x: Pixels) -> Logits:
    """Return the teacher's logits."""
    assert context.teacher is not None, "the run loads the teacher that an objective names"
    with torch.no_grad():
        return context.teacher(x).float()


def grown(threat: Threat, context: Context, ramp: float) -> Threat:
    """Return the threat with a radius that rises linearly from 0 over the share `ramp` of the run."""
    return threat if context.progress >= ramp else replace(threat, epsilon=threat.epsilon * context.progress / ramp)


def pgd(threat: str, steps: int, step_size: float, random_start: bool = True) -> tuple[Threat, PGD]:
    """Return threat and attack of an objective's settings.

    Raises:
        InputError: a setting is out of its range.
    """
    return parse_threat(threat), PGD(steps=steps, step_size=step_size, random_start=random_start)


def check_linf(name: str, threat: str) -> None:
    """Raise InputError unless a threat is an L∞ ball."""
    if parse_threat(threat).norm != "linf":
        raise InputError(f"the objective {name!r} is made for L∞, not for threat = {threat!r}; write it linf:8/255.")


def check_share(name: str, value: float) -> None:
    """Raise InputError unless a setting lies in [0, 1]."""
    if not 0 <= value <= 1:
        raise InputError(f"objective.{name} must lie in [0, 1], not {value:g}.")


def check_positive(name: str, value: float, zero: bool = True) -> None:
    """Raise InputError unless a setting is above 0, or 0 where that is allowed."""
    if not 0 <= value < float("inf") or (value == 0 and not zero):
        raise InputError(f"objective.{name} must be {'at least' if zero else 'above'} 0, not {value:g}.")
