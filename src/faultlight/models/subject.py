"""The subject: the model under test, seen as a pure function from pixels to logits."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from faultlight.errors import InputError

NOTE_TRAIN_MODE = "train-mode"


@dataclass(frozen=True)
class Note:
    """Something seen while the model was wrapped that the checks will report."""

    check: str
    evidence: str


class Normalised(nn.Module):
    """A model behind its normalisation, so that pixels in [0, 1] go in: model((x − mean) / std)."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map pixels (n, c, h, w) in [0, 1] to logits (n, classes)."""
        logits: Tensor = self.model((x - self.mean) / self.std)
        return logits


class Subject:
    """A frozen, float32, evaluation-mode copy of a classifier.

    Args:
        module: pixels float32 (n, c, h, w) in [0, 1] in, logits (n, classes) out; normalisation lives inside.
        classes: the number of classes, checked against the output's width at the first call.
        name: how reports call the model.
        device: where it runs, such as "cpu" or "cuda".
    """

    def __init__(self, module: nn.Module, classes: int, name: str = "model", device: str | torch.device = "cpu"):
        self.notes = _notes(module)
        self.module = copy.deepcopy(module).to(device=device, dtype=torch.float32).eval().requires_grad_(False)
        self.classes = classes
        self.name = name
        self.device = torch.device(device)

    def __call__(self, x: Float32[Tensor, "n c h w"]) -> Float32[Tensor, "n classes"]:
        """Return the logits of pixels; gradients flow to x when x asks for them.

        Raises:
            InputError: the model rejects the shape, or its output is not (n, classes).
        """
        try:
            logits = self.module(x)
        except RuntimeError as error:
            raise InputError(f"the model {self.name!r} cannot take images of shape {tuple(x.shape[1:])}: {error}") from error
        if not isinstance(logits, Tensor) or logits.shape != (len(x), self.classes):
            found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise InputError(
                f"the model {self.name!r} gives {found} for {len(x)} images where ({len(x)}, {self.classes}) is due: "
                f"its classes must be those of the data; choose another data set or change its last layer."
            )
        return logits

    def fingerprint(self) -> str:
        """Return a SHA-256 (hex) over the architecture's text and every parameter and buffer."""
        digest = hashlib.sha256(repr(self.module).encode())
        for name, value in sorted(self.module.state_dict().items()):
            digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def _notes(module: nn.Module) -> tuple[Note, ...]:
    training = [name or type(module).__name__ for name, child in module.named_modules() if child.training]
    if not training:
        return ()
    return (Note(NOTE_TRAIN_MODE, f"the model came in training mode ({len(training)} modules); it was put into evaluation mode"),)
