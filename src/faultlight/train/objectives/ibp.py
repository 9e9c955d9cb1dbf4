"""Training on interval bounds of the worst case, for networks that can be certified."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from faultlight.certify.objective import interval_loss
from faultlight.threat import parse_threat
from faultlight.train.objectives import Batch, Context
from faultlight.train.objectives._terms import check_linf, check_share


@dataclass(frozen=True)
class IBP:
    """κ·CE(z(x), y) + (1 − κ)·CE(ẑ, y), with ẑ the worst logits that interval bounds leave open.

    After a share `warmup` of the run on clean images, ε rises linearly from 0 and κ falls from 1 over the share `ramp`,
    and stay. Bounds are computed in float32, with batch norm at its running statistics.

    Source: Gowal et al. 2018, "On the effectiveness of interval bound propagation for training verifiably robust
    models", section 3.

    Args:
        threat: L∞ alone, such as "linf:0.3"; a little more than is to be certified helps.
        kappa: κ at the end, in [0, 1].
        warmup: share of the run on clean images alone.
        ramp: share of the run over which ε and κ move.
    """

    threat: str = "linf:0.3"
    kappa: float = 0.5
    warmup: float = 0.1
    ramp: float = 0.5
    certified: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_linf("ibp", self.threat)
        for name in ("kappa", "warmup", "ramp"):
            check_share(name, getattr(self, name))

    def __call__(
        self, model: nn.Module, batch: Batch, context: Context
    ) -> tuple[Float32[Tensor, ""], dict[str, Tensor]]:
        """Return the loss, and ε of the step."""
        part = risen(context.progress, self.warmup, self.ramp)
        epsilon, kappa = part * parse_threat(self.threat).epsilon, 1 - part * (1 - self.kappa)
        with torch.autocast(batch.x.device.type, enabled=False):
            loss = interval_loss(model, batch.x, batch.y, epsilon, kappa)
        return loss, {"epsilon": torch.tensor(epsilon, device=loss.device)}


def risen(progress: float, warmup: float, ramp: float) -> float:
    """Return a line that is 0 up to `warmup` and 1 from `warmup + ramp` on."""
    return min(max(progress - warmup, 0.0) / ramp, 1.0) if ramp else float(progress > warmup)
