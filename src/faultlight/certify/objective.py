"""Training losses that bound the worst case: functions of a module and a batch, differentiable in the weights.

Both read the module anew at each call, so its weights are those of the moment. Batch norm is used with its running
statistics and dropout is off, whatever the module's mode, for a bound on a batch that is normalised by itself would
mix its images.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from faultlight.certify._ball import ball
from faultlight.certify._lines import lines
from faultlight.certify._margins import Margins, every_other_class, margins_from
from faultlight.certify._network import Network
from faultlight.certify._operations import Linear, Rectifier
from faultlight.certify._ranges import interval_ranges
from faultlight.certify._reading import read_network
from faultlight.threat import Threat

Pixels = Float[Tensor, "n c h w"]
Labels = Int64[Tensor, " n"]


def interval_loss(module: nn.Module, x: Pixels, y: Labels, epsilon: float, kappa: float) -> Float[Tensor, ""]:
    """Return κ·CE(z(x), y) + (1 − κ)·CE(ẑ, y), with ẑ the worst logits that interval bounds leave open.

    ẑ_y = 0 and ẑ_j = −m_j, with m_j the interval bound of z_y − z_j through the last layer.

    Source: Gowal et al. 2018, "On the effectiveness of interval bound propagation for training verifiably robust
    models", §3, eq. 12; κ and ε are for the training loop to schedule.

    Args:
        module: pixels in [0, 1] to logits.
        x: the batch.
        y: labels.
        epsilon: ε of the L∞ ball.
        kappa: κ in [0, 1], the weight of the clean images.
    """
    return _mixed(module, x, y, epsilon, kappa, beta=0.0)


def crown_interval_loss(
    module: nn.Module, x: Pixels, y: Labels, epsilon: float, kappa: float, beta: float = 1.0
) -> Float[Tensor, ""]:
    """Return the same with the margins β·(CROWN on interval ranges) + (1 − β)·(interval bounds).

    Source: Zhang et al. 2020, "Towards stable and efficient training of verifiably robust neural networks", eq. 14
    (CROWN-IBP); β falls from 1 to 0 or stays at 1, as the training loop schedules it.

    Args:
        module: pixels in [0, 1] to logits.
        x: the batch.
        y: labels.
        epsilon: ε of the L∞ ball.
        kappa: κ in [0, 1], the weight of the clean images.
        beta: β in [0, 1], the weight of CROWN's margins.
    """
    return _mixed(module, x, y, epsilon, kappa, beta)


def _mixed(module: nn.Module, x: Tensor, y: Tensor, epsilon: float, kappa: float, beta: float) -> Tensor:
    network = read_network(module, (int(x.shape[1]), int(x.shape[2]), int(x.shape[3])), check=False)
    if epsilon > 0 and kappa == 0:  # the clean images have no part in it
        return _worst(_margins(network, x, y, epsilon, beta), y).to(x)
    clean = functional.cross_entropy(network.evaluate(x), y)
    if epsilon <= 0:
        return clean
    return kappa * clean + (1 - kappa) * _worst(_margins(network, x, y, epsilon, beta), y).to(clean)


def _margins(network: Network, x: Tensor, y: Tensor, epsilon: float, beta: float) -> Margins:
    around = ball(x, Threat("linf", epsilon))
    ranges = interval_ranges(network, around, rounding=False)
    asked = every_other_class(y, network.classes)
    if beta == 0:
        last = network.nodes[-1]
        before = last.inputs[0]
        if isinstance(last.operation, Linear) and isinstance(network.nodes[before].operation, Rectifier):
            return _through_last(last.operation, ranges.lower[before], ranges.upper[before], y)
        return margins_from(network, around, ranges, y, asked, {})
    by_crown = margins_from(network, around, ranges, y, asked, lines(network, ranges))
    return by_crown if beta == 1 else beta * by_crown + (1 - beta) * _margins(network, x, y, epsilon, beta=0.0)


def _through_last(last: Linear, lower: Tensor, upper: Tensor, y: Tensor) -> Margins:
    """Return the interval bounds of z_y − z_j through a linear layer: at the middle, less |W_y − W_j| times the radii.

    They are those of `margins_from`, by one product for all pairs of classes.
    """
    differences = (last.matrix[:, None] - last.matrix).abs()
    middle, radius = last.apply((lower + upper) / 2), (upper - lower) / 2
    spread = (radius @ differences.flatten(0, 1).T).view(len(y), *differences.shape[:2])
    rows = torch.arange(len(y), device=y.device)
    margins: Margins = (middle.gather(1, y[:, None]) - middle - spread[rows, y]).double()
    return margins


def _worst(margins: Margins, y: Tensor) -> Tensor:
    # The label's own margin is −∞ as an unasked one; its worst logit is 0.
    return functional.cross_entropy((-margins).scatter(1, y[:, None], 0.0), y)
