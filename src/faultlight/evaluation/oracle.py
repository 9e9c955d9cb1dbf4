"""The model as attacks and the judge ask it: in pieces of one fixed shape, counted, remembered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from faultlight.attacks._contract import LossFunction

Model = Callable[[Tensor], Tensor]

# Pixel values (n·c·h·w) in one piece on a CPU: small enough for the caches, large enough to keep the cores busy.
_PIECE_PIXELS = 1 << 16


def piece_rows(shape: tuple[int, ...], device: torch.device) -> int:
    """Return how many images go through the model at once; it depends on nothing but the image's shape and the device.

    The arithmetic of a matrix product depends on the shape of the whole batch, though not on a row's place in it. A
    fixed piece therefore makes every result independent of how many images are asked for at once.
    """
    pixels = torch.Size(shape).numel()
    rows: int = 1 << max(0, (_PIECE_PIXELS // pixels).bit_length() - 1)
    return min(max(rows, 32), 128) * (16 if device.type == "cuda" else 1)


@dataclass(frozen=True)
class Question:
    """One thing an attack asked: the points, their logits, whether a backward pass was spent, and passes a point."""

    x: Tensor
    logits: Tensor
    backward: bool
    draws: int = 1


@dataclass
class RecordingOracle:
    """An `Oracle` over a model.

    Args:
        model: pixels to float32 logits.
        rows: images in one piece; a shorter piece is filled up with black images.
    """

    model: Model
    rows: int
    questions: list[Question] = field(default_factory=list)

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits of x without a gradient."""
        logits = evaluate(self.model, x, self.rows)
        self.questions.append(Question(x, logits, backward=False))
        return logits

    def differentiate(self, x: Tensor, function: LossFunction) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits, the function's values and its gradient by x; weights get no gradients."""
        parts = [self._differentiate(x[part], part, function) for part in _pieces(len(x), self.rows)]
        logits, value, gradient = (torch.cat(group) for group in zip(*parts, strict=True))
        self.questions.append(Question(x, logits, backward=True))
        return logits, value, gradient

    def forget(self) -> list[Question]:
        """Return what was asked since the last call, and forget it."""
        asked, self.questions = self.questions, []
        return asked

    def _differentiate(self, x: Tensor, part: slice, function: LossFunction) -> tuple[Tensor, Tensor, Tensor]:
        leaf = x.detach().requires_grad_()
        with torch.enable_grad(), full_precision():
            logits = self.model(_fill(leaf, self.rows))[: len(x)]
            value = function(logits, part)
            # A model that detaches its input gives no gradient at all; the checks report it, the attack stands still.
            (gradient,) = torch.autograd.grad(value.sum(), leaf, allow_unused=True) if value.requires_grad else (None,)
        # A pixel whose gradient is not a number stands still; it must not stop the others.
        useful = torch.zeros_like(x) if gradient is None else gradient.nan_to_num(0, 0, 0)
        return logits.detach(), value.detach(), useful


@contextmanager
def full_precision() -> Iterator[None]:
    """Keep float32 convolutions in float32 on CUDA, where PyTorch rounds them to TF32 unless told not to."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def evaluate(model: Model, x: Tensor, rows: int) -> Tensor:
    """Return the logits of x, computed in pieces of exactly `rows` images."""
    with torch.no_grad(), full_precision():
        return torch.cat([model(_fill(x[part], rows))[: part.stop - part.start] for part in _pieces(len(x), rows)])


def _fill(x: Tensor, rows: int) -> Tensor:
    return x if len(x) == rows else functional.pad(x, (0, 0) * 3 + (0, rows - len(x)))


def _pieces(count: int, rows: int) -> Iterator[slice]:
    for start in range(0, max(count, 1), rows):  # of no images, one empty piece: it tells the number of classes
        yield slice(start, min(start + rows, count))
