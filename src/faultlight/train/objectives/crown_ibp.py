"""Training on CROWN's bounds over interval ranges, which are tighter while training is young."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from faultlight.certify.objective import crown_interval_loss
from faultlight.threat import parse_threat
from faultlight.train.objectives import Batch, Context
from faultlight.train.objectives._terms import check_linf, check_share
from faultlight.train.objectives.ibp import risen


@dataclass(frozen=True)
class CrownIBP:
    """κ·CE(z(x), y) + (1 − κ)·CE(ẑ, y), ẑ from margins β·CROWN-IBP + (1 − β)·IBP.

    After a share `warmup` of the run on clean images, over the share `ramp`, ε rises linearly from 0, κ falls from 1
    and β from 1, and they stay. Bounds are computed in float32, with batch norm at its running statistics.

    Source: Zhang et al. 2020, "Towards stable and efficient training of verifiably robust neural networks".

    Args:
        threat: L∞ alone, such as "linf:0.3"; a little more than is to be certified helps.
        kappa: κ at the end, in [0, 1].
        beta: β at the end, in [0, 1].
        warmup: share of the run on clean images alone.
        ramp: share of the run over which ε, κ and β move.
    """

    threat: str = "linf:0.3"
    kappa: float = 0.5
    beta: float = 0.0
    warmup: float = 0.1
    ramp: float = 0.5
    certified: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_linf("crown-ibp", self.threat)
        for name in ("kappa", "beta", "warmup", "ramp"):
            check_share(name, getattr(self, name))

    def __call__(
        self, model: nn.Module, batch: Batch, context: Context
    ) -> tuple[Float32[Tensor, ""], dict[str, Tensor]]:
        """Return the loss, and ε of the step."""
        part = risen(context.progress, self.warmup, self.ramp)
        epsilon = part * parse_threat(self.threat).epsilon
        kappa, beta = (1 - part * (1 - end) for end in (self.kappa, self.beta))
        with torch.autocast(batch.x.device.type, enabled=False):
            loss = crown_interval_loss(model, batch.x, batch.y, epsilon, kappa, beta)
        return loss, {"epsilon": torch.tensor(epsilon, device=loss.device)}
