"""The subject: the model under test, seen as a pure function from pixels to logits."""

from __future__ import annotations

import copy
import hashlib
import inspect
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from faultlight.errors import InputError
from faultlight.runtime import is_out_of_memory

NOTE_TRAIN_MODE = "train-mode"

# What a model's forward raises when the pixels do not fit it; anything else is a defect and stays one.
_REJECTIONS = (RuntimeError, ValueError, TypeError, IndexError, AttributeError, AssertionError)
# Of torch's own modules, these alone behave differently in training mode.
_MODAL = (
    nn.modules.batchnorm._NormBase,
    nn.modules.dropout._DropoutNd,
    nn.RReLU,
    nn.MultiheadAttention,
    nn.TransformerEncoderLayer,
    nn.RNNBase,
)


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
        self.module = _frozen(module, name, device)
        self.classes = classes
        self.name = name
        self.device = torch.device(device)
        # The folder of the training run that it comes from, if any.
        self.folder: Path | None = None

    def __call__(self, x: Float32[Tensor, "n c h w"]) -> Float32[Tensor, "n classes"]:
        """Return the logits of pixels; gradients flow to x when x asks for them.

        Raises:
            InputError: the model rejects the shape, or its output is not (n, classes). Running out of memory is no
                such fault and stays the error it is.
        """
        try:
            logits = self.module(x)
        except _REJECTIONS as error:
            if is_out_of_memory(error) or isinstance(error, InputError):
                raise
            raise InputError(
                f"the model {self.name!r} cannot take images of shape {tuple(x.shape[1:])}: {_first_line(error)}; "
                "choose the data it was made for."
            ) from error
        if not isinstance(logits, Tensor) or logits.shape != (len(x), self.classes):
            found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise InputError(
                f"the model {self.name!r} gives {found} for {len(x)} images where ({len(x)}, {self.classes}) is due: "
                f"its classes must be those of the data; choose another data set or change its last layer."
            )
        return logits.float()

    def fingerprint(self) -> str:
        """Return a SHA-256 (hex) over the architecture and every parameter and buffer.

        The architecture is the module's text, without memory addresses, and the source of every class that is neither
        PyTorch's nor Faultlight's, so a changed `forward` in a user's file is another model.
        """
        digest = hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", repr(self.module)).encode())
        for source in _sources(self.module):
            digest.update(source.encode())
        for name, value in sorted(self.module.state_dict().items()):
            digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def _frozen(module: nn.Module, name: str, device: str | torch.device) -> nn.Module:
    try:
        twin = copy.deepcopy(module)
    except (RuntimeError, TypeError) as error:
        raise InputError(
            f"the model {name!r} cannot be copied, and the copy is what is tested: {_first_line(error)}; "
            "remove weight-norm hooks and open files from it first."
        ) from error
    return twin.to(device=device, dtype=torch.float32).eval().requires_grad_(False)


def _notes(module: nn.Module) -> tuple[Note, ...]:
    training = [child for child in module.modules() if child.training and _has_modes(child)]
    if not training:
        return ()
    evidence = f"the model came in training mode ({len(training)} modules); it was put into evaluation mode"
    return (Note(NOTE_TRAIN_MODE, evidence),)


def _has_modes(module: nn.Module) -> bool:
    home = type(module).__module__
    return isinstance(module, _MODAL) or not home.startswith(("torch.nn.modules.", "faultlight."))


def _sources(module: nn.Module) -> list[str]:
    kinds = {type(child) for child in module.modules()}
    foreign = [kind for kind in kinds if not kind.__module__.startswith(("torch.", "faultlight."))]
    return sorted(filter(None, map(_source, foreign)))


def _source(kind: type[nn.Module]) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):  # typed at a prompt: there is no file to read
        return ""


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
