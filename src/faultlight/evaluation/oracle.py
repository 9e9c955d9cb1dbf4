"""The model as attacks and the judge ask it: in pieces of one fixed shape, counted, remembered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from faultlight import rng
from faultlight.attacks._contract import LossFunction
from faultlight.errors import InputError
from faultlight.models.randomness import Luck, fingerprints
from faultlight.runtime import is_out_of_memory

Model = Callable[[Tensor], Tensor]

# Pixel values (n·c·h·w) in one piece on a CPU: small enough for the caches, large enough to keep the cores busy.
_PIECE_PIXELS = 1 << 18


def piece_rows(shape: tuple[int, ...], device: torch.device) -> int:
    """Return how many images go through the model at once; it depends on nothing but the image's shape and the device.

    The arithmetic of a matrix product depends on the shape of the whole batch, though not on a row's place in it. A
    fixed piece therefore makes every result independent of how many images are asked for at once.
    """
    pixels = torch.Size(shape).numel()
    rows: int = 1 << max(0, (_PIECE_PIXELS // pixels).bit_length() - 1)
    return min(max(rows, 32), 128) * (16 if device.type == "cuda" else 1)


@dataclass(frozen=True)
class Sampling:
    """What an answer is averaged over: the draws of a random model, and noise added to the pixels.

    Gradients are the mean of (1/k) Σ ∇L(f_j(x + σ·n_j)), with n_1 = 0 and f_j the model with the luck of draw j. The
    noise is a function of the point's bits and of j; the luck one of those of the whole piece that goes in at once.

    Source: Athalye et al. 2018, "Synthesizing robust adversarial examples" (expectation over transformation); Athalye,
    Carlini & Wagner 2018, "Obfuscated gradients give a false sense of security", §4.2.

    Args:
        draws: k; 1 asks once.
        noise: σ in pixel units; 0 adds none.
        module: the random model, whose own generators are seeded too; None where the model is a function of its input.
        key: of the noise and the luck.
    """

    draws: int = 1
    noise: float = 0.0
    module: nn.Module | None = None
    key: int = 0


ONCE = Sampling()


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
        sampling: what answers are averaged over.
    """

    model: Model
    rows: int
    sampling: Sampling = ONCE
    questions: list[Question] = field(default_factory=list)

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits of x without a gradient."""
        draws = self.sampling.draws if self.sampling.module is not None else 1
        logits = (
            torch.stack([self._evaluate(x, draw) for draw in range(draws)]).mean(0) if draws > 1 else self._evaluate(x)
        )
        self.questions.append(Question(x, logits, backward=False, draws=draws))
        return logits

    def differentiate(self, x: Tensor, function: LossFunction) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits, the function's values and its gradient by x; weights get no gradients."""
        draws = [self._draw(x, function, draw) for draw in range(self.sampling.draws)]
        logits, value, gradient = draws[0] if len(draws) == 1 else self._averaged(draws)
        self.questions.append(Question(x, logits, backward=True, draws=self.sampling.draws))
        return logits, value, gradient

    def forget(self) -> list[Question]:
        """Return what was asked since the last call, and forget it."""
        asked, self.questions = self.questions, []
        return asked

    def _evaluate(self, x: Tensor, draw: int = 0) -> Tensor:
        if self.sampling.module is None:
            return evaluate(self.model, x, self.rows)
        return evaluate(lambda piece: self._lucky(piece, draw), x, self.rows)

    def _draw(self, x: Tensor, function: LossFunction, draw: int) -> tuple[Tensor, Tensor, Tensor]:
        shifted = self._shifted(x, draw)
        parts = [self._differentiate(shifted[part], part, function, draw) for part in _pieces(len(x), self.rows)]
        logits, value, gradient = (torch.cat(group) for group in zip(*parts, strict=True))
        return logits, value, gradient

    def _averaged(self, draws: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
        logits, value, gradient = (torch.stack(group) for group in zip(*draws, strict=True))
        # Points beside x say where to go, not where x stands.
        here = slice(0, 1) if self.sampling.noise else slice(None)
        return logits[here].mean(0), value[here].mean(0), gradient.mean(0)

    def _shifted(self, x: Tensor, draw: int) -> Tensor:
        if draw == 0 or not self.sampling.noise:
            return x
        ids = torch.tensor(fingerprints(x), dtype=torch.int64, device=x.device)
        noise = rng.normal(self.sampling.key, ids, torch.full_like(ids, draw), tuple(x.shape[1:]))
        return x + self.sampling.noise * noise

    def _differentiate(
        self, x: Tensor, part: slice, function: LossFunction, draw: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        leaf = x.detach().requires_grad_()
        with torch.enable_grad(), full_precision():
            logits = self._traced(_fill(leaf, self.rows), draw)[: len(x)]
            value = function(logits, part)
            gradient = _gradient(value, leaf)
        # A pixel whose gradient is not a number stands still; it must not stop the others.
        useful = torch.zeros_like(x) if gradient is None else gradient.nan_to_num(0, 0, 0)
        return logits.detach(), value.detach(), useful

    def _traced(self, x: Tensor, draw: int) -> Tensor:
        """Return logits with their graph; without one where the model works only so, as what calls NumPy may."""
        try:
            return self._lucky(x, draw)
        except (RuntimeError, InputError) as error:
            if is_out_of_memory(error):
                raise
            with torch.no_grad():
                return self._lucky(x.detach(), draw)

    def _lucky(self, x: Tensor, draw: int) -> Tensor:
        """Return the model's logits, with the luck of a draw where it is random."""
        if self.sampling.module is None:
            return self.model(x)
        luck = Luck(self.sampling.module, x.device)
        with luck.kept():
            luck.seed(rng.key(self.sampling.key, draw, *fingerprints(x.detach())))
            return self.model(x)


def _gradient(value: Tensor, leaf: Tensor) -> Tensor | None:
    """Return the gradient; None where the model detaches its input, or where a function in it has no derivative.

    The checks report it, and the attack stands still.
    """
    if not value.requires_grad:
        return None
    try:
        return torch.autograd.grad(value.sum(), leaf, allow_unused=True)[0]
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        return None


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
