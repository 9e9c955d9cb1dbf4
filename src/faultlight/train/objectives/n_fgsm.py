"""Adversarial training by one step from a point of a larger ball."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jaxtyping import Float32
from torch import Tensor, nn

from faultlight import rng
from faultlight.attacks.fgsm import FGSM
from faultlight.threat import parse_threat
from faultlight.train.inner import Pixels
from faultlight.train.objectives import Batch, Context
from faultlight.train.objectives._terms import attacked, check_linf, check_positive, cross_entropy, logits


@dataclass(frozen=True)
class NFgsm:
    """Cross-entropy after one full step from a noisy image, neither of them clipped to the ball: N-FGSM.

    x' = x + η + α·sign ∇ₓ CE(z(x + η), y), η uniform in [−kε, kε]: x' may lie up to kε + α away. The noise keeps the
    loss from bending between the image and the step, so training fails catastrophically far less often.

    Source: de Jorge et al. 2022, "Make some noise: reliable and efficient single-step adversarial training".
    Departures: the points are clipped to [0, 1], and the attack sees batch norm with its running statistics.

    Args:
        threat: L∞ alone, such as "linf:8/255".
        noise: k, the noise in units of ε.
        step_size: α in units of ε.
    """

    threat: str = "linf:8/255"
    noise: float = 2.0
    step_size: float = 1.0

    def __post_init__(self) -> None:
        check_linf("n-fgsm", self.threat)
        check_positive("noise", self.noise)
        check_positive("step_size", self.step_size, zero=False)

    def __call__(
        self, model: nn.Module, batch: Batch, context: Context
    ) -> tuple[Float32[Tensor, ""], dict[str, Tensor]]:
        """Return the loss, and the accuracy at the points found."""
        out = logits(model, self.points(model, batch, context))
        accuracy = (out.argmax(1) == batch.y).float().mean()
        return cross_entropy(out, batch.y, context), {"attacked_accuracy": accuracy}

    def points(self, model: nn.Module, batch: Batch, context: Context) -> Pixels:
        """Return x'."""
        threat = parse_threat(self.threat)
        uniform = rng.uniform(context.key("noise"), batch.ids, batch.ids * 0, tuple(batch.x.shape[1:]))
        noisy = (batch.x + self.noise * threat.epsilon * (2 * uniform - 1)).clamp(0, 1)
        # FGSM of the noisy image in a ball of radius α: the step itself is never clipped by ε.
        ball = threat.at(self.step_size * threat.epsilon)
        return attacked(model, replace(batch, x=noisy), context, ball, FGSM())
