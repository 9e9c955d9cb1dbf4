"""What can be learned about a subject from a handful of forward passes, before anything costly is spent on it.

Each function returns the number it measured, so that checks can state it as evidence.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float32, Int64
from torch import Tensor
from torch.overrides import TorchFunctionMode

from faultlight.errors import InputError
from faultlight.models.randomness import seeded
from faultlight.models.subject import Note, Subject

NOTE_RANDOM = "random-output"
NOTE_BATCH = "batch-dependent"
NOTE_PROBABILITIES = "probabilities"
NOTE_NOT_FINITE = "not-finite"
NOTE_INNER = "inner-optimisation"

# How many images are looked at: enough that chance cannot pass for a property, few enough to cost nothing.
SAMPLE = 32
_ALONE = 4
# Two equal calls on a GPU may add in another order; nothing random is that small.
_RANDOM_TOLERANCE = 1e-5
# Float32 sums in another order differ by about 1e-6 of the largest logit; models that round inside reach 1e-3.
_BATCH_TOLERANCE = 5e-3
_SUM_TOLERANCE = 1e-4


@runtime_checkable
class LabelledImages(Protocol):
    """What is asked of a data set here."""

    @property
    def x(self) -> Float32[Tensor, "n c h w"]:
        """Pixels in [0, 1]."""

    @property
    def y(self) -> Int64[Tensor, " n"]:
        """Labels."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""


def check_subject(subject: Subject, images: LabelledImages) -> tuple[Note, ...]:
    """Check that a subject and a data set belong together, and note what is odd about the subject.

    Args:
        subject: the model.
        images: the data; its first 32 images are used.

    Returns:
        The subject's own notes, then one each for a forward pass that computes gradients ("inner-optimisation"), for
        logits that are not finite ("not-finite"), that change from call to call ("random-output"), that depend on the
        other images of the batch ("batch-dependent"), or that are probabilities ("probabilities").

    Raises:
        InputError: the numbers of classes differ, or the model rejects the images; known after a pass over two images.
    """
    _check_classes(subject, images)
    x = images.x[:SAMPLE].to(subject.device)
    # Within `no_grad`, so that nobody but the model itself turns gradients on.
    with torch.no_grad(), _Watch() as watch, seeded(0, subject.module, subject.device):
        subject(x[:2])
    inner = f"the forward pass calls {', '.join(sorted(watch.seen))}: it optimises while it infers"
    noted = (Note(NOTE_INNER, inner),) if watch.seen else ()
    return subject.notes + noted + inspect_output(subject, x)


class _Watch(TorchFunctionMode):
    """Sees whether a forward pass computes gradients for itself."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a function, and note those that only an optimisation needs."""
        name = getattr(func, "__name__", "")
        if name in ("grad", "backward"):
            self.seen.add(f"autograd ({name})")
        elif name == "_set_grad_enabled" and args == (True,):
            self.seen.add("torch.enable_grad")
        return func(*args, **(kwargs or {}))


def inspect_output(subject: Subject, x: Float32[Tensor, "n c h w"]) -> tuple[Note, ...]:
    """Return the notes on a subject's logits for some images."""
    # Two passes serve every question: on a large net each costs as much as an attack's step.
    out = _lucky(subject, x, 0)
    drift = _apart(out, _lucky(subject, x, 1))
    random = drift > _RANDOM_TOLERANCE
    share = _probability_share(out)
    apart = 0.0 if random else _batch_dependence(subject, x, out)  # random logits always differ, alone or not
    bad = _nonfinite(out)
    found = {
        NOTE_NOT_FINITE: bad
        and f"the logits of {bad} of {len(x)} images hold NaN or infinity; such images are invalid",
        NOTE_RANDOM: random and f"two equal calls gave logits that differ by {drift:.2%} of the largest logit",
        NOTE_BATCH: apart > _BATCH_TOLERANCE and _batch_evidence(apart),
        NOTE_PROBABILITIES: share == 1
        and f"all {len(x)} outputs lie in [0, 1] and sum to 1: probabilities, not logits",
    }
    return tuple(Note(check, evidence) for check, evidence in found.items() if evidence)


@torch.no_grad()
def logits(subject: Subject, x: Float32[Tensor, "n c h w"]) -> Float32[Tensor, "n classes"]:
    """Return logits without recording anything for gradients."""
    return subject(x)


def _lucky(subject: Subject, x: Tensor, luck: int = 0) -> Tensor:
    """Return logits with given luck, so that what is found of a random model can be found again."""
    with seeded(luck, subject.module, subject.device):
        return logits(subject, x)


def nonfinite_images(subject: Subject, x: Float32[Tensor, "n c h w"]) -> int:
    """Return how many images have a NaN or an infinity among their logits."""
    return _nonfinite(logits(subject, x))


def randomness(subject: Subject, x: Float32[Tensor, "n c h w"]) -> float:
    """Return how far the logits of two equal calls are apart, as a share of the largest |logit|.

    Returns:
        0 for a deterministic model, and infinity where a logit is finite in one of the calls alone.
    """
    return _apart(_lucky(subject, x, 0), _lucky(subject, x, 1))


def batch_dependence(subject: Subject, x: Float32[Tensor, "n c h w"]) -> float:
    """Return how far the logits of an image alone are from those in company, as a share of the largest |logit|.

    Args:
        subject: the model.
        x: images; the first four are also shown alone.

    Returns:
        About 1e-6 from the order of sums, 0.005 or more where the model mixes the images of a batch, and infinity
        where it rejects an image alone.
    """
    return _batch_dependence(subject, x, logits(subject, x))


def _batch_dependence(subject: Subject, x: Tensor, out: Tensor) -> float:
    together = out[:_ALONE]
    try:
        alone = torch.cat([logits(subject, x[i : i + 1]) for i in range(len(together))])
    except InputError:
        return math.inf
    return _apart(together, alone)


def probability_share(subject: Subject, x: Float32[Tensor, "n c h w"]) -> float:
    """Return the share of images whose outputs all lie in [0, 1] and sum to 1 within 1e-4."""
    return _probability_share(logits(subject, x))


def _nonfinite(out: Tensor) -> int:
    return int((~torch.isfinite(out)).any(1).sum())


def _probability_share(out: Tensor) -> float:
    inside = ((out >= 0) & (out <= 1)).all(1)
    return float((inside & ((out.sum(1) - 1).abs() < _SUM_TOLERANCE)).double().mean())


def _check_classes(subject: Subject, images: LabelledImages) -> None:
    if subject.classes != len(images.classes):
        raise InputError(
            f"the model {subject.name!r} has {subject.classes} classes where the data has {len(images.classes)}; "
            "choose the data it was made for, or change its last layer."
        )


def _apart(first: Tensor, second: Tensor) -> float:
    both_odd = ~torch.isfinite(first) & ~torch.isfinite(second)
    gap = (first.double() - second.double()).abs().nan_to_num(math.inf, math.inf)
    scale = float(first.double().nan_to_num(0, 0, 0).abs().max())
    return float(torch.where(both_odd, 0.0, gap).max()) / max(scale, 1e-12)


def _batch_evidence(apart: float) -> str:
    if math.isinf(apart):
        return "the model rejects an image alone, so its logits depend on the other images of the batch"
    return f"logits of an image alone differ from those in a batch by {apart:.1%} of the largest logit"
